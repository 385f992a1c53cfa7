"""The plan against measured runs of `redline batch`: one worker and two, with a recognizer that takes a fixed time.

    python scripts/plan_against_runs.py --recordings 400 --speed 100
    python scripts/plan_against_runs.py --recordings 400 --speed 100 --ray

A run of a quarter of the recordings with one worker gives the report on which the plans rest. Recognition is a sleep,
so workers do not fight for the CPUs of one machine, as they would not on two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from redline.cluster.ledger import Ledger, RunSettings
from redline.cluster.local import LocalRun
from redline.cluster.plan import MEASURED, Workload, plan, with_report
from redline.cluster.prices import PriceList
from redline.cluster.progress import ShardShare
from redline.cluster.ray_run import RayRun
from redline.cluster.ray_start import RayOptions, start_ray
from redline.cluster.report import BatchReport
from redline.cluster.source import Source
from redline.cluster.stages import PlanBook
from redline.cluster.store import open_store
from redline.engine.scheduler import BatchOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Waveform

SECONDS = 20.0
ASKED = {"vad": False}
SHARD_SIZE = 8
WHOLE = ShardShare()


@dataclass(frozen=True)
class Sleeping:
    """A `hear` at a speed in times real time."""

    speed: float

    def __call__(self, clip: Waveform) -> str:
        time.sleep(clip.duration / self.speed)
        return f"{clip.duration:.1f} seconds"


def load(speed: float) -> Transcriber:
    return Transcriber(FakeRecognizer(Sleeping(speed)), batch=BatchOptions(SECONDS))


def asked(transcriber: Transcriber) -> dict[str, bool]:
    return ASKED


def ledger(dest: Path) -> Ledger:
    return Ledger(open_store(str(dest)), RunSettings("fake", "0", {}, SHARD_SIZE, ("json",)))


def run_here(source: Path, dest: Path, speed: float, share: ShardShare = WHOLE) -> BatchReport:
    transcriber = load(speed)
    return LocalRun(ledger(dest), Source(str(source)), transcriber, PlanBook.of(transcriber, **ASKED), share).run()


def run_on_ray(source: Path, dest: Path, speed: float, workers: int = 1) -> BatchReport:
    pools = RayOptions(workers=workers, worker_cpus=1, decoders=1)
    return RayRun(ledger(dest), Source(str(source)), partial(load, speed), asked, pools).run()


def seconds_here(source: Path, dest: Path, speed: float, workers: int) -> float:
    """The time of so many processes that take every n-th shard each."""
    context = multiprocessing.get_context("fork")
    started = time.monotonic()
    shares = [ShardShare(number, workers) for number in range(1, workers + 1)]
    running = [context.Process(target=run_here, args=(source, dest, speed, share)) for share in shares]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return time.monotonic() - started


def seconds_on_ray(source: Path, dest: Path, speed: float, workers: int) -> float:
    return run_on_ray(source, dest, speed, workers).wall_s


def make(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(SECONDS * SAMPLE_RATE))
        soundfile.write(folder / f"{number:05}.flac", noise, SAMPLE_RATE)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help=f"of {SECONDS:g} s each")
    parser.add_argument("--speed", type=float, default=100, help="of the recognizer, x real time")
    parser.add_argument("--ray", action="store_true", help="with Ray on this machine; else without")
    given = parser.parse_args()
    if given.ray:
        start_ray(RayOptions(dashboard=False))
    run, seconds = (run_on_ray, seconds_on_ray) if given.ray else (run_here, seconds_here)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = run(make(folder / "few", given.recordings // 4), folder / "first", given.speed)
        source = make(folder / "in", given.recordings)
        measured = {count: seconds(source, folder / f"out-{count}", given.speed, count) for count in (1, 2)}
    prices = PriceList.read()
    prices = replace(prices, retried_share=replace(prices.retried_share, value=0.0))
    prices = with_report(prices, report, "report.json", "today")
    hours = given.recordings * SECONDS / 3600
    for count, measured_s in measured.items():
        outcome = plan(Workload(hours, SECONDS / 60, "flac", report.model), {MEASURED: count}, prices)
        planned_s, efficiency = 3600 * outcome.run_hours, measured[1] / measured_s / count
        print(f"{count} workers: {measured_s:.1f} s measured, {planned_s:.1f} s planned ({planned_s / measured_s:.0%})")
        print(f"  efficiency {efficiency:.0%}, held up by {outcome.bottleneck}, start {report.rates.start_s:.1f} s")


if __name__ == "__main__":
    main()
