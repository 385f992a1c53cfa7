"""The faults of a cluster at full counts: 1,000 short recordings and 20 long ones, three nodes, 50 kills."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline.cluster.report import BatchReport
from redline.cluster.store import FolderStore
from redline.testing import tone
from tests.cluster.archives import archive, contents, run, settings
from tests.cluster.ray_archives import (
    Killing,
    cluster_of,
    load_fake,
    run_on_ray,
    spilled_bytes,
    tokens,
    transcripts,
    wait_until,
)

pytestmark = pytest.mark.laws
SAID = settings(64)


@pytest.fixture
def cluster() -> Iterator[Any]:
    with cluster_of(3) as nodes:
        yield nodes


def test_an_archive_survives_fifty_kills_a_lost_node_and_a_small_object_store(cluster: Any, tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 1000, step_s=0.001)
    for number in range(20):
        soundfile.write(source / f"long-{number:02}.flac", tone(1200.0 + number).samples, 16_000)
    assert run(source, FolderStore(tmp_path / "one"), said=SAID).done == 1020
    left, out = tokens(tmp_path / "tokens", 50), tmp_path / "out"
    loading = partial(load_fake, Killing(left, rate=0.05))
    reports: list[BatchReport] = []
    thread = threading.Thread(target=lambda: reports.append(run_on_ray(source, out, loading, said=SAID)))
    thread.start()
    wait_until(lambda: transcripts(out) > 100 or not thread.is_alive())
    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
    thread.join()
    (report,) = reports
    assert not list(left.iterdir()) and (report.done, report.failed) == (1020, 0)
    assert contents(out) == contents(tmp_path / "one")
    assert spilled_bytes() > 0
