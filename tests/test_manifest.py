"""Manifests: a row that cannot be is refused with its line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import DataError
from redline.manifest import read_manifest


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
