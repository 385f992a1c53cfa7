"""Bundled models on Ray and on its twin: what one process writes, also where texts are generated and speakers told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import redline
from redline import audio
from redline.cluster import ray_run, ray_start
from redline.cluster.ledger import Ledger
from redline.cluster.local import LocalRun
from redline.cluster.ray_run import RayRun
from redline.cluster.ray_start import RayOptions
from redline.cluster.source import Source
from redline.cluster.stages import PlanBook
from redline.cluster.store import FolderStore
from redline.transcriber import Transcriber
from tests.cluster.archives import contents, settings
from tests.cluster.plain_ray import PlainRay
from tests.cluster.ray_archives import cluster_of

pytestmark = pytest.mark.laws
ROOT = Path(__file__).parents[2]


@cache
def loaded(model: str, drafts: str) -> Transcriber:
    return redline.load_model(model, drafts=drafts)


@pytest.fixture(scope="module", params=["twin", "ray"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    with cluster_of(2) if request.param == "ray" else nullcontext():
        yield request.param


@pytest.mark.parametrize(
    ("model", "drafts", "asked"),
    [
        ("tiny-plus", "none", {}),
        ("tiny-plus", "none", {"speakers": 2, "words": True}),
        ("tiny", "own", {"speakers": 2}),
    ],
)
def test_the_stages_write_what_one_process_writes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, drafts: str, asked: dict[str, Any]
) -> None:
    (tmp_path / "in").mkdir()
    voice = audio.load(ROOT / "tests/data/jfk.flac").samples
    for number, samples in enumerate((voice, voice[: 16_000 * 4], np.concatenate((voice, voice)))):
        soundfile.write(tmp_path / "in" / f"{number}.flac", samples, 16_000)
    ray, source, transcriber = PlainRay(), Source(str(tmp_path / "in")), loaded(model, drafts)
    one, other = (Ledger(FolderStore(tmp_path / name), settings()) for name in ("one", "ray"))
    LocalRun(one, source, transcriber, PlanBook.of(transcriber, **asked)).run()
    for module in (ray_run, ray_start) if place == "twin" else ():
        monkeypatch.setattr(module, "ray_package", lambda: ray)
    options = RayOptions(workers=2, worker_cpus=1, decoders=1)
    assert RayRun(other, source, partial(loaded, model, drafts), partial(given, asked), options).run().done == 3
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def given(asked: dict[str, Any], transcriber: Transcriber) -> dict[str, Any]:
    return asked
