"""`redline prepare`: the manifest it writes, what it tells, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline import audio
from redline.cli.main import app
from redline.types import Waveform
from tests.prepare.speech import JFK, OTHER, TEXT, WORDS


def stamp(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}".replace(".", ",")


def srt(cues: Sequence[tuple[float, float, str]]) -> str:
    return "\n".join(f"{n}\n{stamp(a)} --> {stamp(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, 1))


def prepare(folder: Path, *more: str) -> tuple[int, str, list[dict[str, object]]]:
    """Exit status, what was said, and rows of `redline prepare` for what is in a folder."""
    out = folder / "out" / "mine.jsonl"
    result = CliRunner().invoke(app, ["prepare", str(folder), "--out", str(out), *more])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return result.exit_code, result.output, rows


def test_the_command_writes_a_manifest_and_tells_what_it_dropped(tmp_path: Path) -> None:
    for name, text in (("talk", f"HOST: {TEXT}"), ("false", OTHER)):
        soundfile.write(tmp_path / f"{name}.wav", audio.load(JFK).samples, 16_000)
        (tmp_path / f"{name}.srt").write_text(srt([(0, 11, text)]))
    soundfile.write(tmp_path / "mute.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    code, output, (row,) = prepare(tmp_path, "--longest", "12")
    assert code == 1 and "22 of 43 words" in output
    assert "false.wav: 0 of 21 words" in output and "the text of another recording" in output
    assert row["text"] == " ".join(WORDS) and row["audio"] == str(tmp_path / "talk.wav")
    assert row["speaker"] == "HOST" and "HOST (1)" in output
    (dropped,) = [json.loads(line) for line in (tmp_path / "out" / "mine.dropped.jsonl").read_text().splitlines()]
    assert "does not fit the sound" in dropped["dropped"]
    alone = CliRunner().invoke(app, ["prepare", str(tmp_path / "mute.wav"), "--out", str(tmp_path / "b.jsonl")])
    assert alone.exit_code == 2 and "--text" in alone.output


def test_a_language_is_named_as_people_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int | None] = []
    monkeypatch.setattr("redline.threads.use", used.append)
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    (tmp_path / "talk.txt").write_text(TEXT)
    for name in ("English", "en-US", "auto"):
        _, _, (row,) = prepare(tmp_path, "--language", name, "--threads", "1")
        assert row["language"] == "en"
    assert used == [1, 1, 1]
    shutil.rmtree(tmp_path / "out")
    code, output, _ = prepare(tmp_path, "--language", "klingon")
    assert code == 2 and "no language is called 'klingon'; allowed are en (English)" in output
    code, output, _ = prepare(tmp_path, "--language", "German")
    assert code == 2 and "tiny does not know it; name one of en" in output
    assert not (tmp_path / "out").exists(), "what is refused leaves no folder behind"


def test_a_text_that_fits_nowhere_is_told_and_nothing_is_overwritten(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    (tmp_path / "talk.txt").write_text(TEXT)
    assert prepare(tmp_path)[0] == 0
    (tmp_path / "talk.txt").write_text(OTHER)
    code, output, rows = prepare(tmp_path)
    assert code == 1 and "is not written" in output and "redline transcribe" in output and len(rows) == 1


def test_where_no_manifest_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text(TEXT)
    (tmp_path / "talk.wav").write_bytes(b"never read")
    for out in (tmp_path, tmp_path / "talk.txt" / "m.jsonl", Path("/proc/nowhere/m.jsonl")):
        result = CliRunner().invoke(app, ["prepare", str(tmp_path / "talk.wav"), "--out", str(out)])
        assert result.exit_code == 2 and "choose another --out" in result.output


def test_late_captions_are_placed_by_their_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    parts = [(0.3, " ".join(WORDS[:7])), (5.3, " ".join(WORDS[7:14])), (8.2, " ".join(WORDS[14:]))]
    (tmp_path / "talk.srt").write_text(srt([(at + 6.5, at + 8.5, text) for at, text in parts]))
    code, output, (row,) = prepare(tmp_path)
    assert code == 0 and "s late; placed by its words" in output and row["text"] == " ".join(WORDS)


def test_no_output_replaces_what_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    (tmp_path / "talk.txt").write_text(TEXT)
    (tmp_path / "a.dropped.jsonl").hardlink_to(tmp_path / "talk.txt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for out in ("talk.wav", "talk.txt", "a.jsonl"):
        result = CliRunner().invoke(app, ["prepare", str(tmp_path / "talk.wav"), "--out", str(tmp_path / out)])
        assert result.exit_code == 2 and "is read by this command, which would replace it" in result.output
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_done_is_kept_where_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", audio.load(JFK).samples, 16_000)
        (tmp_path / f"{name}.txt").write_text(TEXT)
    load = audio.load

    def interrupted(path: Path) -> Waveform:
        if path.name == "b.wav":
            raise KeyboardInterrupt
        return load(path)

    monkeypatch.setattr(audio, "load", interrupted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.jsonl").write_text("{}")
    code, output, rows = prepare(tmp_path)
    assert code == 130 and rows == [{}], "a manifest of an earlier run stays"
    assert "interrupted; 1 of 3 recordings are done" in output
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "mine.jsonl.partial").read_text().splitlines()]
    assert row["audio"] == str(tmp_path / "a.wav")
