"""Faults of a cluster of nodes: every recording once, byte-identical to a run in one process, whatever ends when."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from redline.cluster.ray_start import RayOptions
from redline.cluster.report import BatchReport
from redline.cluster.store import FolderStore, StoreError, open_store
from redline.testing import tone
from tests.cluster.archives import archive, contents, run, settings
from tests.cluster.ray_archives import (
    NODE,
    SMALL_STORE,
    All,
    FailingOnOneNode,
    Killing,
    Slow,
    cluster_of,
    fill,
    load_fake,
    patiently,
    run_on_ray,
    run_until_killed,
    small_disk,
    spilled_bytes,
    tokens,
    transcripts,
    wait_until,
)
from tests.cluster.unkind_s3 import unkind_s3

pytestmark = pytest.mark.battery
SHARDS = settings(8)
DISK_BYTES = 4 << 20


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server that answers 503 to every third request, known to every process of the cluster."""
    with unkind_s3() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(s3: Any) -> Iterator[Any]:
    with cluster_of(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short recordings, and one that is read in parts."""
    folder = archive(tmp_path_factory.mktemp("in"), 40)
    soundfile.write(folder / "long.flac", tone(1500.0).samples, 16_000)
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("one")
    assert run(source, FolderStore(folder), said=SHARDS).done == 41
    return contents(folder)


def test_kills_a_lost_node_a_slow_one_and_a_full_object_store_lose_nothing(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    import ray

    fillers = [ray.put(np.zeros(SMALL_STORE * 3 // 4, np.uint8)) for _ in range(2)]  # there is room for one
    left, out, reports = tokens(tmp_path / "tokens", 2), tmp_path / "out", list[BatchReport]()
    respond = All((Killing(left), Slow(0.02), Slow(0.3, tmp_path / "slow")))
    thread = threading.Thread(
        target=lambda: reports.append(run_on_ray(source, out, partial(load_fake, respond), said=SHARDS))
    )
    thread.start()
    wait_until(lambda: transcripts(out) > 3 or not thread.is_alive())
    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)  # two workers do not fit on what is left
    thread.join()
    patiently(lambda: cluster.add_node(**NODE))
    (report,) = reports
    assert not list(left.iterdir()) and (report.done, report.failed) == (41, 0)
    assert contents(out) == undisturbed
    assert spilled_bytes() > 0
    del fillers


def test_a_driver_that_is_killed_and_a_disk_that_fills_are_gone_on_with(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        out = disk / "out"
        alone = RayOptions(workers=1, worker_cpus=1, decoders=1)
        run_until_killed(cluster.address, source, out, Slow(0.05), SHARDS, 3)
        there = transcripts(out)
        if disk.is_mount():
            filler = fill(disk)
            with pytest.raises(StoreError, match="the disk is full"):
                run_on_ray(source, out, said=SHARDS, options=alone)
            filler.unlink()
        lines: list[str] = []
        report = run_on_ray(source, out, said=SHARDS, say=lines.append, options=RayOptions(workers=1))
        assert contents(out) == undisturbed
        again = run_on_ray(source, out, said=SHARDS)
    assert there > 3 and (report.done, report.failed, report.machines) == (41, 0, 2) and report.recognized < 41
    assert report.rates.decode_cpu_s_per_audio_hour and report.rates.recognize_s_per_audio_hour
    assert "machines: 2, workers: 1, decoders: " in lines[0] and "an hour of audio takes a decoder" in lines[0]
    assert (again.done, again.recognized) == (41, 0)


def test_what_fails_on_a_node_is_tried_on_another_though_s3_refuses(cluster: Any, s3: Any, tmp_path: Path) -> None:
    folder, failing = archive(tmp_path / "in", 6), 0.18
    for path in folder.iterdir():
        s3.put(f"unkind/in/{path.name}", path.read_bytes())
    before = len(s3.refused)
    loading = partial(load_fake, FailingOnOneNode(failing, tmp_path / "mark"))
    report = run_on_ray("s3://unkind/in", "s3://unkind/out", loading, said=SHARDS)
    assert (report.done, report.failed) == (6, 0) and len(s3.refused) > before
    first, second = (tmp_path / "heard").read_text().split()
    assert first != second
    run(folder, FolderStore(tmp_path / "one"), said=SHARDS)
    store = open_store("s3://unkind/out")
    for name, data in contents(tmp_path / "one").items():
        if name.startswith("json"):
            assert store.read(name) == data


@pytest.mark.laws
def test_what_kills_every_worker_is_left_out(cluster: Any, tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 6)
    report = run_on_ray(source, tmp_path / "out", partial(load_fake, Killing(poison_s=0.14)), said=SHARDS)
    assert (report.done, report.failed) == (5, 1)
    (failure,) = report.failures
    assert failure.audio.endswith("002.wav") and failure.attempts == 3 and "lost 3 times" in failure.reason
    (failed,) = json.loads((tmp_path / "out/failed/000000.json").read_text())["recordings"]
    assert failed["attempts"] == 3
