"""The command `redline`: exit statuses, faults, help, and a real terminal."""

from __future__ import annotations

import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import redline
from redline.checkpoints.folder import bundled_names
from redline.cli import console
from redline.cli.main import VERBS, app
from redline.types import Waveform
from tests.cli.commands import Run, recording


def test_nothing_produced_is_exit_2(run: Run, recordings: Path, tmp_path: Path) -> None:
    assert run(recordings / "bad.wav").exit_code == 2
    assert run(tmp_path / "missing.wav").exit_code == 2
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "*.mp3"):
        result = run(nothing)
        assert result.exit_code == 2 and "no " in result.stderr


def test_one_bad_argument_is_exit_1(run: Run, tmp_path: Path, jfk: Path) -> None:
    assert run(jfk, tmp_path / "missing.wav").exit_code == 1
    assert run(jfk, tmp_path / "*.mp3").exit_code == 1


def test_a_fault_of_the_program_is_not_taken_for_a_bad_recording(run: Run, tmp_path: Path) -> None:
    def respond(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    result = run(recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav"), respond=respond)
    assert result.exit_code == console.INTERNAL_ERROR and result.stderr.count("\n") == 1
    assert "internal error" in result.stderr and "IndexError: list index out of range" in result.stderr
    assert "--debug" in result.stderr and "Traceback" not in result.stderr


def test_debug_prints_the_traceback(run: Run, tmp_path: Path) -> None:

    def respond(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    try:
        result = run(recording(tmp_path / "a.wav"), "--debug", respond=respond)
    finally:
        logging.getLogger("redline").setLevel(logging.NOTSET)
    assert result.exit_code == console.INTERNAL_ERROR and "Traceback" in result.stderr and "in respond" in result.stderr


def on_terminal(arguments: list[str]) -> str:
    """Everything a command writes to a terminal of 80 columns, as the terminal gets it."""
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "OMP_NUM_THREADS": "1"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(arguments, stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen, deadline = b"", time.monotonic() + 120
        while time.monotonic() < deadline:
            if select.select([parent], [], [], 1)[0]:
                try:
                    chunk = os.read(parent, 65536)
                except OSError:  # how Linux says that the other end is closed
                    break
                if not chunk:
                    break
                seen += chunk
        assert process.wait(timeout=10) == 0, seen
    os.close(parent)
    return seen.decode()


def test_on_a_terminal_there_is_progress_and_then_only_the_text(random_checkpoint: Path, jfk: Path) -> None:
    folder = str(random_checkpoint)
    seen = on_terminal([sys.executable, "-m", "redline", "transcribe", str(jfk), "--model", folder, "--show-edits"])
    assert "transcribing" in seen and "of audio" in seen
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in seen.replace("\r", "\n").split("\n")]
    assert all(len(line) <= 80 for line in lines if "of audio" in line)
    assert "\x1b[9;31m" in seen and "\x1b[32m" in seen
    assert seen.rstrip().endswith("real time)\x1b[0m")


def test_a_closed_pipe_is_no_traceback(random_checkpoint: Path, jfk: Path) -> None:
    command = [sys.executable, "-m", "redline", "transcribe", str(jfk), "--model", str(random_checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_help_is_fast_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom redline.cli.main import app\n"
        "def loaded(*names): return [name for name in names if name in sys.modules]\n"
        "for arguments in ['transcribe', '--help'], ['--help']:\n"
        "    before = loaded('redline.cli.evaluate')\n"
        "    try:\n        app(arguments)\n    except SystemExit:\n        pass\n"
        "print(before + loaded('torch', 'numpy', 'av', 'soxr', 'jinja2'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--show-edits" in run.stdout and run.stdout.rstrip().endswith("[]")


def test_version_and_info(random_checkpoint: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"redline {redline.__version__}\n"
    facts = CliRunner().invoke(app, ["info", "--model", str(random_checkpoint)]).stdout
    for fact in (redline.__version__, "granite_speech_nar", "0.2 million", "en", str(random_checkpoint)):
        assert fact in facts
    sharing = CliRunner().invoke(app, ["info", "--model", "tiny-plus"]).stdout
    assert re.search(r"^precision +float32$", sharing, re.MULTILINE), "it writes token after token"
    assert "encoder and draft_lm of" in sharing and "3.17 million n-grams" in sharing and "34.1 million" in sharing
    assert CliRunner().invoke(app, ["info", "--model", str(tmp_path / "none")]).exit_code == 2


def test_bundled_models_are_listed() -> None:

    assert CliRunner().invoke(app, ["models", "list"]).stdout.split() == bundled_names()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and f"redline {verb}" in result.stdout.replace("root", "redline")
