"""Fixtures that every test may use: recordings, golden values, and models that are loaded once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
from hypothesis import HealthCheck, settings

import redline
from redline.checkpoints.folder import ASSETS
from redline.types import Transcript
from tests.builders import tiny_checkpoint

TESTS = Path(__file__).parent
SCHEMA = json.loads((TESTS.parent / "docs" / "transcript.schema.json").read_text(encoding="utf-8"))
# How long anything takes depends on what else the machine does, so no test fails by the clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
# Where the environment forbids bytecode, every command that a test starts would compile PyTorch again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(TESTS.parent / ".pytest_cache" / "bytecode"))
# A shell's background job ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def jfk() -> Path:
    """Eleven seconds of speech, of which the text is known."""
    return TESTS / "data" / "jfk.flac"


@pytest.fixture(scope="session")
def demo() -> Path:
    """The recording that ships with the package."""
    return ASSETS / "demo.flac"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden values."""
    return TESTS / "data" / "golden"


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a NAR model with random weights, which loads in milliseconds; not to be changed."""
    return tiny_checkpoint(tmp_path_factory.mktemp("random") / "model")


@pytest.fixture(scope="session")
def tiny() -> redline.Model:
    """The bundled English NAR model."""
    return redline.load_model("tiny", device="cpu")


@pytest.fixture(scope="session")
def tiny_multi() -> redline.Model:
    """The bundled NAR model of five languages."""
    return redline.load_model("tiny-multi", device="cpu")


@pytest.fixture(scope="session")
def tiny_plus() -> redline.Model:
    """The bundled Plus model."""
    return redline.load_model("tiny-plus", device="cpu")


@pytest.fixture(autouse=True, scope="session")
def every_transcript_follows_its_schema() -> Iterator[None]:
    """Whatever test turns a transcript into JSON also tests docs/transcript.schema.json."""
    validate, to_dict = fastjsonschema.compile(SCHEMA), Transcript.to_dict

    def validated(transcript: Transcript, all_edits: bool = False) -> dict[str, Any]:
        values = to_dict(transcript, all_edits)
        validate(values)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcript, "to_dict", validated)
        yield
