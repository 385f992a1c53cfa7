"""Small whole checkpoints that a test may spoil, and an alarm for whatever waits for ever."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from redline.load import load_model
from tests import hostile


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("sound")
    folders = hostile.editing(base / "editing"), hostile.answering(base / "answering")
    for folder in folders:
        load_model(folder, device="cpu")
    return folders


@pytest.fixture
def editing(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[0], tmp_path / "editing"))


@pytest.fixture
def answering(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[1], tmp_path / "answering"))


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden NAR checkpoint that a test may break."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(golden / "nar-tiny" / name, target / name)
    return target


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Whatever waits for ever fails instead."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
