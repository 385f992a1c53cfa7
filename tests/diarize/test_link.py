"""Speakers are known again from window to window."""

from __future__ import annotations

import pytest

from redline.diarize.link import link
from redline.types import Hypothesis, SpeakerEmbedding, Turn, Word


def hypothesis_of(*turns: tuple[str, str], **directions: tuple[float, ...]) -> Hypothesis:
    timed = tuple(Turn(speaker, at, at + 1.0, text) for at, (speaker, text) in enumerate(turns))
    words = tuple(Word(turn.start, turn.end, turn.text, speaker=turn.speaker) for turn in timed)
    own = tuple(SpeakerEmbedding(name[1:], direction, 2.0) for name, direction in directions.items())
    return Hypothesis(" ".join(turn.text for turn in timed), words=words, turns=timed, speaker_embeddings=own)


def test_a_voice_keeps_its_name_from_clip_to_clip() -> None:
    known, first = link((), hypothesis_of(("1", "a"), ("2", "b"), v1=(1.0, 0.0, 0.0), v2=(0.0, 1.0, 0.0)))
    assert [turn.speaker for turn in first.turns] == ["1", "2"]
    known, second = link(known, hypothesis_of(("1", "c"), ("2", "d"), v1=(0.0, 0.8, 0.6), v2=(0.0, 0.0, 1.0)))
    assert [turn.speaker for turn in second.turns] == ["2", "3"] and [word.speaker for word in second.words] == [
        "2",
        "3",
    ]
    assert [(embedding.speaker, embedding.seconds) for embedding in known] == [("1", 2.0), ("2", 4.0), ("3", 2.0)]
    assert known[1].vector == pytest.approx((0.0, 0.9487, 0.3162), abs=1e-4)


def test_the_first_window_keeps_its_names_and_numbers_go_on_from_them() -> None:
    known, first = link((), hypothesis_of(("4", "a"), v4=(1.0, 0.0)))
    assert first.turns[0].speaker == "4"
    _, second = link(known, hypothesis_of(("1", "b"), ("2", "c"), v1=(0.0, 1.0), v2=(1.0, 0.0)))
    assert [turn.speaker for turn in second.turns] == ["1", "4"]


def test_two_voices_that_were_one_before_are_one_turn() -> None:
    known, _ = link((), hypothesis_of(("1", "a"), v1=(1.0, 0.0)))
    _, hypothesis = link(known, hypothesis_of(("1", "b"), ("2", "c"), v1=(0.9, 0.436), v2=(0.9, -0.436)))
    assert [(turn.speaker, turn.start, turn.end, turn.text) for turn in hypothesis.turns] == [("1", 0.0, 2.0, "b c")]
