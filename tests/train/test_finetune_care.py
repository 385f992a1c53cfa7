"""Training that goes wrong says so and keeps the best weights; no row's sound ever meets the text of another."""

from __future__ import annotations

import json
import math
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from redline.checkpoints import nar
from redline.cli.main import app
from redline.errors import ConfigError, DataError, DivergedError, RedlineError
from redline.manifest import Utterance, read_manifest
from redline.train.data.batches import AugmentOptions, build_view
from redline.train.data.feature_cache import make_views, measured
from redline.train.data.rows import taught, told_apart
from redline.train.finetune import FinetuneOptions, finetune
from redline.train.loop import checkpointing
from redline.train.loop.checkpointing import BEST, STATE, read_metadata
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.run_record import RUN_RECORD
from redline.train.loop.stage import rates
from redline.train.nar import Materials, build
from redline.train.recipe import Recipe
from tests.corpus import make_corpus, silent, small_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    build(small_recipe(steps=1), Materials(data, out), ("tokenizer", "encoder", "editor", "export"), silent)
    return out / "model"


class Line:
    """A stage of one weight: its scores are given, and its loss is no number from some step on."""

    name = "line"

    def __init__(self, scores: list[float], bad_from: int = 10**6) -> None:
        self.objective = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.objective.weight, 1.0)
        self.objective.forward = self.loss  # type: ignore[method-assign]
        self.scores, self.bad_from, self.seen = iter(scores), bad_from, 0

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.seen += 1
        factor = math.nan if self.seen >= self.bad_from else 1.0
        return (self.objective.weight * batch).sum() * factor, {}

    def batches(self, epoch: int, skip: int) -> list[torch.Tensor]:
        return [torch.ones(1, 1)] * (50 - skip)

    def seconds(self, batch: torch.Tensor) -> float:
        return 1.0

    def evaluate(self) -> dict[str, float]:
        return {"wer": next(self.scores)}


def run(stage: Line, folder: Path, **options: Any) -> list[str]:
    """Train a stage; returns what was said."""
    said: list[str] = []
    chosen = {"steps": 20, "evaluate_every": 5, "log_every": 5, "precision": "no", "warmup_steps": 1, **options}
    fit(stage, TrainingOptions(**chosen), folder, said.append)  # type: ignore[arg-type]
    return said


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_weights(tmp_path: Path) -> None:
    stage = Line([5.0, 3.0, 4.0], bad_from=13)
    with pytest.raises(DivergedError, match=r"step 13.*learning rate.*those of step 5, the best so far"):
        run(stage, tmp_path, keep_best="wer")
    assert torch.isfinite(stage.objective.weight).all()
    assert read_metadata(tmp_path / BEST) == {"step": 5, "wer": 3.0} and not (tmp_path / STATE).exists()
    again = Line([5.0], bad_from=1)
    with pytest.raises(DivergedError, match="step 13"):
        run(again, tmp_path, keep_best="wer")
    assert again.seen == 0, "the same command learns nothing more"


def test_a_gradient_that_is_no_number_changes_no_weight(tmp_path: Path) -> None:
    stage = Line([])
    stage.objective.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="step 1"):
        run(stage, tmp_path, evaluate_every=99, steps=30)
    assert stage.objective.weight.item() == 1.0


def test_the_weights_it_began_with_are_a_candidate_for_the_best(tmp_path: Path) -> None:
    stage = Line([1.0, 2.0, 3.0, 4.0, 5.0])
    run(stage, tmp_path, keep_best="wer")
    assert stage.objective.weight.item() == 1.0 and read_metadata(tmp_path / BEST)["step"] == 0


@pytest.mark.parametrize("patience", [0, 2])
def test_a_finished_run_trains_nothing_more(tmp_path: Path, patience: int) -> None:
    run(Line([3.0, 4.0, 5.0, 6.0, 7.0]), tmp_path, keep_best="wer", patience=patience)
    state = (tmp_path / STATE).read_bytes()
    again = Line([3.0] * 9)
    assert any("nothing is left to train" in line for line in run(again, tmp_path, keep_best="wer", patience=patience))
    assert again.seen == 0 and (tmp_path / STATE).read_bytes() == state


def test_settings_that_changed_on_the_way_are_told(tmp_path: Path) -> None:
    run(Line([1.0] * 9), tmp_path, lr=1e-3)
    said = run(Line([1.0] * 9), tmp_path, steps=25, lr=1e-2)
    assert any("other settings: steps 25 instead of 20, lr 0.01 instead of 0.001" in line for line in said)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_keeps_the_last_state_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run(Line([2.0] * 9), tmp_path, steps=10, keep_best="wer")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(DataError, match=r"disk is full.*the state of step 10 is kept.*same command"):
        run(Line([2.0] * 9), tmp_path, steps=15, keep_best="wer")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert not list(tmp_path.rglob("*partial*"))
    monkeypatch.undo()
    assert any("going on from step 10" in line for line in run(Line([2.0] * 9), tmp_path, steps=15, keep_best="wer"))


def test_numbers_that_mean_nothing_are_refused() -> None:
    for name, values in {
        "lr": (-1.0, 0.0, math.nan, math.inf),
        "passes": (0.0, -1.0, math.nan, math.inf),
        "steps": (0, -3),
        "batch_s": (0.0, -1.0),
        "lora_rank": (-1,),
        "blend": (0.0, 1.5, math.nan),
    }.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"{name} is .*allowed"):
                FinetuneOptions(**{name: value})
    for name in ("lr", "warmup_steps", "decay_share", "floor", "weight_decay", "clip", "average_decay"):
        for value in (-1.0, math.nan, math.inf):
            with pytest.raises(ConfigError, match=f"{name} is"):
                TrainingOptions(**{name: value})


def test_a_recipe_has_the_kinds_of_values_that_are_meant() -> None:
    for values, message in (
        ({"encoder_training": {"lr": "fast"}}, "lr is 'fast'; it is a number"),
        ({"encoder_training": {"lr": math.inf}}, "lr is inf"),
        ({"encoder_training": {"steps": 1.5}}, "steps is 1.5; it is a whole number"),
        ({"encoder_training": 5}, "it is a section"),
        ({"letters": 5}, "letters is 5; it is a text"),
        ({"augment": {"recorded_view": 1}}, "true or false"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recipe.from_dict(values)


def test_a_run_goes_on_only_with_the_settings_and_data_it_began_with(data: Path, model: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(steps=2, batch_s=8, lr=1e-3, text="spoken")
    finetune(model, data, tmp_path, options, silent)
    with pytest.raises(ConfigError, match=r"began with lr 0\.001 \(now 0\.01\).*another --out"):
        finetune(model, data, tmp_path, replace(options, lr=1e-2), silent)
    said: list[str] = []
    finetune(model, data, tmp_path, replace(options, steps=3), said.append)
    assert any("steps 3 instead of 2" in line for line in said), "more steps are welcome"
    fewer = data.with_name("fewer.jsonl")
    fewer.write_text("\n".join(data.read_text().splitlines()[3:]))
    with pytest.raises(DataError, match=r"other data \(train: 20 utterances then, 17 now\)"):
        finetune(model, fewer, tmp_path, replace(options, steps=3), silent)


def test_the_model_holds_what_made_it_and_no_path_of_this_machine(data: Path, model: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(steps=2, batch_s=8, lr=1e-3, text="spoken", noise_dir=None)
    target = finetune(model, data, tmp_path, options, silent)
    text = (target / RUN_RECORD).read_text()
    found = json.loads(text)
    assert found["settings"]["lr"] == 1e-3 and found["plan"]["steps"] == 2 and "edited_wer" in found["best"]
    assert found["data"]["train"]["utterances"] == 20 and found["data"]["dev"]["speakers"] == 3
    assert found["data"]["train"]["hours_by_language"].keys() == {"en"} and found["versions"]["torch"]
    assert str(tmp_path) not in text and str(data.parent) not in text and "THE" not in text
    assert nar.load(target)[1].languages == ("en",), "and it loads"
    assert json.loads((model / RUN_RECORD).read_text())["command"] == "train"


def test_a_diverged_run_exits_with_1_and_leaves_a_model(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redline.train.objectives import nar as objective

    monkeypatch.setattr(objective, "nle_loss", lambda *a: a[0].sum() * math.nan)
    arguments = ["finetune", "--data", str(data), "--model", str(model), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--steps", "2", "--text", "spoken"])
    assert (
        result.exit_code == 1 and "is no number at step 1" in result.stderr and "lower learning rate" in result.stderr
    )
    new, old = (nar.load(folder)[0].state_dict() for folder in (tmp_path / "run" / "model", model))
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_where_nothing_can_be_written_is_said_before_the_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [(str(tmp_path / "file"), "is no folder"), ("/proc/nowhere/run", "another --out")]
    for out, message in [*places, (str(tmp_path / "file" / "run"), "another --out")]:
        for verb in (["finetune", "--model", "tiny"], ["train", "tiny"]):
            result = CliRunner().invoke(app, [*verb, "--data", str(data), "--out", out])
            assert result.exit_code == 2 and message in result.output, (out, verb, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("more", ["--lr -1", "--lr nan", "--lr inf", "--passes 0", "--blend 2"])
def test_options_that_mean_nothing_are_refused_before_anything_is_heard(data: Path, tmp_path: Path, more: str) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["finetune", "--data", str(data), "--out", str(out), *more.split()])
    assert result.exit_code == 2 and "allowed" in result.output and not out.exists()


def tone(path: Path, seconds: float, hertz: float) -> Path:
    path = path.with_suffix(".wav")
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000), 16_000)
    return path


def test_a_rows_sound_never_meets_the_text_of_another_with_its_id(tmp_path: Path) -> None:
    low, high = tone(tmp_path / "low.wav", 0.5, 200), tone(tmp_path / "high.wav", 0.5, 2000)
    rows = [Utterance("x", low, "LOW", 0.5), Utterance("x", high, "HIGH", 0.5), Utterance("x#2", low, "ALSO LOW", 0.5)]
    apart = told_apart(rows)
    assert len({row.id for row in apart}) == 3 and apart[0].id == "x"
    view = build_view(apart, 0, AugmentOptions(), tmp_path / "views")
    one, two, three = (view[row.id] for row in apart)
    assert torch.equal(one, three) and not torch.equal(one, two)
    # The same rows, cut elsewhere or with another recording in the file, are not what was measured before.
    moved = [replace(row, start=0.2, end=0.5) for row in apart]
    assert len(build_view(moved, 0, AugmentOptions(), tmp_path / "views")[apart[0].id]) < len(one)
    tone(low, 0.5, 900)
    assert not torch.equal(build_view(apart, 0, AugmentOptions(), tmp_path / "views")[apart[0].id], one)


def test_rows_that_share_an_id_or_have_no_text_are_told(data: Path, model: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"id": "same"} for line in data.read_text().splitlines()]
    rows += [rows[0] | {"text": ""}, rows[0] | {"text": "..."}]
    shared = data.with_name("shared.jsonl")
    shared.write_text("\n".join(map(json.dumps, rows)))
    said: list[str] = []
    finetune(model, shared, tmp_path, FinetuneOptions(steps=1, batch_s=8, text="spoken"), said.append)
    told = "\n".join(said)
    assert "25 rows have the id of another" in told and "1 of 26 rows have no text" in told
    assert "1 of 25 rows have no words that are spoken" in told and "20 utterances, " in told
    assert "only 4 utterances with" in told and "points (95 %)" in told


def test_the_length_of_a_row_is_that_of_its_sound(tmp_path: Path) -> None:
    rows = [
        Utterance("a", tone(tmp_path / "a.wav", 1.0, 300), "A", 10.0),
        Utterance("b", tone(tmp_path / "b.wav", 1.0, 300), "B", 0.1),
    ]
    view = build_view(rows, 0, AugmentOptions(), tmp_path / "views")
    assert len(view["a"]) == len(view["b"]) == 50, "all of the recording is heard, whatever the row claims"
    said: list[str] = []
    assert [row.duration for row in measured(rows, view, said.append)] == [1.0, 1.0]
    assert "2 rows claim another duration" in said[0] and "a: 10 s claimed, 1.0 s heard" in said[0]


def test_a_missing_recording_is_told_once_and_many_are_counted(tmp_path: Path) -> None:
    there = [Utterance("there", tone(tmp_path / "a.wav", 1.0, 300), "A", 1.0)]
    rows = there + [Utterance(f"no{n}", tmp_path / f"no{n}.wav", "A", 1.0) for n in range(14)]
    said: list[str] = []
    make_views(rows, there, AugmentOptions(views=3), tmp_path / "views", said.append)
    assert len([line for line in said if "no such file" in line]) == 10 and len(set(said)) == len(said)
    assert "4 more recordings" in said[-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"start": 3, "end": 2', "end is 2, which is not after start, 3"),
        ('"start": 3, "end": 3', "end is 3, which is not after start, 3"),
        ('"start": -1', "start is -1; seconds count from 0"),
        ('"duration": -2', "duration is -2; seconds count from 0"),
        ('"duration": Infinity', "duration is Infinity; numbers of a manifest are finite"),
        ('"duration": 1e999', "duration is Infinity"),
        ('"start": NaN', "start is NaN"),
        ('"words": [{"start": 0, "end": -Infinity, "text": "a"}]', r"words\[0\]\.end is -Infinity"),
        ('"text": ["a"]', r'text is \["a"\]; it is a text in quotes'),
        ('"keywords": 5', "keywords is 5; give a list of texts"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_line_and_field(tmp_path: Path, fields: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "text": "A", "duration": 1}\n{"audio": "b.wav", ' + fields + "}\n")
    with pytest.raises(DataError, match=rf"m\.jsonl:2: {message}"):
        read_manifest(path)


def test_rows_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "b.wav", "text": "A", "start": 2, "duration": 3, "keywords": "cortado, flat white"}\n')
    (row,) = taught(path)
    assert (row.start, row.end, row.duration) == (2, 5, 3) and row.keywords == ("cortado", "flat white")


def test_watched_scores_know_no_case_and_no_marks() -> None:
    assert rates(["HELLO, THERE!"], ["hello there"], ["en"]) == (0.0, 0.0)
    assert rates(["GRÜSS GOTT", "..."], ["grüss gott", "x"], ["de", "de"]) == (0.0, 0.0), (
        "an empty reference is left out"
    )
    assert rates(["..."], ["x"], ["en"]) == (100.0, 100.0)


class FakeWriter:
    """What `torch.utils.tensorboard.SummaryWriter` is asked to write."""

    rows: list[tuple[str, float, int]]

    def __init__(self, folder: str) -> None:
        FakeWriter.rows, FakeWriter.folder = [], folder  # type: ignore[attr-defined]

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))

    def flush(self) -> None:
        pass

    close = flush


def test_tensorboard_gets_every_number_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(SummaryWriter=FakeWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(Line([3.0, 2.0, 2.0]), tmp_path, steps=10, keep_best="wer", tensorboard=True)
    names = {(name, step) for name, _, step in FakeWriter.rows}
    assert {("dev/wer", 0), ("dev/wer", 10), ("train/loss", 5), ("train/lr", 10)} <= names
    assert FakeWriter.folder == str(tmp_path / "tensorboard")  # type: ignore[attr-defined]


def test_a_missing_tensorboard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RedlineError, match=r"pip install 'redline\[tensorboard\]'"):
        run(Line([3.0] * 9), tmp_path, tensorboard=True)


def test_a_disk_that_fills_at_the_end_leaves_no_half_model(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FinetuneOptions(steps=1, batch_s=8, text="spoken")

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(nar, "save", full)
        with pytest.raises(DataError, match=r"disk is full.*best weights are kept.*same command"):
            finetune(model, data, tmp_path, options, silent)
    assert (finetune(model, data, tmp_path, options, silent) / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "model")
