"""Faults of a cluster of nodes: every recording once, byte-identical to a run in one process, whatever ends when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline.cluster.ray_start import RayOptions
from redline.cluster.report import BatchReport
from redline.cluster.store import FolderStore, StoreError
from redline.testing import tone
from tests.cluster.archives import archive, contents, run, settings
from tests.cluster.ray_archives import (
    HEAD,
    Killing,
    Slow,
    load_fake,
    patiently,
    run_on_ray,
    tokens,
    transcripts,
    wait_until,
)

pytestmark = pytest.mark.battery
SHARDS = settings(8)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on a head and one more node, both on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"  # workers import these tests
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = patiently(lambda: Cluster(initialize_head=True, head_node_args=HEAD))
    patiently(lambda: nodes.add_node(num_cpus=2))
    ray.init(nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


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


def started(source: Path, out: Path, loading: Any) -> tuple[threading.Thread, list[BatchReport]]:
    """A run in a thread, and where its report will be."""
    reports: list[BatchReport] = []
    thread = threading.Thread(target=lambda: reports.append(run_on_ray(source, out, loading, said=SHARDS)))
    thread.start()
    return thread, reports


@pytest.mark.laws
def test_two_nodes_make_what_one_process_makes(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    lines: list[str] = []
    options = RayOptions(workers=2)
    report = run_on_ray(source, tmp_path, said=SHARDS, say=lines.append, options=options)
    assert contents(tmp_path) == undisturbed
    assert (report.done, report.recognized, report.failed, report.machines) == (41, 41, 0, 2)
    assert report.rates.decode_cpu_s_per_audio_hour and report.rates.recognize_s_per_audio_hour
    assert "machines: 2, workers: 2, decoders: " in lines[0] and "an hour of audio takes a decoder" in lines[0]
    again = run_on_ray(source, tmp_path, said=SHARDS)
    assert (again.done, again.recognized) == (41, 0)


def test_workers_that_are_killed_lose_nothing(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    left = tokens(tmp_path / "tokens", 3)
    report = run_on_ray(source, tmp_path / "out", partial(load_fake, Killing(left)), said=SHARDS)
    assert not list(left.iterdir()) and report.failed == 0
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.laws
def test_what_kills_every_worker_is_left_out(cluster: Any, tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 6)
    report = run_on_ray(source, tmp_path / "out", partial(load_fake, Killing(poison_s=0.14)), said=SHARDS)
    assert (report.done, report.failed) == (5, 1)
    (failure,) = report.failures
    assert failure.audio.endswith("002.wav") and failure.attempts == 3 and "lost 3 times" in failure.reason
    (failed,) = json.loads((tmp_path / "out/failed/000000.json").read_text())["recordings"]
    assert failed["attempts"] == 3


def test_a_node_that_is_lost_takes_nothing_with_it(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    node = patiently(lambda: cluster.add_node(num_cpus=2))
    thread, reports = started(source, tmp_path, partial(load_fake, Slow(0.05)))
    wait_until(lambda: transcripts(tmp_path) > 3)
    cluster.remove_node(node, allow_graceful=False)
    thread.join()
    assert reports and reports[0].done == 41 and contents(tmp_path) == undisturbed


def test_a_driver_that_is_killed_is_gone_on_with(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    code = (
        "import ray; from functools import partial; from tests.cluster.archives import settings\n"
        "from tests.cluster.ray_archives import Slow, load_fake, run_on_ray\n"
        f"ray.init({cluster.address!r}, log_to_driver=False)\n"
        f"run_on_ray({str(source)!r}, {str(tmp_path)!r}, partial(load_fake, Slow(0.05)), said=settings(8))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        wait_until(lambda: transcripts(tmp_path) > 3 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    there = transcripts(tmp_path)
    report = run_on_ray(source, tmp_path, said=SHARDS)
    assert contents(tmp_path) == undisturbed
    assert there > 3 and report.done == 41 and report.recognized < 41


@pytest.mark.laws
def test_a_slow_worker_gets_less(cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    run_on_ray(source, tmp_path / "out", partial(load_fake, Slow(0.3, tmp_path / "mark")), said=SHARDS)
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.laws
def test_a_dest_that_fails_stops_the_run_and_accuses_nobody(
    cluster: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "json").touch()  # where a folder has to be
    with pytest.raises(StoreError, match="a part of this path is a file"):
        run_on_ray(source, tmp_path, said=SHARDS)
    (tmp_path / "json").unlink()
    assert run_on_ray(source, tmp_path, said=SHARDS).failed == 0
    assert contents(tmp_path) == undisturbed
