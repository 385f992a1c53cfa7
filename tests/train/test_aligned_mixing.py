"""New utterances from heard words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.manifest import Utterance
from redline.train.data.batches import BatchOptions, BatchSource, FeatureView
from redline.train.recombine import RecombineOptions, Recombiner, word_borders
from redline.types import Word

VOCABULARY = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def utterance(number: int, speaker: str, said: list[int], timed: bool = True) -> Utterance:
    """Words of 0.2 s with 0.1 s between them, from 0.5 s on."""
    words = tuple(Word(0.5 + 0.3 * at, 0.7 + 0.3 * at, VOCABULARY[word]) for at, word in enumerate(said))
    text = " ".join(VOCABULARY[word] for word in said)
    return Utterance(
        f"u{number}", Path(f"u{number}.wav"), text, 1.0 + 0.3 * len(said), speaker=speaker, words=words if timed else ()
    )


def row(one: Utterance, said: list[int], speed: float = 1.0) -> Tensor:
    """Features whose values are the word that is said, 0 in pauses; word 0 is heard as 0.5."""
    frames = torch.zeros(round(one.duration * 50 / speed), 160)
    for word, number in zip(one.words, said, strict=False):
        frames[round(word.start * 50 / speed) : round(word.end * 50 / speed)] = number + 0.5
    return frames


SAID = [[1, 2, 3], [4, 5], [6, 7, 1, 2], [0, 3]]
ROWS = [utterance(number, "ab"[number % 2], said) for number, said in enumerate(SAID)]


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_words_are_cut_in_the_pauses_between_them(speed: float) -> None:
    for one, said in zip(ROWS, SAID, strict=True):
        heard = row(one, said, speed)
        borders = word_borders(one, heard)
        assert len(borders) == len(said) + 1 and borders == sorted(borders)
        for number, start, end in zip(said, borders[:-1], borders[1:], strict=True):
            assert set(heard[start:end].unique().tolist()) == {0.0, number + 0.5}


def test_new_utterances_say_what_their_pieces_said() -> None:
    heard = {one.id: row(one, said) for one, said in zip(ROWS, SAID, strict=True)}
    recombiner = Recombiner(ROWS, RecombineOptions(share=1.0, words=(1, 2)))
    draw = random.Random(0)
    texts = set()
    for _ in range(200):
        instead = draw.choice(ROWS)
        made = recombiner(instead, heard.__getitem__, draw)
        if made is None:
            continue  # the first piece was longer than what it stands for
        frames, text = made
        assert len(frames) <= len(heard[instead.id])
        levels = frames[:, 0].unique_consecutive().tolist()
        assert [VOCABULARY[int(level)] for level in levels if level] == text.split()
        own = {word for one in ROWS if one.speaker == instead.speaker for word in one.text.split()}
        assert set(text.split()) <= own
        texts.add(text)
    assert len(texts - {one.text for one in ROWS}) > 20


def test_what_has_no_times_stays_as_it_is() -> None:
    rows = [*ROWS, utterance(9, "a", [1, 2], timed=False)]
    recombiner = Recombiner(rows, RecombineOptions(share=1.0))
    assert recombiner(rows[-1], {}.__getitem__, random.Random(0)) is None
    assert Recombiner(rows, RecombineOptions())(rows[0], {}.__getitem__, random.Random(0)) is None
    assert (recombiner.count, Recombiner(rows[-1:], RecombineOptions(share=0.5)).count) == (len(ROWS), 0)


def test_batches_are_the_same_when_an_epoch_is_taken_up_again() -> None:
    heard = [row(one, said) for one, said in zip(ROWS, SAID, strict=True)]
    ends = torch.tensor([len(one) for one in heard]).cumsum(0).tolist()
    offsets = {one.id: (end - len(rows), end) for one, rows, end in zip(ROWS, heard, ends, strict=True)}
    view = FeatureView(torch.cat(heard).half().numpy(), offsets)
    options = BatchOptions(batch_s=3, buckets=2, curriculum=())
    source = BatchSource(ROWS, [view], options, None, RecombineOptions(share=0.8, words=(1, 3), from_epoch=1))
    assert {text for batch in source.epoch(0) for text in batch.texts} == {one.text for one in ROWS}
    whole, rest = list(source.epoch(1)), list(source.epoch(1, skip=1))
    assert [batch.texts for batch in whole[1:]] == [batch.texts for batch in rest]
    assert {text for batch in whole for text in batch.texts} != {one.text for one in ROWS}


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": -0.1}, {"words": (0, 3)}, {"words": (4, 3)}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        RecombineOptions(**wrong)  # type: ignore[arg-type]
