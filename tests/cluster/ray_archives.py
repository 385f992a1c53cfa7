"""What tests of Ray share; workers import this module, so that all here may travel to them."""

from __future__ import annotations

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redline.cluster.ledger import Ledger, RunSettings
from redline.cluster.ray_run import RayRun
from redline.cluster.ray_start import RayOptions, this_node
from redline.cluster.report import BatchReport
from redline.cluster.source import Source
from redline.cluster.store import open_store
from redline.errors import RecognitionError
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import Waveform
from tests.cluster.archives import OPTIONS, level, settings

ROOT = Path(__file__).parents[2]
SMALL_STORE = 80 << 20
"""Bytes of a node's object store: two loads of ten minutes do not fit, so sound is spilled to the disk."""
NODE = {"num_cpus": 1, "object_store_memory": SMALL_STORE}
DEADLINE_S = 600.0


@contextmanager
def cluster_of(nodes: int, cpus: int = 1) -> Iterator[Any]:
    """Ray on so many nodes with so many CPUs each, all on this machine, which this process has joined; workers can
    import the tests."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path}.items():
            patch.setenv(name, value)
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        node = NODE | {"num_cpus": cpus}
        head = node | {"include_dashboard": False}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        for _ in range(nodes - 1):
            patiently(lambda: cluster.add_node(**node))
        ray.init(cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of its own of so many bytes where this machine allows that, else a folder."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    is_mounted = os.getuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    yield place
    if is_mounted:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """What leaves no room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    return disk / "filler"


def run_until_killed(
    address: str, source: Path, out: Path, hear: Callable[[Waveform], str], said: RunSettings, count: int
) -> None:
    """A run whose driver, a process of its own, is killed once there are more than so many transcripts."""
    given = pickle.dumps((address, str(source), str(out), partial(load_fake, hear), said))
    code = (
        "import pickle, ray; from tests.cluster.ray_archives import run_on_ray\n"
        f"address, source, out, loading, said = pickle.loads({given!r})\n"
        "ray.init(address, log_to_driver=False)\n"
        "run_on_ray(source, out, loading, said=said)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        wait_until(lambda: transcripts(out) > count or process.poll() is not None)
        process.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Killing:
    """A `hear` that ends its process where a clip is of a certain length, or by chance while tokens are left."""

    tokens: Path | None = None
    rate: float = 0.3
    poison_s: float | None = None

    def __call__(self, clip: Waveform) -> str:
        if self.poison_s is not None and abs(clip.duration - self.poison_s) < 0.005:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.tokens is not None and random.random() < self.rate:
            for token in self.tokens.iterdir():
                with suppress(FileNotFoundError):
                    token.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
        return level(clip)


@dataclass(frozen=True)
class Slow:
    """A `hear` that takes its time, on one node or on every one."""

    seconds: float
    mark: Path | None = None
    """Made by the first who hears, whose node is the slow one; None: all are."""

    def __call__(self, clip: Waveform) -> str:
        if self.mark is None or first_node(self.mark) == this_node():
            time.sleep(self.seconds)
        return level(clip)


@dataclass(frozen=True)
class FailingOnOneNode:
    """A `hear` that fails on a clip of a certain length on the node that hears it first, and notes where it was."""

    length_s: float
    mark: Path

    def __call__(self, clip: Waveform) -> str:
        if abs(clip.duration - self.length_s) < 0.005:
            is_first = first_node(self.mark) == this_node()
            with (self.mark.parent / "heard").open("a") as file:
                file.write(f"{this_node()}\n")
            if is_first:
                raise RecognitionError("no memory on this machine")
        return level(clip)


@dataclass(frozen=True)
class All:
    """Several `hear`, one after the other; all hear the same."""

    hears: tuple[Callable[[Waveform], str], ...]

    def __call__(self, clip: Waveform) -> str:
        return [respond(clip) for respond in self.hears][-1]


def first_node(mark: Path) -> str:
    """The node of whoever asked first."""
    with suppress(FileExistsError):
        mark.symlink_to(this_node())
    return str(mark.readlink())


def load_fake(respond: Callable[..., Any] = level) -> Transcriber:
    return Transcriber(FakeRecognizer(respond))


def asked(transcriber: Transcriber) -> dict[str, Any]:
    return OPTIONS


def run_on_ray(
    source: Path | str, dest: Path | str, loading: Callable[[], Transcriber] = load_fake, **more: Any
) -> BatchReport:
    """A run on the Ray that this process has joined."""
    options = more.pop("options", RayOptions(workers=2, worker_cpus=1, decoders=1))
    ledger = Ledger(open_store(str(dest)), more.pop("said", settings()))
    return RayRun(ledger, Source(str(source)), loading, asked, options, **more).run()


def tokens(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).touch()
    return folder


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def transcripts(folder: Path) -> int:
    return sum(1 for _ in folder.glob("json/*/*.json"))


def spilled_bytes() -> int:
    """What the object stores of the cluster have written to disks so far."""
    import ray
    from ray._private.internal_api import memory_summary

    stores = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    told = re.findall(r"Spilled (\d+) MiB", stores)
    return sum(map(int, told)) << 20


def patiently(start: Callable[[], Any]) -> Any:
    """What starts a node, which gives up after half a minute, however busy the machine is."""
    for left in reversed(range(12)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError
