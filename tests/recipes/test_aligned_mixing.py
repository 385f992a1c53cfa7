"""New utterances from heard words."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.manifest import Utterance
from redline.train.data.batches import SpeechBatchOptions
from redline.train.data.feature_cache import FeatureCache
from redline.types import Word
from redline_recipes.tiny.aligned_mixing import MixedSource, MixingOptions, word_borders

VOCABULARY = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def utterance(number: int, speaker: str, word_ids: list[int], timed: bool = True) -> Utterance:
    """Words of 0.2 s with 0.1 s between them, from 0.5 s on."""
    words = tuple(Word(0.5 + 0.3 * at, 0.7 + 0.3 * at, VOCABULARY[word]) for at, word in enumerate(word_ids))
    text = " ".join(VOCABULARY[word] for word in word_ids)
    return Utterance(
        f"u{number}",
        Path(f"u{number}.wav"),
        text,
        1.0 + 0.3 * len(word_ids),
        speaker=speaker,
        words=words if timed else (),
    )


def row(item: Utterance, word_ids: list[int], speed: float = 1.0) -> Tensor:
    """Features whose values are the word that is said, 0 in pauses; word 0 is heard as 0.5."""
    frames = torch.zeros(round(item.duration * 50 / speed), 160)
    for word, number in zip(item.words, word_ids, strict=False):
        frames[round(word.start * 50 / speed) : round(word.end * 50 / speed)] = number + 0.5
    return frames


WORD_IDS = [[1, 2, 3], [4, 5], [6, 7, 1, 2], [0, 3]]
ROWS = [utterance(number, "ab"[number % 2], word_ids) for number, word_ids in enumerate(WORD_IDS)]


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_words_are_cut_in_the_pauses_between_them(speed: float) -> None:
    for item, word_ids in zip(ROWS, WORD_IDS, strict=True):
        features = row(item, word_ids, speed)
        borders = word_borders(item, features)
        assert len(borders) == len(word_ids) + 1 and borders == sorted(borders)
        for number, start, end in zip(word_ids, borders[:-1], borders[1:], strict=True):
            assert set(features[start:end].unique().tolist()) == {0.0, number + 0.5}


def cache(features: list[Tensor]) -> FeatureCache:
    """The features of `ROWS` on disk."""
    ends = torch.tensor([len(own) for own in features]).cumsum(0).tolist()
    offsets = {item.id: (end - len(own), end) for item, own, end in zip(ROWS, features, ends, strict=True)}
    return FeatureCache(torch.cat(features).half().numpy(), offsets)


FEATURES = [row(item, word_ids) for item, word_ids in zip(ROWS, WORD_IDS, strict=True)]


def mixed(mixing: MixingOptions, rows: list[Utterance] = ROWS) -> MixedSource:
    options = SpeechBatchOptions(batch_s=3, buckets=2, curriculum=())
    return MixedSource(mixing, rows, [cache(FEATURES)], options, None)


def test_new_utterances_say_what_their_pieces_said() -> None:
    source = mixed(MixingOptions(share=1.0, words=(1, 2)))
    draw = random.Random(0)
    texts = set()
    for _ in range(200):
        instead = draw.choice(ROWS)
        new = source.mix(instead, 0, draw)
        if new is None:
            continue  # the first piece was longer than what it stands for
        frames, text = new
        assert len(frames) <= len(source.features_of(instead.id, 0))
        levels = frames[:, 0].unique_consecutive().tolist()
        assert [VOCABULARY[int(level)] for level in levels if level] == text.split()
        own = {word for item in ROWS if item.speaker == instead.speaker for word in item.text.split()}
        assert set(text.split()) <= own
        texts.add(text)
    assert len(texts - {item.text for item in ROWS}) > 20


def test_what_has_no_times_stays_as_it_is() -> None:
    timeless = [replace(item, words=()) if item is ROWS[0] else item for item in ROWS]
    source = mixed(MixingOptions(share=1.0), timeless)
    assert source.rows(timeless[:1], 5, random.Random(0))[1] == (ROWS[0].text,)
    assert mixed(MixingOptions()).rows(ROWS, 5, random.Random(0))[1] == tuple(item.text for item in ROWS)
    assert (mixed(MixingOptions()).timed, source.timed) == (len(ROWS), len(ROWS) - 1)


def test_batches_are_the_same_when_an_epoch_is_taken_up_again() -> None:
    source = mixed(MixingOptions(share=0.8, words=(1, 3), from_epoch=1))
    assert {text for batch in source.epoch(0) for text in batch.texts} == {item.text for item in ROWS}
    whole, rest = list(source.epoch(1)), list(source.epoch(1, skip=1))
    assert [batch.texts for batch in whole[1:]] == [batch.texts for batch in rest]
    assert {text for batch in whole for text in batch.texts} != {item.text for item in ROWS}


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": -0.1}, {"words": (0, 3)}, {"words": (4, 3)}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        MixingOptions(**wrong)  # type: ignore[arg-type]
