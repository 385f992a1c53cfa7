"""Training: data, losses and a whole small run, resumed and exported."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lhotse")
pytest.importorskip("accelerate")


from redline.checkpoints import nar
from redline.checkpoints.draft_lm import DRAFT_LM, load_draft_lm
from redline.decoding.ctc_beam import BeamOptions
from redline.decoding.slots import slot_batch, with_slots
from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM, Rule, clip_features
from redline.models.config import LMConfig
from redline.models.granite import GraniteLM
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import AugmentOptions, BatchOptions, BatchSource, build_view, spoken, taught
from redline.train.data.bpe import END
from redline.train.dialogue import samples_of
from redline.train.nar import Materials, build
from redline.train.objectives.losses import consistency_loss, ctc_loss, nle_loss
from redline.train.objectives.nar import EditOptions, merge_adapters, with_adapters
from redline.train.objectives.ngram import NgramOptions
from redline.train.recipe import Recipe
from redline.train.splice import SpliceOptions
from redline.train.states import StateOptions
from tests.corpus import WORDS, silent, small_recipe, tokenizer_of


def test_a_recipe_makes_a_checkpoint_that_loads(corpus: Path, books: Path, tmp_path: Path) -> None:
    build(
        small_recipe(), Materials(corpus, tmp_path, books), ("tokenizer", "encoder", "lm", "editor", "export"), silent
    )
    model, config, _ = nar.load_nar(tmp_path / "model")
    assert config.languages == ("en",)
    assert config.encoder.subsample_layers == (1,)
    logits = model(torch.randn(1, 60, FEATURE_DIM), torch.tensor([60]), *slot_batch([[]], config.blank_token_id))
    assert logits.shape == (1, 8, config.text.vocab_size)
    for stage in ("encoder", "lm", "editor"):
        rows = [json.loads(line) for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        assert any("loss" in row for row in rows) and any("loss" not in row for row in rows)
        assert (tmp_path / stage / "log.png").stat().st_size > 1000


@pytest.mark.parametrize("draft_lm", [False, True])
def test_an_editor_learns_from_states_on_disk(corpus: Path, books: Path, tmp_path: Path, draft_lm: bool) -> None:
    recipe = replace(
        small_recipe(),
        draft_lm=NgramOptions(order=3, held_out=2) if draft_lm else NgramOptions(order=0),
        states=StateOptions(renderings=2, least_score=-100.0),
        splice=SpliceOptions(words=(2, 4), batch_s=4, text_batch_s=8, text_share=0.5, epoch_batches=6),
    )
    materials = Materials(corpus, tmp_path, books)
    build(recipe, materials, ("tokenizer", "encoder", "draft_lm", "editor", "export"), silent)
    _, config, folder = nar.load_nar(tmp_path / "model")
    assert (folder / DRAFT_LM).exists() == draft_lm
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    if draft_lm:
        tuned = replace(recipe, draft_search=BeamOptions(width=3, keep_bias=2.0))
        build(tuned, materials, ("export",), silent)
        assert load_draft_lm(folder / DRAFT_LM, config.text.vocab_size).options == tuned.draft_search
    longer = replace(recipe, editor_training=replace(recipe.editor_training, steps=6))
    said: list[str] = []
    build(longer, materials, ("editor",), said.append)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    assert any("going on from step 4 of 6" in line for line in said)
    warped = replace(recipe, state_augment=SpecAugmentOptions(time_warp_frames=80))
    with pytest.raises(DataError, match="time_warp_frames must be 0"):
        build(warped, materials, ("editor",), silent)


def test_two_hearings_of_an_utterance_are_drawn_together(corpus: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    recipe = replace(
        recipe,
        encoder_loss=replace(recipe.encoder_loss, consistency=0.2),
        encoder_batches=replace(recipe.encoder_batches, augment_from_epoch=0),
        spec_augment=SpecAugmentOptions(),
    )
    build(recipe, Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)
    rows = [json.loads(line) for line in (tmp_path / "encoder" / "log.jsonl").read_text().splitlines()]
    assert all(row["apart"] > 0 for row in rows if "loss" in row)
    views = [build_view(taught(corpus, split="train"), 0, AugmentOptions(), tmp_path / "views")]
    for twins in (False, True):
        options = BatchOptions(augment_from_epoch=0)
        source = BatchSource(taught(corpus, split="train"), views, options, SpecAugmentOptions(), twins=twins)
        batch = next(iter(source.epoch(3)))
        half = len(batch.texts) // 2
        assert batch.twins == twins and (batch.ids[:half] == batch.ids[half:]) == twins


def test_consistency_is_nothing_between_equals_and_moves_each_to_the_other() -> None:
    logits = torch.randn(2, 5, 4)
    assert consistency_loss(torch.cat((logits, logits)), torch.tensor([5, 3, 5, 3]), 7) == pytest.approx(0.0, abs=1e-6)
    pair = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]]], requires_grad=True)
    loss = consistency_loss(pair, torch.tensor([1, 1]), 1)
    p, q = (row[0].softmax(-1) for row in pair.detach())
    assert loss.item() == pytest.approx(float((q * (q / p).log()).sum() + (p * (p / q).log()).sum()), abs=1e-5)
    loss.backward()
    assert pair.grad is not None and pair.grad[0, 0, 1] < 0 < pair.grad[0, 0, 0] and pair.grad[1, 0, 0] < 0
    beyond = torch.randn(2, 4, 3)
    short = consistency_loss(beyond, torch.tensor([2, 2]), 3)
    torch.testing.assert_close(short, consistency_loss(beyond[:, :2], torch.tensor([2, 2]), 3))


def test_ctc_loss_prefers_the_spelled_target() -> None:
    logits = torch.full((1, 6, 4), -5.0)
    for step, label in enumerate([1, 0, 2, 0, 3, 0]):
        logits[0, step, label] = 5.0
    lengths = torch.tensor([6])
    right, wrong = (ctc_loss(logits, lengths, [target], 0) for target in ([1, 2, 3], [3, 2, 1]))
    assert right < 0.01 < wrong


def test_ctc_loss_ignores_padding() -> None:
    logits = torch.randn(2, 9, 5)
    lengths = torch.tensor([9, 5])
    before = ctc_loss(logits, lengths, [[1, 2], [3]], 0)
    logits[1, 5:] = 100.0
    torch.testing.assert_close(ctc_loss(logits, lengths, [[1, 2], [3]], 0), before)


def test_nle_loss_is_smallest_for_the_reference_and_likes_the_draft() -> None:
    blank, draft, target = 5, [1, 2], [1, 3]
    slots = torch.tensor([with_slots(draft, blank)])
    lengths = torch.tensor([slots.shape[1]])

    def logits(path: list[int]) -> torch.Tensor:
        rows = torch.full((1, slots.shape[1], 6), -8.0)
        for slot, label in enumerate(path):
            rows[0, slot, label] = 8.0
        return rows

    corrected = [5, 1, 5, 3, 5, 5, 5, 5]
    copied = slots[0].tolist()
    assert nle_loss(logits(corrected), slots, lengths, [target], blank) < nle_loss(
        logits(copied), slots, lengths, [target], blank
    )
    # Between two spellings of the same text, the copy term prefers the one nearer to the input.
    moved = [5, 5, 1, 3, 5, 5, 5, 5]
    assert nle_loss(logits(corrected), slots, lengths, [target], blank) < nle_loss(
        logits(moved), slots, lengths, [target], blank
    )


def test_batches_of_an_epoch_can_be_resumed_anywhere(corpus: Path, tmp_path: Path) -> None:
    rows = taught(corpus, split="train")
    view = build_view(rows, 0, AugmentOptions(), tmp_path)
    source = BatchSource(rows, [view], BatchOptions(batch_s=4, buckets=2, curriculum=()), SpecAugmentOptions())
    whole = list(source.epoch(3))
    rest = list(source.epoch(3, skip=2))
    assert [batch.ids for batch in whole[2:]] == [batch.ids for batch in rest]
    assert sorted(identity for batch in whole for identity in batch.ids) == sorted(row.id for row in rows)
    for one, two in zip(whole[2:], rest, strict=True):
        torch.testing.assert_close(one.features, two.features, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["nar", "native", "ar"])
def test_a_model_learns_from_the_features_that_it_will_hear(corpus: Path, tmp_path: Path, rule: Rule) -> None:
    rows = taught(corpus, split="train")[:3]
    others = [build_view(rows, 0, AugmentOptions(), tmp_path, rule=other) for other in ("nar", "native", "ar")]
    view = build_view(rows, 0, AugmentOptions(), tmp_path, rule=rule)
    for row in rows:
        wanted = clip_features(samples_of(row), rule)
        assert view[row.id].shape == wanted.shape
        torch.testing.assert_close(view[row.id], wanted, rtol=0, atol=1e-3)  # half precision on disk
    assert len({str(other.frames.filename) for other in others}) == 3, "a view of another rule was opened"


def test_the_first_epoch_takes_the_shortest_utterances(corpus: Path, tmp_path: Path) -> None:
    rows = taught(corpus, split="train")
    view = build_view(rows, 0, AugmentOptions(), tmp_path)
    source = BatchSource(rows, [view], BatchOptions(batch_s=4, buckets=2, curriculum=(0.3,)), None)
    first = {identity for batch in source.epoch(0) for identity in batch.ids}
    assert first == {row.id for row in sorted(rows, key=lambda row: row.duration)[: round(0.3 * len(rows))]}


def test_a_bad_manifest_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "text": "A", "duration": 1}\n{"audio": "b.wav", "end": "x"}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:2: start, end and duration are seconds"):
        taught(path)
    path.write_text('{"audio": "a.wav", "text": "A", "duration": 1}\n{"audio": "b.wav", "text": "B"}\n')
    with pytest.raises(DataError, match=r"1 rows have no duration, first b\.wav"):
        taught(path)


def test_an_unreadable_recording_is_left_out_and_named(corpus: Path, tmp_path: Path) -> None:
    rows = taught(corpus, split="train")
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    bad = [replace(rows[0], id="x", audio=tmp_path / "broken.wav"), replace(rows[0], id="y", audio=tmp_path / "no.wav")]
    reasons: list[str] = []
    view = build_view([*bad, *rows], 0, AugmentOptions(), tmp_path / "cache", skipped=reasons.append)
    assert set(view.offsets) == {row.id for row in rows}
    assert "broken.wav" in reasons[0] and "no such file" in reasons[1]


def test_a_missing_manifest_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        taught(tmp_path / "nothing.jsonl")


def test_training_without_a_dev_split_says_so(corpus: Path, tmp_path: Path) -> None:
    path = corpus.parent / "only-train.jsonl"
    path.write_text("\n".join(line for line in corpus.read_text().splitlines() if '"train"' in line), encoding="utf-8")
    with pytest.raises(DataError, match="split 'dev'"):
        build(small_recipe(), Materials(path, tmp_path), ("tokenizer",), silent)


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


def test_unknown_recipe_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_dimension"):
        small = Recipe.from_dict({"encoder": {"hidden_dimension": 3}})
        small.config(tokenizer_of(["a b"]))
    with pytest.raises(ConfigError, match="encoder_steps"):
        Recipe.from_dict({"encoder_steps": 3})
    with pytest.raises(ConfigError, match="no such recipe"):
        Recipe.read("does-not-exist")


@pytest.mark.parametrize("name", ["tiny", "tiny-multi"])
def test_the_bundled_recipes_are_valid(name: str) -> None:
    recipe = Recipe.read(name)
    config = recipe.config(tokenizer_of(WORDS))
    assert config.encoder.subsampling == 2 and config.languages == recipe.languages


def test_a_trained_tokenizer_loses_no_text() -> None:
    tokenizer = tokenizer_of(WORDS * 20)
    for text in ("the cat", "zebra \u00e9t\u00e9", "tab\tand 123", END):
        assert tokenizer.decode(tokenizer.encode(text)).strip() == text
        assert not tokenizer.special_ids & set(tokenizer.encode(text))


def test_spoken_text_is_lower_case_words() -> None:
    assert spoken("\u201cDON\u2019T stop,\u201d he said -- 'no' \u2013 caf\u00e9!") == "don't stop he said no cafe"
    assert spoken("...") == ""
    assert spoken("na\u00efve \u00c7a") == "naive ca", "an accent inside a word is no gap"


def test_merged_adapters_equal_adapters() -> None:
    torch.manual_seed(0)
    config = LMConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    plain = GraniteLM(config).eval()
    names = set(plain.state_dict())
    model = with_adapters(plain, EditOptions(lora_rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    expected = model(ids, lengths, causal=False)
    merge_adapters(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(ids, lengths, causal=False), expected, rtol=1e-4, atol=1e-5)
