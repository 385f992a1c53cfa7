"""What tests of several metrics, data sets and the command share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Done

from redline.cli.main import app
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from tests.evaluate.results import best_pairing


@pytest.fixture
def meeteval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, so that these tests run where it cannot be compiled."""
    package, wer = ModuleType("meeteval"), ModuleType("meeteval.wer")
    package.__spec__ = ModuleSpec("meeteval", None)
    wer.cp_word_error_rate = best_pairing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meeteval", package)
    monkeypatch.setitem(sys.modules, "meeteval.wer", wer)


@pytest.fixture
def evaluate_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs `redline evaluate` with a recognizer, or one for each name of a model."""

    def run(recognizer: FakeRecognizer | Callable[[str], FakeRecognizer], *arguments: object) -> Done:
        def load_model(name: str, **_: object) -> Transcriber:
            chosen = recognizer if isinstance(recognizer, FakeRecognizer) else recognizer(name)
            return Transcriber(chosen, SessionOptions(vad=None))

        monkeypatch.setattr("redline.load.load_model", load_model)
        return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])

    return run
