"""Dialogues are scored by what the command wrote: who speaks when, and where two do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redline.types import Overlap, Segment, Transcript, Turn, Word
from tests.scripts.loading import script

speakers = script("speakers")

WORDS = [{"start": at, "end": at + 0.9, "text": f"w{at}"} for at in range(4)]
TURNS = [
    {"speaker": "a", "start": 0.0, "end": 1.9, "text": "w0 w1"},
    {"speaker": "b", "start": 2.0, "end": 3.9, "text": "w2 w3"},
]


def dialogues(tmp_path: Path, **fields: object) -> list[speakers.Dialogue]:
    path = tmp_path / "manifest.jsonl"
    row = {"audio": "a.flac", "text": "w0 w1 w2 w3", "duration": 4.0, "language": "en", **fields}
    path.write_text(json.dumps(row) + "\n" + json.dumps({"audio": "b.flac", "text": "nobody"}) + "\n")
    return list(speakers.read_dialogues(path))


def answer(*owners: str, overlaps: tuple[Overlap, ...] = ()) -> Transcript:
    words = tuple(Word(float(at), at + 0.9, f"w{at}", speaker=owner) for at, owner in enumerate(owners))
    segments = tuple(
        Segment(
            at,
            word.start,
            word.end,
            word.text,
            speaker=word.speaker,
            words=(word,),
            overlaps=overlaps if not at else (),
        )
        for at, word in enumerate(words)
    )
    turns = tuple(Turn(word.speaker or "", word.start, word.end, word.text) for word in words)
    return Transcript(" ".join(word.text for word in words), segments, duration=4.0, turns=turns)


def test_who_speaks_is_told_by_words_by_turns_or_by_segments(tmp_path: Path) -> None:
    by_words = (("a", 0, 1.9), ("b", 2, 3.9))
    assert [each.spoken for each in dialogues(tmp_path, turns=TURNS, words=WORDS)] == [by_words], "nobody is left out"
    assert dialogues(tmp_path, turns=TURNS)[0].spoken == (("a", 0.0, 1.9), ("b", 2.0, 3.9))
    (alone,) = dialogues(tmp_path, segments=[["x", 0.5, 1.0]])
    assert alone.spoken == (("x", 0.5, 1.0),) and alone.speakers == 1


def test_pauses_below_half_a_second_are_speech() -> None:
    parts = [("a", 0.0, 1.0), ("b", 1.1, 2.0), ("a", 1.4, 1.6), ("a", 2.2, 3.0)]
    assert speakers.without_pauses(parts) == (("a", 0.0, 1.6), ("a", 2.2, 3.0), ("b", 1.1, 2.0))


@pytest.mark.extras
def test_scores_are_of_words_and_of_marked_overlap(tmp_path: Path) -> None:
    rows = dialogues(tmp_path, turns=TURNS, words=WORDS)
    right = speakers.score(rows, [answer("1", "1", "2", "2")])
    assert right["der"] == right["cpwer"] == right["wer"] == 0.0 and right["missed"] == right["invented"] == 0
    wrong = speakers.score(rows, [answer("1", "1", "1", "2")])
    assert wrong["der"] == pytest.approx(100 * 1.0 / 3.8, abs=3.0) and wrong["cpwer"] == 50.0
    both = dialogues(tmp_path, segments=[["a", 0.0, 1.9], ["b", 1.4, 3.9]])
    marked = speakers.score(both, [answer("1", "1", "2", "2", overlaps=(Overlap(1.5, 1.9, "2"),))])
    assert (marked["overlap_s"], marked["marked_s"], marked["rightly_marked_s"]) == (0.5, 0.4, 0.4)


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    (dialogue,) = dialogues(tmp_path, turns=TURNS)
    speakers.draw(tmp_path / "who.png", dialogue, answer("1", "1", "2", "3"))
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
