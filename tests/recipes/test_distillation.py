"""Distillation: posteriors keep their peaks at every rate, a student that is its teacher has nothing to learn."""

from __future__ import annotations

import json
import shutil
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from redline.checkpoints.nar import load_nar
from redline.errors import ConfigError, DataError
from redline.train.data.batches import BatchSource
from redline.train.run import Materials, build
from redline_recipes.distillation.frame_store import FrameStore
from redline_recipes.distillation.objective import ONLY_TRAINING, DistillationOptions, posterior_divergence
from redline_recipes.distillation.stage import fit_maps
from redline_recipes.distillation.teacher import FramePosteriors, PosteriorStore, opened, opened_states, paced
from tests.corpus import silent, small_recipe

BLANK = 0
EXTENSION = "redline_recipes.tiny.extension"


def peaks(*labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """FramePosteriors [T, 2] of a teacher that is sure of these labels."""
    second = [1 if label == BLANK else BLANK for label in labels]
    return torch.tensor([labels, second]).T, torch.tensor([[0.9, 0.1]] * len(labels))


@pytest.mark.parametrize(
    ("frames", "length", "expected"),
    [
        ((0, 5, 0, 0, 6, 0), 3, [5, 0, 6]),  # a teacher with twice the frames: no peak is lost
        ((5, 0, 6), 6, [5, 5, 0, 0, 6, 6]),  # with half: one label lasts longer
        ((0, 5, 0, 6, 0), 5, [0, 5, 0, 6, 0]),
        ((0, 5, 0, 0, 6), 3, [0, 5, 6]),
    ],
)
def test_peaks_survive_another_rate(frames: tuple[int, ...], length: int, expected: list[int]) -> None:
    labels, probabilities = paced(*peaks(*frames), length, BLANK)
    assert labels[:, 0].tolist() == expected
    assert probabilities.shape == (length, 2)


def posteriors_of(logits: torch.Tensor, candidates: int) -> FramePosteriors:
    probabilities, labels = logits.softmax(dim=-1).topk(candidates, dim=-1)
    return FramePosteriors(labels, probabilities)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    logits, lengths = torch.randn(2, 7, 9), torch.tensor([7, 5])
    same = posterior_divergence(logits, lengths, posteriors_of(logits, 4), BLANK, 0.1)
    other = posterior_divergence(torch.randn(2, 7, 9), lengths, posteriors_of(logits, 4), BLANK, 0.1)
    assert same == pytest.approx(0.0, abs=1e-5) and other > 0.1


def test_all_labels_give_the_divergence_of_the_textbook() -> None:
    torch.manual_seed(1)
    student, teacher, lengths = torch.randn(1, 6, 5), torch.randn(1, 6, 5), torch.tensor([6])
    plain = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)[0]
    weights = 1.0 - teacher.softmax(-1)[0, :, BLANK]
    ours = posterior_divergence(student, lengths, posteriors_of(teacher, 5), BLANK, 0.0)
    assert ours == pytest.approx(float((plain * weights).sum() / weights.sum().clamp(min=1)), rel=1e-3)


def test_frames_without_a_teacher_and_padding_count_nothing() -> None:
    logits = torch.randn(2, 4, 6, requires_grad=True)
    teacher = posteriors_of(torch.randn(2, 4, 6), 3)
    teacher.probabilities[1] = 0.0
    posterior_divergence(logits, torch.tensor([3, 4]), teacher, BLANK, 0.1).backward()
    assert logits.grad is not None
    assert logits.grad[0, :3].abs().sum() > 0 and not logits.grad[0, 3].any() and not logits.grad[1].any()


def test_labels_that_a_student_has_no_row_for_are_left_to_the_rest() -> None:
    teacher = FramePosteriors(torch.tensor([[[300, 2]]]), torch.tensor([[[0.7, 0.2]]]))
    loss = posterior_divergence(torch.randn(1, 1, 6), torch.tensor([1]), teacher, BLANK, 0.1)
    assert torch.isfinite(loss) and loss >= 0


def test_a_store_gives_a_batch_at_the_pace_of_the_student(tmp_path: Path) -> None:
    store = PosteriorStore(tmp_path / "characters", 2, BLANK)
    logits = torch.full((4, 5), -5.0)
    logits[torch.arange(4), torch.tensor([0, 3, 0, 4])] = 5.0
    store.append("a", logits)
    batch = PosteriorStore(tmp_path / "characters", 2, BLANK).batch(["a", "unheard"], [2, 3])
    assert batch.labels[0, :2, 0].tolist() == [3, 4]
    assert not batch.probabilities[1].any()


def test_a_student_learns_from_any_checkpoint(corpus: Path, model: Path, tmp_path: Path) -> None:
    teaching = {
        "extension": EXTENSION,
        "init_from": str(model),
        "distillation": {"teacher": str(model), "candidates": 4},
        "spec_augment": {"time_warp_frames": 0},
    }
    recipe = small_recipe(teaching)
    build(recipe, Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)
    rows = [json.loads(line) for line in (tmp_path / "encoder" / "log.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert losses and all(row["teacher_characters"] >= 0 and row["teacher_tokens"] >= 0 for row in losses)
    assert set(opened(tmp_path / "teacher", 4, 0)) == {"characters", "tokens"}
    # What was computed is a teacher itself, without the checkpoint.
    again = small_recipe({**teaching, "distillation": {"teacher": str(tmp_path / "teacher"), "candidates": 4}})
    build(again, Materials(corpus, tmp_path / "again"), ("tokenizer", "encoder"), silent)


def test_a_teacher_of_other_tokens_teaches_characters_alone(corpus: Path, model: Path, tmp_path: Path) -> None:
    teaching = {
        "extension": EXTENSION,
        "distillation": {"teacher": str(model)},
        "spec_augment": {"time_warp_frames": 0},
    }
    build(small_recipe({**teaching, "vocab_size": 264}), Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)
    log = (tmp_path / "encoder" / "log.jsonl").read_text()
    assert "teacher_characters" in log and "teacher_tokens" not in log


def test_a_student_is_drawn_to_states_and_the_editor_goes_on(corpus: Path, tmp_path: Path) -> None:
    rows = [row for row in map(json.loads, corpus.read_text().splitlines()) if row["split"] == "train"]
    store = FrameStore(tmp_path / "teacher" / "states-1", 6, torch.float16)
    for row in rows[1:]:  # of the first one it knows nothing
        store.append(row["id"], torch.randn(round(row["duration"] * 30), 6))
    teaching = {"teacher": str(tmp_path / "teacher"), "state_blocks": [2]}
    recipe = small_recipe({"extension": EXTENSION, "distillation": teaching, "spec_augment": {"time_warp_frames": 0}})
    build(recipe, Materials(corpus, tmp_path / "run"), ("tokenizer", "encoder"), silent)
    shutil.rmtree(tmp_path / "teacher")  # what has been learned needs no teacher
    build(recipe, Materials(corpus, tmp_path / "run"), ("draft_lm", "lm", "editor", "export"), silent)
    log = [json.loads(line) for line in (tmp_path / "run" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert all(0 < row["teacher_states_1"] < 10 for row in log if "loss" in row)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_maps_learn_before_the_encoder_is_drawn_by_them(corpus: Path, tmp_path: Path) -> None:
    rows = [row for row in map(json.loads, corpus.read_text().splitlines()) if row["split"] == "train"]
    store = FrameStore(tmp_path / "teacher" / "states-1", 6, torch.float16)
    for row in rows:
        store.append(row["id"], torch.randn(round(row["duration"] * 30), 6))
    teaching = {"teacher": str(tmp_path / "teacher"), "state_blocks": [2], "map_steps": 3}
    recipe = small_recipe({"extension": EXTENSION, "distillation": teaching, "spec_augment": {"time_warp_frames": 0}})
    run = recipe.run(Materials(corpus, tmp_path / "run"), silent)
    run.make_tokenizer()
    objective = run.encoder_objective(run.model())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    said: list[str] = []
    source = BatchSource(run.train_set, run.views[0], recipe.encoder_batches, None)
    fit_maps(objective, chain.from_iterable(repeat(list(source.epoch(0)), 3)), False, said.append)
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(ONLY_TRAINING) for name in changed)
    assert "not explained" in said[0] and objective.encoder.training
    build(recipe, Materials(corpus, tmp_path / "whole"), ("tokenizer", "encoder"), said.append)
    assert sum("maps to the teacher's states" in line for line in said) == 2
    build(recipe, Materials(corpus, tmp_path / "whole"), ("encoder",), said.append)  # what goes on has its maps
    assert sum("maps to the teacher's states" in line for line in said) == 2


def test_an_encoder_goes_on_and_the_editor_of_its_model_stays(corpus: Path, model: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
        {
            "extension": EXTENSION,
            "init_from": str(model),
            "edit": {"lora_rank": 0},
            **{name: {"steps": 0} for name in ("lm_training", "editor_training")},
        },
    )
    build(recipe, Materials(corpus, tmp_path / "run"), (), silent)
    before, after = (load_nar(folder)[0].state_dict() for folder in (model, tmp_path / "run" / "model"))
    changed = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"encoder"}


def test_states_are_scaled_and_keep_their_place(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "states-1", 1, torch.float16)
    store.append("a", torch.arange(4.0)[:, None] * 100)
    (states,) = opened_states(tmp_path)
    batch, known_frames = states.batch(["a", "unheard"], [8, 5])
    assert known_frames.sum(dim=1).tolist() == [8, 0]
    assert batch[0, :, 0].diff().min() >= 0 and abs(float(batch[0].mean())) < 0.01


def test_more_blocks_than_states_are_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    teaching = {"teacher": str(model), "state_blocks": [1]}
    recipe = small_recipe({"extension": EXTENSION, "distillation": teaching, "spec_augment": {"time_warp_frames": 0}})
    with pytest.raises(ConfigError, match="states of 0"):
        build(recipe, Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)


def test_an_empty_folder_of_posteriors_is_refused(tmp_path: Path) -> None:
    PosteriorStore(tmp_path / "characters", 4, BLANK)
    with pytest.raises(DataError, match="no utterances"):
        opened(tmp_path, 4, BLANK)


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="blank_weight"):
        DistillationOptions(blank_weight=-1.0)


def test_features_that_are_warped_in_time_have_no_teacher(corpus: Path, model: Path, tmp_path: Path) -> None:
    recipe = small_recipe({"extension": EXTENSION, "distillation": {"teacher": str(model)}})
    with pytest.raises(ConfigError, match="time_warp_frames"):
        build(recipe, Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)
