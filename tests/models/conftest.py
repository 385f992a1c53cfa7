"""Fixtures of the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redline.checkpoints import ar
from redline.models.ar import ArModel
from tests.models.ar_referee import KINDS, referee


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ArModel]]:
    """The same weights twice: in `transformers`, and loaded here from what it saved."""
    theirs = referee(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    ours = ar.load_ar(folder).model
    assert ours.config.kind == request.param
    yield theirs, ours
