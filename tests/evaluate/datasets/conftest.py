"""A stand-in for the hub."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.evaluate.datasets.library import NEWEST, Library


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """The `datasets` library, with a hub that answers with one revision."""
    library = Library()
    monkeypatch.setitem(sys.modules, "datasets", library)
    hub = SimpleNamespace(dataset_info=lambda name, timeout: SimpleNamespace(sha=NEWEST))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    return library
