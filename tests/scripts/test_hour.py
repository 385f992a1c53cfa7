"""The hour that `scripts/hour.py` joins, and what it checks in the files of the command."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from redline import audio
from redline.manifest import Utterance, read_manifest
from redline.types import SAMPLE_RATE
from tests.scripts.loading import script

hour = script("hour")


@pytest.fixture
def manifest(jfk: Path, tmp_path: Path) -> Path:
    rows = [
        {"id": f"{speaker}-{n}", "audio": str(jfk), "text": "a", "language": "en", "split": split, "speaker": speaker}
        for speaker, split in (("ana", "dev"), ("ben", "test"), ("eve", "train"))
        for n in range(3)
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_readers_take_turns_and_each_reads_in_order(manifest: Path) -> None:
    rows = read_manifest(manifest, split="dev") + read_manifest(manifest, split="test")
    read: list[Utterance] = [row for row, _ in zip(hour.talk(rows, np.random.default_rng(0)), range(60), strict=False)]
    for name in ("ana", "ben"):
        ids = [row.id for row in read if row.speaker == name]
        assert len(ids) > 10 and ids == [f"{name}-{n % 3}" for n in range(len(ids))]
    lengths = [len(list(group)) for _, group in groupby(row.speaker for row in read)]
    assert all(hour.TURN[0] <= length < hour.TURN[1] for length in lengths[:-1])


def test_the_recording_is_as_long_as_was_asked_for(manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest, split="dev")
    hour.write_recording(tmp_path / "one.flac", rows, 25.0)
    hour.write_recording(tmp_path / "two.flac", rows, 25.0)
    one = audio.load(tmp_path / "one.flac").samples
    assert len(one) == 25 * SAMPLE_RATE and (tmp_path / "one.flac").read_bytes() == (tmp_path / "two.flac").read_bytes()
    jfk = audio.load(rows[0].audio).samples
    assert np.abs(one[: len(jfk)] - jfk).max() < 1e-4
    assert 0 < np.abs(one[len(jfk) : len(jfk) + 4000]).max() < 1e-3, "a pause of faint noise"


@pytest.mark.battery
def test_the_command_writes_words_with_confidence_and_speakers(
    manifest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["hour.py", str(manifest), "--minutes", "0.3", "--cost", "1"])
    assert hour.main() == 0
    plain, told, cost = map(json.loads, capsys.readouterr().out.splitlines())
    assert plain["words"] == told["words"] > 20 and (plain["speakers"], told["speakers"]) == (0, 1)
    assert all(told["bytes"][name] > 100 for name in ("docx", "srt", "json"))
    assert cost["speakers_cost"] == pytest.approx(told["cpu_seconds"] / plain["cpu_seconds"] - 1, abs=0.01)
