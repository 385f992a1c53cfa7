"""A store with a clock that tests turn, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redline.serve.options import ServeOptions
from redline.serve.store.store import Store


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str | None, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(ServeOptions(data_dir=tmp_path / "data", database_url=database_url, retention_days=1.0), clock)
    yield opened
    opened.close()
