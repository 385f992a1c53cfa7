"""The faults of a cluster at full counts: 1,000 short recordings and 20 long ones, three nodes, 50 kills; a bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from redline.cluster.report import BatchReport
from redline.cluster.store import FolderStore, StoreError, open_store
from redline.testing import tone
from tests.cluster.archives import archive, contents, run, settings
from tests.cluster.ray_archives import (
    SMALL_STORE,
    All,
    Killing,
    Slow,
    cluster_of,
    fill,
    load_fake,
    run_on_ray,
    run_until_killed,
    small_disk,
    spilled_bytes,
    tokens,
    transcripts,
    wait_until,
)
from tests.cluster.unkind_s3 import unkind_s3

pytestmark = pytest.mark.laws
SAID = settings(64)
DISK_BYTES = 32 << 20


@pytest.fixture
def cluster() -> Iterator[Any]:
    with cluster_of(3) as nodes:
        yield nodes


def test_an_archive_survives_kills_of_all_kinds_a_lost_node_a_slow_one_a_small_object_store_and_a_full_disk(
    cluster: Any, tmp_path: Path
) -> None:
    import ray

    fillers = [ray.put(np.zeros(SMALL_STORE * 3 // 4, np.uint8)) for _ in range(2)]  # there is room for one
    source = archive(tmp_path / "in", 1000, step_s=0.001)
    for number in range(20):
        soundfile.write(source / f"long-{number:02}.flac", tone(1200.0 + number).samples, 16_000)
    assert run(source, FolderStore(tmp_path / "one"), said=SAID).done == 1020
    left = tokens(tmp_path / "tokens", 50)
    hear = All((Killing(left, rate=0.05), Slow(0.02, tmp_path / "slow")))
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        out, outcomes = disk / "out", list[BatchReport | StoreError]()
        run_until_killed(cluster.address, source, out, hear, SAID, 100)
        assert transcripts(out) < 900

        def go_on() -> None:
            try:
                outcomes.append(run_on_ray(source, out, partial(load_fake, hear), said=SAID))
            except StoreError as error:
                outcomes.append(error)

        thread = threading.Thread(target=go_on)
        thread.start()
        wait_until(lambda: transcripts(out) > 300 or not thread.is_alive())
        cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
        if disk.is_mount():
            wait_until(lambda: transcripts(out) > 500 or not thread.is_alive())
            filler = fill(disk)
            thread.join()
            assert isinstance(outcomes.pop(), StoreError)
            filler.unlink()
            go_on()
        thread.join()
        (report,) = outcomes
        assert isinstance(report, BatchReport) and (report.done, report.failed) == (1020, 0)
        assert not list(left.iterdir()) and contents(out) == contents(tmp_path / "one")
    assert spilled_bytes() > 0
    del fillers


def test_an_archive_in_a_bucket_that_refuses_every_third_request_is_that_of_a_folder(tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 300, step_s=0.001)
    assert run(source, FolderStore(tmp_path / "one"), said=SAID).done == 300
    with unkind_s3() as s3, cluster_of(2):
        for path in source.iterdir():
            s3.put(f"unkind/in/{path.name}", path.read_bytes())
        before = len(s3.refused)
        report = run_on_ray("s3://unkind/in", "s3://unkind/out", said=SAID)
        assert (report.done, report.failed) == (300, 0) and len(s3.refused) - before > 300
        store = open_store("s3://unkind/out")
        for name, data in contents(tmp_path / "one").items():
            if name.startswith("json"):
                assert store.read(name) == data
