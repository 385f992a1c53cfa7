"""The plan against measured runs of `redline batch`: one worker and two, with a recognizer that takes a fixed time.

    python scripts/plan_against_runs.py --recordings 400 --speed 100

The report of the run with one worker is what the plan for one and for two rests on. Recognition is a sleep, so workers
do not fight for the CPUs of one machine, as they would not on two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from redline.cluster.ledger import Ledger, RunSettings
from redline.cluster.local import LocalRun
from redline.cluster.plan import MEASURED, Workload, plan, with_report
from redline.cluster.prices import PriceList
from redline.cluster.progress import ShardShare
from redline.cluster.report import BatchReport
from redline.cluster.source import Source
from redline.cluster.stages import PlanBook
from redline.cluster.store import open_store
from redline.engine.scheduler import BatchOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Waveform

SECONDS = 20.0


def run(source: Path, dest: Path, speed: float, share: ShardShare) -> BatchReport:
    def hear(clip: Waveform) -> str:
        time.sleep(clip.duration / speed)
        return f"{clip.duration:.1f} seconds"

    transcriber = Transcriber(FakeRecognizer(hear), batch=BatchOptions(SECONDS))
    ledger = Ledger(open_store(str(dest)), RunSettings("fake", "0", {}, 16, ("json",)))
    return LocalRun(ledger, Source(str(source)), transcriber, PlanBook.of(transcriber, vad=False), share).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=400, help=f"of {SECONDS:g} s each")
    parser.add_argument("--speed", type=float, default=100, help="of the recognizer, x real time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number in range(given.recordings):
            noise = 0.1 * np.random.default_rng(number).standard_normal(round(SECONDS * SAMPLE_RATE))
            soundfile.write(folder / "in" / f"{number:05}.flac", noise, SAMPLE_RATE)
        report = run(folder / "in", folder / "one", given.speed, ShardShare())
        context = multiprocessing.get_context("fork")
        started = time.monotonic()
        workers = [
            context.Process(target=run, args=(folder / "in", folder / "two", given.speed, ShardShare(number, 2)))
            for number in (1, 2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        measured = {1: report.wall_s, 2: time.monotonic() - started}
    prices = PriceList.read()
    nothing = {name: replace(getattr(prices, name), value=0.0) for name in ("start_s", "retried_share")}
    prices = with_report(replace(prices, **nothing), report, "report.json", "today")  # type: ignore[arg-type]
    hours = given.recordings * SECONDS / 3600
    for count, seconds in measured.items():
        outcome = plan(Workload(hours, SECONDS / 60, "flac", report.model), {MEASURED: count}, prices)
        planned, share = 3600 * outcome.run_hours, 3600 * outcome.run_hours / seconds
        print(f"{count} workers: {seconds:.1f} s measured, {planned:.1f} s planned ({share:.0%}), {outcome.bottleneck}")


if __name__ == "__main__":
    main()
