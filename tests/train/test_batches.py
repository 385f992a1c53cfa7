"""Batches, feature caches and texts of a training set."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline.errors import DataError
from redline.features import Rule, clip_features
from redline.manifest import Utterance
from redline.normalize import spoken
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import BatchSource, SpeechBatchOptions, bucketed
from redline.train.data.feature_cache import AugmentOptions, build_feature_cache
from redline.train.data.rows import training_rows
from redline_recipes.tiny.bpe import END
from redline_recipes.tiny.word_alignment import samples_of
from tests.corpus import WORDS, tokenizer_of


def test_batches_of_an_epoch_can_be_resumed_anywhere(corpus: Path, tmp_path: Path) -> None:
    rows = training_rows(corpus, split="train")
    view = build_feature_cache(rows, 0, AugmentOptions(), tmp_path)
    source = BatchSource(rows, [view], SpeechBatchOptions(batch_s=4, buckets=2, curriculum=()), SpecAugmentOptions())
    whole = list(source.epoch(3))
    rest = list(source.epoch(3, skip=2))
    assert [batch.ids for batch in whole[2:]] == [batch.ids for batch in rest]
    assert sorted(identity for batch in whole for identity in batch.ids) == sorted(row.id for row in rows)
    for wanted, resumed in zip(whole[2:], rest, strict=True):
        torch.testing.assert_close(wanted.features, resumed.features, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["nar", "native", "ar"])
def test_a_model_learns_from_the_features_that_it_will_hear(corpus: Path, tmp_path: Path, rule: Rule) -> None:
    rows = training_rows(corpus, split="train")[:3]
    others = [build_feature_cache(rows, 0, AugmentOptions(), tmp_path, rule=other) for other in ("nar", "native", "ar")]
    view = build_feature_cache(rows, 0, AugmentOptions(), tmp_path, rule=rule)
    for row in rows:
        wanted = clip_features(samples_of(row), rule)
        assert view[row.id].shape == wanted.shape
        torch.testing.assert_close(view[row.id], wanted, rtol=0, atol=1e-3)  # half precision on disk
    assert len({str(other.frames.filename) for other in others}) == 3, "a view of another rule was opened"


def test_the_first_epoch_takes_the_shortest_utterances(corpus: Path, tmp_path: Path) -> None:
    rows = training_rows(corpus, split="train")
    view = build_feature_cache(rows, 0, AugmentOptions(), tmp_path)
    source = BatchSource(rows, [view], SpeechBatchOptions(batch_s=4, buckets=2, curriculum=(0.3,)), None)
    first = {identity for batch in source.epoch(0) for identity in batch.ids}
    assert first == {row.id for row in sorted(rows, key=lambda row: row.duration)[: round(0.3 * len(rows))]}


def test_a_bad_manifest_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "text": "A", "duration": 1}\n{"audio": "b.wav", "end": "x"}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:2: start, end and duration are seconds"):
        training_rows(path)
    path.write_text('{"audio": "a.wav", "text": "A", "duration": 1}\n{"audio": "b.wav", "text": "B"}\n')
    with pytest.raises(DataError, match=r"1 rows have no duration, first b\.wav"):
        training_rows(path)


def test_an_unreadable_recording_is_left_out_and_named(corpus: Path, tmp_path: Path) -> None:
    rows = training_rows(corpus, split="train")
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    bad = [replace(rows[0], id="x", audio=tmp_path / "broken.wav"), replace(rows[0], id="y", audio=tmp_path / "no.wav")]
    reasons: list[str] = []
    view = build_feature_cache([*bad, *rows], 0, AugmentOptions(), tmp_path / "cache", skipped=reasons.append)
    assert set(view.offsets) == {row.id for row in rows}
    assert "broken.wav" in reasons[0] and "no such file" in reasons[1]


def test_a_missing_manifest_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        training_rows(tmp_path / "nothing.jsonl")


def test_a_trained_tokenizer_loses_no_text() -> None:
    tokenizer = tokenizer_of(WORDS * 20)
    for text in ("the cat", "zebra \u00e9t\u00e9", "tab\tand 123", END):
        assert tokenizer.decode(tokenizer.encode(text)).strip() == text
        assert not tokenizer.special_ids & set(tokenizer.encode(text))


def test_spoken_text_is_lower_case_words() -> None:
    assert spoken("\u201cDON\u2019T stop,\u201d he said -- 'no' \u2013 caf\u00e9!") == "don't stop he said no cafe"
    assert spoken("...") == ""
    assert spoken("na\u00efve \u00c7a") == "naive ca", "an accent inside a word is no gap"


def test_a_batch_is_no_longer_than_asked_with_its_padding_and_nothing_is_lost() -> None:
    draw = random.Random(3)
    rows = [Utterance(str(n), Path("x.wav"), "a", draw.uniform(0.5, 9.0)) for n in range(300)]
    batches = bucketed(rows, SpeechBatchOptions(batch_s=20.0, buckets=6), random.Random(0))
    assert sorted(row.id for batch in batches for row in batch) == sorted(row.id for row in rows)
    assert all(len(batch) * max(row.duration for row in batch) <= 20.0 for batch in batches)
    padding = sum(len(batch) * max(row.duration for row in batch) for batch in batches)
    assert padding < 1.25 * sum(row.duration for row in rows), "utterances of a batch are alike in length"
    long = [Utterance("long", Path("x.wav"), "a", 99.0)]
    assert bucketed(long, SpeechBatchOptions(batch_s=20.0), random.Random(0)) == [long]
