"""Manifests: a row that cannot be is refused with its line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import DataError
from redline.manifest import read_manifest, write_manifest
from redline.types import Turn, Word


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


def test_words_of_a_manifest_are_read_and_written_back(tmp_path: Path) -> None:
    words = [{"start": 0.1, "end": 0.5, "text": "Hi"}, {"start": 0.5, "end": 0.5, "text": "you"}]
    (row,) = read_manifest(write_manifest(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "Hi you", "words": words}]))
    assert row.words == (Word(0.1, 0.5, "Hi"), Word(0.5, 0.5, "you"))
    assert row.to_dict()["words"] == words
    assert read_manifest(write_manifest(tmp_path / "again.jsonl", [row.to_dict()])) == [row]
    wrong = {"audio": "a.wav", "text": "x", "words": [{"start": -1, "end": 0, "text": "x"}]}
    with pytest.raises(DataError, match=r'm\.jsonl:1: words has .*"start": -1.*\(0 <= start <= end\) and with text'):
        read_manifest(write_manifest(tmp_path / "m.jsonl", [wrong]))


def test_turns_of_a_manifest_are_read_and_written_back(tmp_path: Path) -> None:
    turns = (Turn("ann", 0.0, 1.0, "Good morning."), Turn("bob", 1.0, 2.0, "Good evening!"))
    rows = [{"audio": "a.wav", "text": "Good", "start": 5, "end": 9, "turns": [turn.to_dict() for turn in turns]}]
    (row,) = read_manifest(write_manifest(tmp_path / "m.jsonl", rows))
    assert row.turns == turns
    assert read_manifest(write_manifest(tmp_path / "again.jsonl", [row.to_dict()])) == [row]


@pytest.mark.parametrize("times", [{}, {"start": 5.0}, {"end": 7.0}, {"start": 5.0, "end": 7.0}, {"duration": 9.0}])
def test_times_of_a_row_are_read_and_written_back(tmp_path: Path, times: dict[str, float]) -> None:
    (row,) = read_manifest(write_manifest(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "Hi", **times}]))
    assert read_manifest(write_manifest(tmp_path / "again.jsonl", [row.to_dict()])) == [row]


@pytest.mark.parametrize(
    "turn",
    [
        {"start": 0, "end": 1, "text": "a"},
        {"speaker": "", "start": 0, "end": 1, "text": "a"},
        {"speaker": "a", "start": 2, "end": 1, "text": "a"},
        {"speaker": "a", "start": 0, "end": "soon", "text": "a"},
        "ann",
    ],
)
def test_turns_that_cannot_be_used_are_named_with_their_line(tmp_path: Path, turn: object) -> None:
    rows = [{"audio": "a.wav", "text": "x"}, {"audio": "a.wav", "text": "x", "turns": [turn]}]
    with pytest.raises(
        DataError, match=r"m\.jsonl:2: turns has .*start and end in seconds .* and with speaker and text"
    ):
        read_manifest(write_manifest(tmp_path / "m.jsonl", rows))
