"""Ctrl-C and SIGTERM: what is done is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import redline
from redline import files
from redline.types import Waveform
from tests.cli.commands import Run, recording


def stop_after(count: int) -> Callable[[Waveform], str]:
    durations: list[float] = []

    def respond(clip: Waveform) -> str:
        if len(durations) == count:
            raise KeyboardInterrupt
        durations.append(clip.duration)
        return f"window {len(durations)}"

    return respond


def test_interrupted_work_says_what_is_done(run: Run, recordings: Path, tmp_path: Path) -> None:
    def respond(clip: Waveform) -> str:
        if list((tmp_path / "out").glob("*.txt")):
            raise KeyboardInterrupt
        return "heard"

    files = [recordings / "talk.flac", recordings / "sub" / "Talk.flac"]
    result = run(*files, "--output-dir", tmp_path / "out", respond=respond, batch_s=1.0)
    assert result.exit_code == 130
    assert "interrupted; 1 of 2 recordings are done" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["talk.txt"]


def test_interruption_keeps_the_windows_that_are_finished(run: Run, tmp_path: Path) -> None:
    path, out = recording(tmp_path / "long.wav", 100.0), tmp_path / "out"
    result = run(path, "--output-dir", out, "--format", "txt,json,docx", respond=stop_after(2), batch_s=1.0)
    assert result.exit_code == 130
    assert {file.name for file in out.iterdir()} == {"long.txt.partial", "long.json.partial", "long.docx.partial"}
    assert (out / "long.txt.partial").read_text() == "window 1\nwindow 2\n"
    assert b"window 2" in zipfile.ZipFile(out / "long.docx.partial").read("word/document.xml")
    transcript = json.loads((out / "long.json.partial").read_text())
    (notice,) = transcript["warnings"]
    assert notice["code"] == "interrupted" and notice["start"] == transcript["segments"][-1]["end"]
    assert notice["end"] == transcript["duration"] == 100.0
    assert str(out / "long.txt.partial") in result.stderr and "of 1:40 are missing" in result.stderr
    run(path, "--output-dir", out, respond=stop_after(2), batch_s=1.0)
    assert (out / "long.txt.2.partial").read_text() == "window 1\nwindow 2\n", "and never over what is there"
    assert run(path, respond=stop_after(2), batch_s=1.0).stdout == "window 1\nwindow 2\n", (
        "without a folder it is printed"
    )


def test_interruption_delivers_the_recordings_that_are_done(run: Run, tmp_path: Path) -> None:
    paths = [recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav", 80.0), recording(tmp_path / "c.wav", 80.0)]
    result = run(*paths, "--output-dir", tmp_path / "out", respond=stop_after(2), batch_s=1.0)
    assert result.exit_code == 130 and "interrupted; 1 of 3 recordings are done" in result.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt.partial"}


def test_a_signal_during_writing_loses_nothing_that_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_bytes

    def signalled(path: Path, data: bytes, **options: bool) -> Path:
        if path.name == "a.txt":
            os.kill(os.getpid(), signal.SIGTERM)
        return write(path, data, **options)

    monkeypatch.setattr(files, "write_bytes", signalled)
    paths = [recording(tmp_path / f"{name}.wav") for name in "abc"]
    before = signal.getsignal(signal.SIGTERM)
    result = run(*paths, "--output-dir", tmp_path / "out")
    assert result.exit_code == 143 and "3 of 3 recordings are done" in result.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.txt", "b.txt", "c.txt"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_pressed_twice_in_a_row_loses_nothing_that_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = 0

    def respond(clip: Waveform) -> str:
        nonlocal done
        done += 1
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return f"window {done}"

    write, signalled = files.write_bytes, list[Path]()

    def writing(path: Path, data: bytes, **options: bool) -> Path:
        signalled.append(path)
        os.kill(os.getpid(), signal.SIGTERM)
        return write(path, data, **options)

    monkeypatch.setattr(files, "write_bytes", writing)
    result = run(
        recording(tmp_path / "long.wav", 100.0), "--output-dir", tmp_path / "out", respond=respond, batch_s=1.0
    )
    assert result.exit_code == 143 and len(signalled) == 1
    assert (tmp_path / "out" / "long.txt.partial").read_text() == "window 1\nwindow 2\n"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["long.txt.partial"]


def test_ctrl_c_while_the_program_ends_shows_no_traceback() -> None:
    code = (
        "import atexit, os, signal\nfrom redline.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT and ended.stderr == "" and ended.stdout.startswith("redline ")


def test_ctrl_c_in_a_long_recording_keeps_what_is_done(tmp_path: Path) -> None:
    recording(tmp_path / "long.wav", 200.0)
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under\n"
        "from redline import load\nfrom redline.transcriber import Transcriber\n"
        "from redline.engine.scheduler import BatchOptions\n"
        "from redline.testing import FakeRecognizer\nfrom redline.cli.main import main\n"
        "calls = 0\n"
        "def hear(clip):\n"
        "    global calls\n    calls += 1\n"
        "    if calls == 5: open('started', 'w').close()\n"
        "    if calls >= 5: time.sleep(60)\n"
        "    return 'heard'\n"
        "load.load_model = lambda *args, **kwargs: Transcriber(FakeRecognizer(hear), batch=BatchOptions(1.0))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "transcribe", "long.wav", "--no-vad", "--output-dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(redline.__file__).parents[1])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["long.txt.partial"], stderr
    assert (tmp_path / "out" / "long.txt.partial").read_text().count("heard") >= 3
    assert "out/long.txt.partial" in stderr and "Traceback" not in stderr
