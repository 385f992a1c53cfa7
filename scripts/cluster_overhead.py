"""What an archive costs beside its model: CPU time and memory of the process that hands out the work.

    python scripts/cluster_overhead.py --ray                                 # for a recording
    python scripts/cluster_overhead.py --ray --recordings 60 --seconds 600   # for an hour of sound

A fake recognizer hears recordings of noise, of which each has content of its own, through the local run or through Ray.
Prints a line of JSON for each tenth part: recordings, CPU milliseconds of this process for each, its resident memory in
MB; then the report's rates.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from redline.audio import AudioOptions
from redline.cluster.ledger import Ledger, RunSettings
from redline.cluster.local import LocalRun
from redline.cluster.progress import Tally
from redline.cluster.ray_run import RayRun
from redline.cluster.ray_start import RayOptions, start_ray
from redline.cluster.source import Source
from redline.cluster.stages import PlanBook
from redline.cluster.store import open_store
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE

OPTIONS = {"vad": False, "audio_options": AudioOptions(isolated=False)}


def load() -> Transcriber:
    return Transcriber(FakeRecognizer())


def asked(transcriber: Transcriber) -> dict[str, object]:
    return OPTIONS


def make(folder: Path, count: int, samples: int) -> Path:
    """Recordings of so many samples of noise, a thousand in a folder."""
    about = (b"RIFF", 36 + 2 * samples, b"WAVEfmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 2 * samples)
    header, draw = struct.pack("<4sI8sIHHIIHH4sI", *about), np.random.default_rng(0)
    for number in range(count):
        place = folder / "in" / f"{number // 1000:04}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        noise = draw.integers(-3000, 3000, samples, dtype="<i2")
        (place / f"{number % 1000:03}.wav").write_bytes(header + noise.tobytes())
    return folder / "in"


def memory_mb() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each")
    parser.add_argument("--ray", action="store_true", help="through Ray on this machine; else in this process")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    step = max(1, options.recordings // 10)
    seen = 0
    with TemporaryDirectory() as name:
        source = Source(str(make(Path(name), options.recordings, round(options.seconds * SAMPLE_RATE))))
        ledger = Ledger(open_store(f"{name}/out"), RunSettings("fake", "", {}, min(64, step)))
        began_s = time.process_time()

        def tell(tally: Tally, machines: int = 1) -> None:
            nonlocal seen
            if tally.done >= seen + step:
                seen = tally.done
                cpu_ms = 1000 * (time.process_time() - began_s) / seen
                line = {"recordings": seen, "cpu_ms": round(cpu_ms, 3), "memory_mb": round(memory_mb(), 1)}
                print(json.dumps(line | {"wall_s": round(tally.wall_s, 1)}), flush=True)

        if options.ray:
            pools = RayOptions(workers=options.workers, worker_cpus=1, decoders=1, dashboard=False)
            start_ray(pools)
            report = RayRun(ledger, source, load, asked, pools, on_progress=tell).run()
        else:
            transcriber = load()
            plans = PlanBook.of(transcriber, **OPTIONS)
            report = LocalRun(ledger, source, transcriber, plans, on_progress=tell).run()
        print(json.dumps({"done": report.done, "wall_s": round(report.wall_s, 1), **report.rates.to_dict()}))


if __name__ == "__main__":
    main()
