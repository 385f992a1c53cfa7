"""`redline live`: raw PCM through pipes, lines that stay, and an end that loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from redline import audio
from redline import load as load_module
from redline.cli.main import app
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Transcript

Live = Callable[..., Result]


@pytest.fixture(scope="module")
def speech(jfk: Path) -> NDArray[np.int16]:
    """Two sentences with a pause between them."""
    return np.round(audio.load(jfk).samples[: 5 * SAMPLE_RATE] * 32768).astype("<i2")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Live:
    def invoke(*arguments: object, stdin: bytes = b"") -> Result:
        model = Transcriber(FakeRecognizer())
        monkeypatch.setattr(load_module, "load_model", lambda *args, **kwargs: model)
        return CliRunner().invoke(app, ["live", *map(str, arguments)], input=stdin)

    return invoke


def test_a_named_pipe_gives_a_line_for_each_committed_text(
    live: Live, speech: NDArray[np.int16], tmp_path: Path
) -> None:
    expected = Transcriber(FakeRecognizer()).live()
    with expected:
        expected.feed(speech)
    fifo = tmp_path / "sound"
    os.mkfifo(fifo)

    def write() -> None:
        with fifo.open("wb", buffering=0) as pipe:
            data = speech.tobytes()
            for at in range(0, len(data), 5001):  # also between the two bytes of a sample
                pipe.write(data[at : at + 5001])

    writer = threading.Thread(target=write)
    writer.start()
    result = live(fifo, "--save", tmp_path / "talk.json", "--save", tmp_path / "talk.srt")
    writer.join()
    lines = [segment.text for segment in expected.transcript().segments]
    assert result.exit_code == 0 and result.stdout.splitlines() == lines and len(lines) == 2
    assert [each.text for each in Transcript.load(tmp_path / "talk.json").segments] == lines
    assert (tmp_path / "talk.srt").read_text().count("-->") == 2


def test_json_is_an_event_a_line_and_partial_text_comes_before_what_it_becomes(
    live: Live, speech: NDArray[np.int16]
) -> None:
    result = live("-", "--format", "json", stdin=speech.tobytes())
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and [event["kind"] for event in events].count("committed") == 2
    plain = live("-", "--format", "json", "--no-partials", stdin=speech.tobytes())
    assert {json.loads(line)["kind"] for line in plain.stdout.splitlines()} == {"committed"}


def test_rate_and_channels_are_those_of_the_option_or_of_a_wav_header(
    live: Live, speech: NDArray[np.int16], tmp_path: Path
) -> None:
    expected = live("-", stdin=speech.tobytes()).stdout
    stereo = np.stack((speech, speech), axis=1)
    assert live("-", "--channels", "2", stdin=stereo.tobytes()).stdout == expected
    soundfile.write(tmp_path / "stereo.wav", stereo, SAMPLE_RATE)
    assert live(tmp_path / "stereo.wav").stdout == expected
    slow = live("-", "--rate", "8000", stdin=speech.tobytes())
    assert slow.exit_code == 0 and slow.stdout != expected
    wrong = live(tmp_path / "stereo.wav", "--rate", "48000")
    assert wrong.exit_code == 2 and "rate is 48000, but the header of the stream says 16000" in wrong.stderr


def test_wrong_sound_is_told(live: Live, speech: NDArray[np.int16], tmp_path: Path, jfk: Path) -> None:
    odd = live("-", stdin=speech.tobytes() + b"\0")
    assert odd.exit_code == 0 and "the stream ends within a sample: its last 1 bytes" in odd.stderr
    flac = live(jfk)
    assert flac.exit_code == 2 and "this is FLAC, not raw PCM" in flac.stderr and "ffmpeg -i" in flac.stderr
    for arguments, message in (
        ((tmp_path / "absent",), "absent"),
        ((tmp_path,), str(tmp_path)),
        (("-", "--rate", "7"), "sample rate 7 Hz; allowed are 4000"),
        (("-", "--channels", "99"), "99 channels"),
        (("-", "--pause", "0"), "pause_s is 0"),
        (("-", "--max-window", "0.1"), "max_s is 0.1"),
        (("-", "--save", "talk.mp4"), "names no format"),
        (("-", "--device-in", "1"), "leave one of them out"),
        (("-", "--format", "srt"), "allowed are txt, json"),
    ):
        result = live(*arguments, stdin=b"\0" * 100)
        assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split()), message
    (tmp_path / "there.txt").write_text("mine")
    assert "is there already" in live("-", "--save", tmp_path / "there.txt", stdin=speech.tobytes()).stderr
    assert (tmp_path / "there.txt").read_text() == "mine"


def test_silence_and_an_empty_stream_give_no_text(live: Live) -> None:
    silent, empty = live("-", stdin=b"\0" * 64_000), live("-")
    assert silent.exit_code == 0 and silent.stdout == "" and "no speech; the recording is silent" in silent.stderr
    assert empty.exit_code == 0 and empty.stdout == "" and "0 ms of audio" in empty.stderr


def test_the_microphone_is_an_extra(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = live()
    assert result.exit_code == 2 and "pip install 'redline[live]'" in result.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ctrl_c_finishes_the_last_text(
    random_checkpoint: Path, speech: NDArray[np.int16], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-m", "redline", "live", "-", "--model", str(random_checkpoint), "--format", "json"]
    with subprocess.Popen(
        [*command, "--save", str(tmp_path / "talk.json")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdin is not None and running.stdout is not None and running.stderr is not None
        running.stdin.write(speech[: round(1.5 * SAMPLE_RATE)].tobytes())
        running.stdin.flush()
        first = json.loads(running.stdout.readline())
        running.send_signal(number)
        rest = [json.loads(line) for line in running.stdout.read().splitlines()]
        assert running.wait() == status and "Traceback" not in running.stderr.read().decode()
    assert first["kind"] == "partial" and rest[-1]["kind"] == "committed" and rest[-1]["end"] == 1.5
    assert json.loads((tmp_path / "talk.json").read_text())["duration"] == 1.5
