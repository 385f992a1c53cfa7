#!/usr/bin/env python3
"""An hour of joined real recordings by one command: docx, srt and json with words, confidence and speakers.

scripts/hour.py manifest.jsonl                              # how fast, and in how much memory
scripts/hour.py manifest.jsonl --minutes 10 --cost 3        # what speakers cost: with and without them, by turns

The rows of dev and test are joined, reader by reader in turns of some utterances as in a talk, with pauses of 0.3 to
0.8 s of faint noise, and again from the beginning until the time is full. A line of JSON for each run of `redline
transcribe`: seconds by the clock from start to end, `x_real_time`, seconds of the CPU (all processes, which other work
on the machine changes less) and peak memory. Every word has to have times, confidence and, where asked for, a speaker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from redline import audio
from redline.manifest import Utterance, read_manifest
from redline.types import SAMPLE_RATE, Transcript

FORMATS = "docx,srt,json"
TURN = (3, 12)
"""Utterances of one reader before another one reads."""


def talk(rows: Sequence[Utterance], random: np.random.Generator) -> Iterator[Utterance]:
    """Utterances for ever: each reader's in their order, some of one reader and then of another."""
    readers = defaultdict[str, list[Utterance]](list)
    for row in rows:
        readers[row.speaker or ""].append(row)
    left, last = {name: cycle(own) for name, own in readers.items()}, ""
    while True:
        last = random.choice([name for name in left if name != last or len(left) == 1])
        for _ in range(random.integers(*TURN)):
            yield next(left[last])


def write_recording(path: Path, rows: Sequence[Utterance], seconds: float, seed: int = 0) -> None:
    """Utterances joined with pauses, as FLAC."""
    random, left = np.random.default_rng(seed), round(seconds * SAMPLE_RATE)
    known: dict[Path, NDArray[np.float32]] = {}
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for row in talk(rows, random):
            if row.audio not in known:
                known[row.audio] = audio.load(row.audio, options=audio.AudioOptions(isolated=False)).samples
            pause = random.normal(0.0, 1e-4, round(SAMPLE_RATE * random.uniform(0.3, 0.8))).astype(np.float32)
            part = np.concatenate((known[row.audio], pause))[:left]
            file.write(part)
            left -= len(part)
            if not left:
                return


def transcribe(recording: Path, out: Path, model: str, speakers: Sequence[str]) -> dict[str, Any]:
    """One run of the command: what it took, and what came out."""
    command = [sys.executable, "-m", "redline", "transcribe", str(recording), "--model", model, "--format", FORMATS]
    command += ["--word-timestamps", *speakers, "--output-dir", str(out), "--overwrite", "--quiet"]
    started, process = time.perf_counter(), subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    files = [out / f"{recording.stem}.{name}" for name in FORMATS.split(",")]
    transcript = Transcript.load(files[-1])
    if any(word.confidence is None or (speakers and word.speaker is None) for word in transcript.words):
        raise SystemExit(f"{files[-1]}: words without confidence or speaker")
    return {
        "what": " ".join((FORMATS, *speakers)),
        "minutes": round(transcript.duration / 60, 1),
        "seconds": round(seconds, 1),
        "x_real_time": round(transcript.duration / seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mib": used.ru_maxrss // 1024,
        "words": len(transcript.words),
        "speakers": len({word.speaker for word in transcript.words if word.speaker}),
        "bytes": {file.suffix[1:]: file.stat().st_size for file in files},
    }


def main() -> int:
    """One run, or several by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--language", default="en")
    parser.add_argument(
        "--cost", type=int, metavar="RUNS", help="so many runs each with and without speakers, by turns"
    )
    options = parser.parse_args()
    rows = [row for row in read_manifest(options.manifest, language=options.language) if row.split in ("dev", "test")]
    if not rows:
        raise SystemExit(f"{options.manifest}: no rows of dev or test in the language {options.language!r}")
    with tempfile.TemporaryDirectory() as folder:
        recording, out = Path(folder) / "hour.flac", Path(folder) / "out"
        write_recording(recording, rows, 60 * options.minutes)
        asked: list[list[str]] = [["--speakers"]] if options.cost is None else [[], ["--speakers"]] * options.cost
        runs = []
        for speakers in asked:
            runs.append(transcribe(recording, out, options.model, speakers))
            print(json.dumps(runs[-1]), flush=True)
    if options.cost is not None:
        plain, told = (sum(run["cpu_seconds"] for run in runs[first::2]) for first in (0, 1))
        print(json.dumps({"speakers_cost": round(told / plain - 1, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
