#!/usr/bin/env python3
"""Time and memory of one recording of many hours: some speech, joined again and again, as a single file would give it.

scripts/hours.py speech.flac --hours 1 3 10                  # the bundled model
scripts/hours.py speech.flac --hours 1 10 100 --model fake   # all but the networks: words as many as speech has

Each length runs in a process of its own, whose peak memory is its own. A line of JSON each: seconds an hour of audio
took, by the clock and of the CPU (which other work on the machine hardly changes), and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redline.audio import load
from redline.engine.recordings import Recording
from redline.engine.start import settle_threads
from redline.load import load_model
from redline.testing import FakeRecognizer
from redline.threads import peak_memory_mib
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Notice, Task, Transcript, Waveform

BLOCK_S = 30
WORDS_PER_S = 2.5


class Joined:
    """Speech joined to a recording of so many hours, in blocks."""

    name = "joined"
    warnings: tuple[Notice, ...] = ()

    def __init__(self, speech: Waveform, hours: float) -> None:
        self.samples, self.duration_s = speech.samples, hours * 3600

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        size, at = BLOCK_S * SAMPLE_RATE, 0
        rounds = np.concatenate([self.samples] * (1 + -(-size // len(self.samples))))
        for _ in range(round(self.duration_s / BLOCK_S)):
            yield rounds[at : at + size]
            at = (at + size) % len(self.samples)


def words_of(clip: Waveform) -> str:
    """As many words as a clip of speech has."""
    return " ".join(["word"] * round(WORDS_PER_S * clip.duration))


def transcript_of(transcriber: Transcriber, sound: Joined) -> Transcript:
    """The transcript of joined speech; raises what went wrong."""
    session = transcriber.session(Task(language="en"))
    (transcript,) = transcriber.run([Recording(lambda: nullcontext(sound), session)])
    if not isinstance(transcript, Transcript):
        raise transcript
    return transcript


def run(speech: Path, model: str, hours: float) -> dict[str, float]:
    """One transcript of joined speech, here."""
    transcriber = Transcriber(FakeRecognizer(words_of)) if model == "fake" else load_model(model)
    samples = load(speech)
    transcript_of(transcriber, Joined(samples, 1 / 60))  # what is loaded at first use is no part of an hour
    started, cpu = time.perf_counter(), time.process_time()
    transcript = transcript_of(transcriber, Joined(samples, hours))
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "hours": hours,
        "seconds_per_hour": round(spent / hours, 2),
        "cpu_seconds_per_hour": round(cpu / hours, 2),
        "x_real_time": round(3600 * hours / spent, 1),
        "segments": len(transcript.segments),
        "words": len(transcript.text.split()),
        "peak_memory_mib": peak_memory_mib(),
    }


def main() -> int:
    """Measure the lengths that are asked for, after a minute that tells what the model itself takes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("speech", type=Path, help="a recording of some minutes of speech")
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--model", default="tiny", help="a model, or fake for a recognizer without networks")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        print(json.dumps(run(options.speech, options.model, options.hours[0])))
        return 0
    settle_threads()  # of the processes below, as the command does for itself
    for hours in [1 / 60, *options.hours]:
        command = [sys.executable, __file__, str(options.speech), "--model", options.model, "--single"]
        done = subprocess.run([*command, "--hours", str(hours)], check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return done.returncode
        print(done.stdout.strip(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
