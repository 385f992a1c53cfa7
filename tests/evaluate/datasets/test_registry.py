"""Manifests, folders and lhotse cuts as data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import DataError
from redline.evaluate.datasets.dataset import DatasetOptions
from redline.evaluate.datasets.registry import read_dataset
from redline.manifest import write_manifest


def test_rows_without_text_are_counted_not_scored(tmp_path: Path) -> None:
    rows = [
        {"audio": "1.wav", "text": "a", "split": "test"},
        {"audio": "2.wav", "text": " ", "split": "test"},
        {"audio": "3.wav", "split": "test"},
        {"audio": "4.wav", "text": "d", "split": "dev"},
    ]
    path = write_manifest(tmp_path / "m.jsonl", rows)
    dataset = read_dataset(str(path), DatasetOptions(split="test"))
    assert [row.audio for row in dataset.utterances] == [tmp_path / "1.wav"]
    assert dataset.without_text == 2 and dataset.title == "m.jsonl, test"


def test_limit_takes_the_first_rows_with_text(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path / "m.jsonl", [{"audio": f"{n}.wav", "text": "a" if n != 1 else ""} for n in range(5)]
    )
    assert [row.audio.name for row in read_dataset(str(path), DatasetOptions(limit=2)).utterances] == ["0.wav", "2.wav"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio": "a.wav", "text": "x", "split": "dev"}\n', "it has splits dev"),
        ("{nonsense\n", "manifest.jsonl:1: not JSON"),
        ('{"text": "x"}\n', "manifest.jsonl:1: no 'audio'"),
    ],
)
def test_unusable_manifest_says_why(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_dataset(str(path), DatasetOptions(split="test"))
    path.write_text("")
    with pytest.raises(DataError, match="there is nothing in it"):
        read_dataset(str(path), DatasetOptions())
