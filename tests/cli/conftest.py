"""Fixtures of the command line: `redline transcribe` with a recognizer that writes what a test wants."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redline import load as load_module
from redline.cli.main import app
from redline.engine.scheduler import BatchOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Waveform
from tests.cli.commands import Run


@pytest.fixture
def run_vad(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `redline transcribe` with a recognizer that writes "heard" for every window that speech detection finds."""

    def invoke(
        *arguments: object,
        respond: Callable[[Waveform], str | Hypothesis] = lambda clip: "heard",
        stdin: bytes = b"",
        charset: str = "utf-8",
        batch_s: float = 120.0,
    ) -> Result:
        model = Transcriber(FakeRecognizer(respond), batch=BatchOptions(batch_s))
        monkeypatch.setattr(load_module, "load_model", lambda *args, **kwargs: model)
        return CliRunner(charset=charset).invoke(app, ["transcribe", *map(str, arguments)], input=stdin)

    return invoke


@pytest.fixture
def run(run_vad: Run) -> Run:
    """The same without speech detection: every window of 30 s is recognized."""
    return lambda *arguments, **options: run_vad(*arguments, "--no-vad", **options)


@pytest.fixture
def recordings(tmp_path: Path, jfk: Path) -> Path:
    """A folder with two good recordings of one name and a bad one."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(jfk, tmp_path / "in" / "talk.flac")
    shutil.copy(jfk, tmp_path / "in" / "sub" / "Talk.flac")
    (tmp_path / "in" / "bad.wav").write_bytes(b"not a recording")
    (tmp_path / "in" / "notes.txt").write_text("not for us")
    (tmp_path / "in" / ".hidden.wav").write_bytes(b"")
    return tmp_path / "in"
