"""`scripts/join_manifests.py`: rows keep their recordings, and nothing is on two sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redline.manifest import read_manifest
from tests.scripts.loading import script


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": "a", "language": "en", "duration": 1, **row}) + "\n" for row in rows))
    for row in rows:
        (path.parent / str(row["audio"])).touch()
    return path


def test_recordings_are_found_from_the_new_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one" / "m.jsonl", {"id": "a", "audio": "a.wav", "split": "train"})
    two = write(tmp_path / "two" / "m.jsonl", {"id": "b", "audio": "b.wav", "split": "dev"})
    out = tmp_path / "one" / "all.jsonl"
    monkeypatch.setattr("sys.argv", ["join", str(out), str(one), str(two)])
    assert script("join_manifests").main() == 0
    assert [row.audio.resolve() for row in read_manifest(out)] == [one.parent / "a.wav", two.parent / "b.wav"]


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        ({"id": "a", "audio": "b.wav", "split": "train"}, "a is both in"),
        ({"id": "c", "audio": "../one/a.wav", "split": "dev"}, "both in split 'train' and in 'dev'"),
    ],
)
def test_what_would_be_on_two_sides_is_refused(
    other: dict[str, object],
    seen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = write(tmp_path / "one" / "m.jsonl", {"id": "a", "audio": "a.wav", "split": "train"})
    two = write(tmp_path / "two" / "m.jsonl", other)
    monkeypatch.setattr("sys.argv", ["join", str(tmp_path / "all.jsonl"), str(one), str(two)])
    assert script("join_manifests").main() == 2
    assert seen in capsys.readouterr().err and not (tmp_path / "all.jsonl").exists()
