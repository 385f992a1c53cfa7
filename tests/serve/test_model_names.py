"""`redline serve --model-name`: the names under which clients ask for the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner

import redline
from redline import Transcriber
from redline.cli.main import app
from redline.serve.options import ServeOptions
from redline.testing import FakeRecognizer


def options_of(monkeypatch: pytest.MonkeyPatch, folder: Path, arguments: Sequence[str]) -> ServeOptions:
    served: list[uvicorn.Config] = []
    monkeypatch.setattr(redline, "load_model", lambda *_, **__: Transcriber(FakeRecognizer()))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets=None: served.append(self.config))
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--data", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return served[0].app.state.server.options  # type: ignore[union-attr, no-any-return]


def test_names_that_are_given_mean_the_loaded_model_and_no_others_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = options_of(monkeypatch, tmp_path, ["--model-name", "whisper-1", "--model-name", "gpt-transcribe"])
    assert options.model_names == ("whisper-1", "gpt-transcribe") and not options.any_model_name
    assert options_of(monkeypatch, tmp_path, []).any_model_name
