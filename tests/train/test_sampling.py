"""What an epoch is made of: sources in proportion, clips left out, languages side by side."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from redline.checkpoints import nar
from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM
from redline.manifest import Utterance
from redline.train.data import batches as data
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import BatchSource, SpeechBatchOptions, balanced, hours_of, shares
from redline.train.data.feature_cache import AugmentOptions, FeatureCache, build_feature_cache
from redline.train.recipe import recipe_from_dict
from redline.train.run import Materials, build
from tests.corpus import make_corpus, silent, small_recipe

SECONDS = {"large": 900.0, "middle": 90.0, "small": 10.0}


def utterances() -> list[Utterance]:
    """Three sources of utterances of 1 to 4 seconds; the middle one is known by its language alone."""
    rows = []
    for name, seconds in SECONDS.items():
        left, number = seconds, 0
        while left > 0:
            duration = min(left, 1.0 + number % 7 / 2)
            left -= duration
            named = {"language": name} if name == "middle" else {"source": name, "language": "en"}
            rows.append(Utterance(f"{name}{number}", Path("x.wav"), "a text", duration, **named))
            number += 1
    return rows


def view_of(rows: list[Utterance]) -> FeatureCache:
    """Features that tell which utterance they are of."""
    offsets, at = {}, 0
    for row in rows:
        offsets[row.id] = (at, at + round(row.duration * 50))
        at = offsets[row.id][1]
    frames = np.zeros((at, FEATURE_DIM), np.float16)
    for number, (start, end) in enumerate(offsets.values()):
        frames[start:end] = number
    return FeatureCache(frames, offsets)


def name_of(identity: str) -> str:
    return identity.rstrip("0123456789")


def test_shares_are_hours_to_a_power() -> None:
    portions = shares({"a": 100.0, "b": 1.0}, 0.65)
    assert portions["a"] / portions["b"] == pytest.approx(100**0.65)
    assert sum(portions.values()) == pytest.approx(1)
    assert shares({"a": 100.0, "b": 1.0}, 0.0) == {"a": 0.5, "b": 0.5}
    assert shares({"a": 3.0, "b": 1.0}, 1.0) == {"a": 0.75, "b": 0.25}


@pytest.mark.parametrize("alpha", [0.0, 0.65])
def test_sources_come_in_proportion_in_every_epoch(alpha: float) -> None:
    rows = utterances()
    wanted = shares(hours_of(rows), alpha)
    for epoch in range(3):
        drawn = balanced(rows, alpha, seed=1, epoch=epoch)
        hours = hours_of(drawn)
        assert sum(hours.values()) == pytest.approx(sum(SECONDS.values()) / 3600, rel=0.05)
        for name, share in wanted.items():
            assert hours[name] / sum(hours.values()) == pytest.approx(share, rel=0.1)
        assert drawn == balanced(rows, alpha, seed=1, epoch=epoch)
    assert balanced(rows, alpha, 1, 0) != balanced(rows, alpha, 1, 1) != balanced(rows, alpha, 2, 1)


def test_nothing_comes_again_before_everything_came() -> None:
    rows = utterances()
    uses: Counter[str] = Counter()
    for epoch in range(5):
        uses.update(row.id for row in balanced(rows, 0.65, seed=0, epoch=epoch))
        for name in SECONDS:
            counts = [uses[row.id] for row in rows if name_of(row.id) == name]
            assert max(counts) - min(counts) <= 1
    assert min(uses[row.id] for row in rows if row.id.startswith("small")) > 5


@pytest.mark.parametrize("balance", [0.65, 1.0])
def test_balanced_batches_can_be_resumed_anywhere(balance: float) -> None:
    rows = utterances()
    options = SpeechBatchOptions(batch_s=20, buckets=3, curriculum=(0.5,), augment_from_epoch=0, balance=balance)
    for epoch in (0, 2):
        whole = list(BatchSource(rows, [view_of(rows)], options, SpecAugmentOptions()).epoch(epoch))
        rest = list(BatchSource(rows, [view_of(rows)], options, SpecAugmentOptions()).epoch(epoch, skip=7))
        assert [batch.ids for batch in whole[7:]] == [batch.ids for batch in rest]
        for wanted, resumed in zip(whole[7:], rest, strict=True):
            torch.testing.assert_close(wanted.features, resumed.features, rtol=0, atol=0)


def test_balanced_batches_hold_the_draw() -> None:
    rows = utterances()
    options = SpeechBatchOptions(batch_s=20, buckets=3, curriculum=(), balance=0.65)
    source = BatchSource(rows, [view_of(rows)], options, None)
    batches = list(source.epoch(1))
    drawn = balanced(source.utterances, 0.65, options.seed, 1)
    assert Counter(id for batch in batches for id in batch.ids) == Counter(row.id for row in drawn)
    assert all(batch.seconds <= 20 for batch in batches)
    order = [row.id for row in rows]
    for batch in batches[:5]:
        assert [order[int(value)] for value in batch.features[:, 0, 0]] == list(batch.ids)


def test_shapes_recur_and_what_fills_them_is_silence() -> None:
    """A shape that was never seen costs a compilation."""
    rows = utterances()
    batches = list(BatchSource(rows, [view_of(rows)], SpeechBatchOptions(batch_s=20, curriculum=()), None).epoch(0))
    assert all(batch.features.shape[1] % data.FRAMES == 0 for batch in batches)
    for batch in batches:
        longest = int(batch.lengths.max())
        assert batch.features.shape[1] - longest < data.FRAMES and not batch.features[:, longest:].any()


def test_without_balance_nothing_is_drawn_and_each_utterance_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "balanced", None)
    rows = utterances()
    batches = BatchSource(rows, [view_of(rows)], SpeechBatchOptions(batch_s=20, curriculum=()), None).epoch(3)
    assert sorted(id for batch in batches for id in batch.ids) == sorted(row.id for row in rows)


def test_long_clips_and_impossible_texts_are_left_out_and_counted() -> None:
    rows = utterances()[:6]
    rows[0] = replace(rows[0], text="x" * int(0.66 * 50 * rows[0].duration))
    rows[1] = replace(rows[1], text="x" * (int(0.66 * 50 * rows[1].duration) + 1))
    rows[2] = replace(rows[2], duration=80.0)
    rows[3] = replace(rows[3], duration=80.1)
    view = view_of(rows)
    del view.offsets[rows[4].id]
    options = SpeechBatchOptions(max_utterance_s=80.0, max_characters_per_frame=0.66)
    lines: list[str] = []
    source = BatchSource(rows, [view], options, None, lines.append)
    assert {row.id for row in source.utterances} == {rows[number].id for number in (0, 2, 5)}
    why = "1 over 80 s, 1 under 20 ms or not readable, 1 with over 0.66 characters a frame of 20 ms"
    assert lines == [f"3 of 6 utterances do not train: {why}"]
    with pytest.raises(DataError, match=r"none of 1 utterances can be trained on: 1 over 80 s"):
        BatchSource(rows[3:4], [view], options, None)
    BatchSource(rows[5:], [view], options, None, lines.append)
    assert len(lines) == 1


def test_a_run_tells_what_it_leaves_out_and_how_it_balances(tmp_path: Path) -> None:
    recipe = small_recipe({"encoder_batches": {"batch_s": 8, "max_utterance_s": 0.95, "balance": 0.65}})
    lines: list[str] = []
    build(recipe, Materials(make_corpus(tmp_path), tmp_path), ("tokenizer", "encoder"), lines.append)
    assert any("utterances do not train" in line and "over 0.95 s" in line for line in lines)
    assert any("source en:" in line and "100.0% of an epoch" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"balance": 1.5}, "balance is 1.5"), ({"max_characters_per_frame": -1.0}, "max_characters_per_frame is -1")],
)
def test_options_of_batches_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechBatchOptions(**change)  # type: ignore[arg-type]


def test_every_view_can_have_noise(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path)
    noise = tmp_path / "noise"
    noise.mkdir()
    (tmp_path / "0.wav").rename(noise / "0.wav")
    rows = [row for row in manifest.read_text(encoding="utf-8").splitlines() if '"0.wav"' not in row]
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    views: dict[bool, dict[str, tuple[int, int]]] = {}
    for recorded in (True, False):
        recipe = small_recipe(steps=1)
        augment = AugmentOptions(views=1, speeds=(0.5,), noise_probability=1.0, recorded_view=recorded)
        out = tmp_path / str(recorded)
        build(replace(recipe, augment=augment), Materials(manifest, out, noise=noise), ("tokenizer", "encoder"), silent)
        names = sorted(path.name[:6] for path in (out / "views").glob("*.f16"))
        assert names == (["view0-", "view0-"] if recorded else ["view0-", "view1-"]), "dev is always as recorded"
        first = next((out / "views").glob(f"view{0 if recorded else 1}-*.json"))
        views[recorded] = json.loads(max((out / "views").glob(f"{first.name[:5]}*.json"), key=_size).read_text())
    for name, (start, end) in views[True].items():
        slow_start, slow_end = views[False][name]
        assert slow_end - slow_start == pytest.approx(2 * (end - start), abs=2)


def _size(path: Path) -> int:
    return path.stat().st_size


def test_views_on_disk_are_found_whatever_the_first_one_is(tmp_path: Path) -> None:
    assert repr(AugmentOptions()) == repr(AugmentOptions(recorded_view=False))
    rows = [Utterance("a", tmp_path / "no.wav", "a", 1.0)]
    with pytest.raises(DataError, match="none of 1 recordings"):
        build_feature_cache(rows, 0, AugmentOptions(), tmp_path)


def test_one_manifest_teaches_several_languages(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["language"] = ("en", "de", "pt")[number % 3]
        row["text"] += {"en": "", "de": " F\u00dcNF", "pt": " N\u00c3O"}[row["language"]]
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    recipe = replace(small_recipe(), language=("en", "de"), letters="all")
    lines: list[str] = []
    stages = ("tokenizer", "encoder", "editor", "export")
    build(recipe, Materials(manifest, tmp_path / "out"), stages, lines.append)
    assert nar.load_nar(tmp_path / "out/model")[1].languages == ("en", "de")
    wanted = sum(row["language"] != "pt" and row["split"] == "train" for row in rows)
    assert lines[0].startswith(f"{wanted} utterances")
    with pytest.raises(DataError, match="no utterance to train on in sw"):
        build(replace(recipe, language=("en", "sw")), Materials(manifest, tmp_path / "other"), ("tokenizer",), silent)


def test_a_recipe_names_one_language_or_several() -> None:
    assert recipe_from_dict({"language": "en"}).languages == ("en",)
    assert recipe_from_dict({"language": ["en", "de"], "letters": "all"}).languages == ("en", "de")
    with pytest.raises(ConfigError, match="language is an empty list"):
        recipe_from_dict({"language": []})
    with pytest.raises(ConfigError, match='set letters = "all"'):
        recipe_from_dict({"language": ["en", "de"]})
    with pytest.raises(ConfigError, match="letters is 'latin'"):
        recipe_from_dict({"letters": "latin"})
