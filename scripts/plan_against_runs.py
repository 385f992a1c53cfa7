"""The plan against measured runs of `redline batch`: one worker and two, with a recognizer that takes a fixed time.

    python scripts/plan_against_runs.py --recordings 400 --speed 100
    python scripts/plan_against_runs.py --recordings 400 --speed 100 --ray
    python scripts/plan_against_runs.py --recordings 200 --model tiny --speech tests/data/jfk.flac

A run of a quarter of the recordings with one worker gives the report on which the plans rest. Recognition is a sleep,
so workers do not fight for the CPUs of one machine, as they would not on two; with `--model` it is that of a model in
one thread, on speech with a little noise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

import redline
from redline import audio
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


@dataclass(frozen=True)
class Loading:
    """What is loaded: a recognizer that sleeps, or a model."""

    speed: float
    model: str | None

    def __call__(self) -> Transcriber:
        if self.model is not None:
            return redline.load_model(self.model, threads=1)
        return Transcriber(FakeRecognizer(Sleeping(self.speed)), batch=BatchOptions(SECONDS))


def asked(transcriber: Transcriber) -> dict[str, bool]:
    return ASKED


def ledger(dest: Path) -> Ledger:
    return Ledger(open_store(str(dest)), RunSettings("fake", "0", {}, SHARD_SIZE, ("json",)))


def run_here(source: Path, dest: Path, loading: Loading, share: ShardShare = WHOLE) -> BatchReport:
    transcriber = loading()
    return LocalRun(ledger(dest), Source(str(source)), transcriber, PlanBook.of(transcriber, **ASKED), share).run()


def run_on_ray(source: Path, dest: Path, loading: Loading, workers: int = 1) -> BatchReport:
    pools = RayOptions(workers=workers, worker_cpus=1, decoders=1)
    return RayRun(ledger(dest), Source(str(source)), loading, asked, pools).run()


def seconds_here(source: Path, dest: Path, loading: Loading, workers: int) -> tuple[float, float]:
    """The time of so many processes that take every n-th shard each, and of it the start."""
    shares = [ShardShare(number, workers) for number in range(1, workers + 1)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        reports = pool.starmap(run_here, [(source, dest, loading, share) for share in shares], 1)
    return max((report.wall_s, report.rates.start_s or 0.0) for report in reports)


def seconds_on_ray(source: Path, dest: Path, loading: Loading, workers: int) -> tuple[float, float]:
    report = run_on_ray(source, dest, loading, workers)
    return report.wall_s, report.rates.start_s or 0.0


def make(folder: Path, count: int, speech: Path | None) -> Path:
    folder.mkdir()
    length = round(SECONDS * SAMPLE_RATE)
    spoken = np.zeros(length) if speech is None else np.resize(audio.load(speech).samples, length)
    for number in range(count):
        noise = (0.1 if speech is None else 0.001) * np.random.default_rng(number).standard_normal(length)
        soundfile.write(folder / f"{number:05}.flac", spoken + noise, SAMPLE_RATE)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help=f"of {SECONDS:g} s each")
    parser.add_argument("--speed", type=float, default=100, help="of the recognizer, x real time")
    parser.add_argument("--model", help="a model in place of the sleep")
    parser.add_argument("--speech", type=Path, help="what it hears, again and again")
    parser.add_argument("--ray", action="store_true", help="with Ray on this machine; else without")
    given = parser.parse_args()
    if given.ray:
        start_ray(RayOptions(dashboard=False))
    run, seconds = (run_on_ray, seconds_on_ray) if given.ray else (run_here, seconds_here)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loading = Loading(given.speed, given.model)
        report = run(make(folder / "few", given.recordings // 4, given.speech), folder / "first", loading)
        source = make(folder / "in", given.recordings, given.speech)
        measured = {}
        for count in (1, 2):
            measured[count] = seconds(source, folder / f"out-{count}", loading, count)
            print(f"{count} workers: {measured[count][0]:.1f} s", flush=True)
    prices = PriceList.read()
    prices = replace(prices, retried_share=replace(prices.retried_share, value=0.0))
    prices = with_report(prices, report, "report.json", "today")
    hours = given.recordings * SECONDS / 3600
    for count, (measured_s, start_s) in measured.items():
        outcome = plan(Workload(hours, SECONDS / 60, "flac", report.model), {MEASURED: count}, prices)
        planned_s, planned_start_s = 3600 * outcome.run_hours, report.rates.start_s or 0.0
        work_s, planned_work_s = measured_s - start_s, planned_s - planned_start_s
        print(f"{count} workers: {measured_s:.1f} s measured, {planned_s:.1f} s planned ({planned_s / measured_s:.0%})")
        print(f"  of it the start: {start_s:.1f} s measured, {planned_start_s:.1f} s planned")
        print(f"  after it: {work_s:.1f} s measured, {planned_work_s:.1f} s planned ({planned_work_s / work_s:.0%})")
        efficiency = (measured[1][0] - measured[1][1]) / work_s / count
        print(f"  efficiency {efficiency:.0%}, held up by {outcome.bottleneck}")


if __name__ == "__main__":
    main()
