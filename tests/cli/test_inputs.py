"""What `redline transcribe` reads: files, folders, patterns, tracks, names that look like options."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from redline.cli.inputs import expand
from redline.cli.main import app
from redline.types import Waveform
from tests.audio.test_containers import two_tracks
from tests.cli.commands import Run, recording


def test_folders_patterns_and_files_each_give_a_recording_once(recordings: Path) -> None:
    talk, other = recordings / "talk.flac", recordings / "sub" / "Talk.flac"
    inputs, problems, _ = expand(
        [str(recordings), str(talk), str(recordings / "*.flac"), str(recordings / "**" / "*.wav")]
    )
    assert problems == []
    assert [source.path for source in inputs] == [recordings / "bad.wav", other, talk]
    assert expand([str(recordings / "s*")])[0][0].path == other


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    path = tmp_path / "talk [1].wav"
    path.write_bytes(b"")
    assert [source.path for source in expand([str(path)])[0]] == [path]


def test_what_is_left_out_of_a_folder_is_told(run: Run, tmp_path: Path) -> None:
    recording(tmp_path / "a.WAV")
    for name in ("b.doc", "c.doc", "notes", ".hidden.doc"):
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    inputs, problems, left_out = expand([str(tmp_path)])
    assert [source.path.name for source in inputs if source.path] == ["a.WAV"] and problems == []
    (line,) = left_out
    for kind in ("2 .doc", "1 without an ending", "1 pipe or device", "1 broken link", "1 linked folder"):
        assert kind in line
    result = run(tmp_path)
    assert result.exit_code == 0 and line in result.stderr


def test_a_folder_that_cannot_be_read_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    _, problems, _ = expand([str(tmp_path)])
    assert any("closed: not permitted" in problem for problem in problems)


def test_a_file_that_begins_with_a_dash_is_read_behind_two_dashes(
    run_vad: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recording(tmp_path / "-x.wav")
    result = run_vad("--no-vad", "--", "-x.wav")
    assert result.exit_code == 0 and result.stdout == "heard\n"
    result = CliRunner().invoke(app, ["transcribe", "-x.wav"], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "redline transcribe [OPTIONS] -- -x.wav" in result.stderr


def test_a_track_is_chosen_by_its_number_and_one_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes(two_tracks())

    def pitch(clip: Waveform) -> str:
        return f"{np.abs(np.fft.rfft(clip.samples)).argmax() / clip.duration:.0f}"

    for track, hertz in (("0", 440), ("1", 1000)):
        result = run(film, "--track", track, respond=pitch)
        assert result.exit_code == 0 and abs(int(result.stdout) - hertz) < 5
    absent = run(film, "--track", "7", respond=lambda clip: pytest.fail("worked"))
    assert absent.exit_code == 2 and "film.mkv" in absent.stderr and "track" in absent.stderr
