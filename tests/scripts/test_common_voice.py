"""scripts/common_voice.py on a folder laid out like Common Voice; what it writes is a manifest that training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from redline.manifest import read_manifest
from tests.scripts.loading import script

HEAD = "client_id\tpath\tsentence\tlocale\n"


def folder(root: Path, tables: dict[str, list[tuple[str, str, str]]]) -> Path:
    """A Common Voice folder: (speaker, clip, sentence) by table; a second of silence for each clip."""
    (root / "clips").mkdir()
    for name, entries in tables.items():
        lines = [f"{speaker}\t{clip}\t{sentence}\ten" for speaker, clip, sentence in entries]
        (root / f"{name}.tsv").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
        for _, clip, _ in entries:
            soundfile.write(root / "clips" / clip, np.zeros(16_000, dtype=np.float32), 16_000, format="FLAC")
    return root


def made(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and messages; the manifest is in the folder."""
    status = script("common_voice").main([str(root)])
    out, messages = capsys.readouterr()
    (root / "manifest.jsonl").write_text(out, encoding="utf-8")
    return status, messages


def test_splits_are_kept_and_no_voice_is_on_two_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(
        tmp_path,
        {
            "train": [("anna", "1.mp3", 'She said "yes" to it.')],
            "dev": [("bert", "2.mp3", "Two.")],
            "test": [("cora", "3.mp3", "Three.")],
            "validated": [
                ("anna", "1.mp3", 'She said "yes" to it.'),
                ("bert", "4.mp3", "Another one of a voice in dev."),
                ("dora", "5.mp3", "A voice that is in no other table."),
            ],
        },
    )
    assert made(root, capsys)[0] == 0
    rows = {row.id: row for row in read_manifest(root / "manifest.jsonl")}
    assert {name: row.split for name, row in rows.items()} == {"1": "train", "2": "dev", "3": "test", "5": "train"}
    assert rows["1"].text == 'She said "yes" to it.' and rows["1"].language == "en"
    assert rows["1"].duration == 1.0 and rows["1"].audio.is_file() and rows["1"].speaker == "cv-anna"


def test_durations_are_read_where_they_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, {"validated": [("anna", "1.mp3", "One.")]})
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\n1.mp3\t4321\n", encoding="utf-8")
    made(root, capsys)
    assert read_manifest(root / "manifest.jsonl")[0].duration == 4.321


def test_what_cannot_be_used_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, {"train": [("a", "1.mp3", "One."), ("b", "2.mp3", " "), ("c", "3.mp3", "Three.")]})
    (root / "clips" / "3.mp3").unlink()
    soundfile.write(root / "clips" / "1.mp3", np.zeros(1), 16_000, format="FLAC")
    status, messages = made(root, capsys)
    assert status == 0 and "1 train" in messages
    assert "1 without a recording left out" in messages and "1 without a sentence left out" in messages


def test_another_folder_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, messages = made(tmp_path, capsys)
    assert status == 2 and "unpacked folder of one language" in messages
