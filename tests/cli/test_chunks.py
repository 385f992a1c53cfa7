"""`redline chunks`: what is drawn is how the recording is cut when it is transcribed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from redline import load as load_module
from redline.cli.chunks import row_seconds
from redline.cli.main import app
from redline.longform.observed import ObservedSession
from redline.longform.session import Session, SessionOptions
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, ClipLimits, Task


@pytest.fixture
def talk(tmp_path: Path, jfk: Path) -> Path:
    """Speech with a pause of three seconds behind the first part, and one that is too long for one window."""
    samples, _ = soundfile.read(jfk, dtype="float32")
    pause = np.zeros(3 * SAMPLE_RATE, dtype=np.float32)
    soundfile.write(tmp_path / "talk.flac", np.concatenate([samples, pause, *[samples] * 4]), SAMPLE_RATE)
    return tmp_path / "talk.flac"


def chunks(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Result:
    model = Transcriber(FakeRecognizer(), SessionOptions(window=WindowOptions(join_s=2.0)))
    monkeypatch.setattr(load_module, "load_model", lambda *args, **kwargs: model)
    return CliRunner().invoke(app, ["chunks", *map(str, arguments)], env={"COLUMNS": "100"})


def test_chunks_are_the_windows_of_transcribe(monkeypatch: pytest.MonkeyPatch, talk: Path) -> None:
    for options in ([], ["--pad", "0.1", "--min-silence", "1", "--vad-threshold", "0.7", "--window", "12"]):
        drawn = json.loads(chunks(monkeypatch, talk, "--json", *options).stdout)
        result = CliRunner().invoke(app, ["transcribe", str(talk), "--format", "json", *options])
        assert result.exit_code == 0, result.output
        segments = json.loads(result.stdout)["segments"]
        assert [(chunk["start"], chunk["end"]) for chunk in drawn] == [
            (each["start"], each["end"]) for each in segments
        ]
        assert drawn[0]["reason"] == "pause" or options
        assert drawn[-1]["reason"] == "end" and any(chunk["reason"] == "longest" for chunk in drawn)


def test_every_cut_has_its_reason_in_words(monkeypatch: pytest.MonkeyPatch, talk: Path) -> None:
    result = chunks(monkeypatch, talk)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    reasons = [line for line in lines if " to " in line]
    assert "pause of 3." in reasons[0] and "full; cut at the weakest place between" in reasons[1]
    assert "end of the recording" in reasons[-1] and all(len(line) <= 100 for line in lines)
    assert "█" in result.stdout and "━" in result.stdout and "╳" in result.stdout and "├0" in result.stdout


def test_a_cut_of_a_full_window_is_where_it_was_searched() -> None:
    session = ObservedSession(ClipLimits(10.0), Task(), SessionOptions(vad=None))
    session.feed(np.random.default_rng(0).standard_normal(100 * SAMPLE_RATE).astype(np.float32) * 0.1)
    session.close()
    chunking = session.chunking()
    assert len(chunking.chunks) >= 10 and chunking.duration_s == 100.0
    for chunk in chunking.chunks[:-1]:
        assert chunk.reason == "longest" and chunk.searched_from is not None and chunk.searched_to is not None
        assert chunk.searched_from - 0.05 <= chunk.end <= chunk.searched_to + 0.05
    assert chunking.chunks[-1].reason == "end" and len(chunking.peaks) == -(-100 * SAMPLE_RATE // 512)


def test_an_observed_session_is_a_session(jfk: Path) -> None:
    samples, _ = soundfile.read(jfk, dtype="float32")
    plain, observed = (kind(ClipLimits(30.0), Task()) for kind in (Session, ObservedSession))
    for session in (plain, observed):
        session.feed(samples)
        session.close()
    assert observed.windows == plain.windows and len(observed._cutter.cuts) == len(observed.windows)


def test_the_picture_is_a_picture(monkeypatch: pytest.MonkeyPatch, talk: Path, tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.image")
    result = chunks(monkeypatch, talk, "--png", tmp_path / "talk.png")
    assert result.exit_code == 0, result.output
    pixels = pyplot.imread(tmp_path / "talk.png")
    assert pixels.shape[1] > 800 and len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 2


def test_silence_and_wrong_input_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    result = chunks(monkeypatch, tmp_path / "quiet.wav", "--png", tmp_path / "quiet.png")
    assert result.exit_code == 0 and "silent" in result.stderr and (tmp_path / "quiet.png").exists()
    (tmp_path / "bad.wav").write_text("no sound")
    assert chunks(monkeypatch, tmp_path / "bad.wav").exit_code == 2
    assert chunks(monkeypatch, tmp_path / "none.wav").exit_code == 2
    assert chunks(monkeypatch, tmp_path / "quiet.wav", "--window", "0.5").exit_code == 2
    assert chunks(monkeypatch, tmp_path / "quiet.wav", "--no-vad", "--pad", "1").exit_code == 2
    same = chunks(monkeypatch, tmp_path / "quiet.wav", "--png", tmp_path / "quiet.wav")
    assert same.exit_code == 2 and "would replace it" in same.stderr


def test_hours_have_few_rows() -> None:
    assert [row_seconds(length) for length in (1, 60, 61, 3600, 4 * 3600, 10 * 3600)] == [5, 10, 10, 600, 1800, 3600]


@pytest.mark.parametrize("frames", [0, 1, 10, 938, 5000])
def test_bars_of_a_picture_stand_where_their_sound_is(frames: int) -> None:
    pytest.importorskip("matplotlib")
    from redline.cli.chunks_picture import COLUMNS, bars_of

    for at in range(0, frames, 7):
        peaks = np.zeros(frames, dtype=np.float32)
        peaks[at] = 1.0
        times, bars = bars_of(peaks, 0.032)
        assert len(bars) == min(frames, COLUMNS) and bars.max() == 1.0
        assert abs(times[bars.argmax()] - 0.032 * (at + 0.5)) <= 0.032 * frames / min(frames, COLUMNS)
