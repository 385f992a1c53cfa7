#!/usr/bin/env python3
"""What a model hears where nobody speaks: ten minutes each of silence, noise, tones, music, clicks.

scripts/no_speech.py                       # the bundled model
scripts/no_speech.py --model tiny-plus --minutes 1

A line for each sound: the words that were invented, of which there should be none, the warnings, and how fast it went.
The last line is JSON. Exit status 1 where words were invented.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from redline.load import load_model
from redline.types import SAMPLE_RATE, Waveform

Samples = NDArray[np.float32]


def colored(white: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Noise whose power falls with the frequency to the power of `exponent`, with a peak of 1."""
    spectrum = np.fft.rfft(white)
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, len(white))
    return noise / np.abs(noise).max()


def music(count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Chords of plucked harmonics with a melody above and a beat below."""
    sound, beat = np.zeros(count), SAMPLE_RATE // 2
    time_s = np.arange(4 * beat) / SAMPLE_RATE
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)

    def pluck(hertz: float, length: int, decay: float) -> NDArray[np.float64]:
        t = time_s[:length]
        return sum(np.sin(2 * np.pi * n * hertz * t) / n**1.5 for n in range(1, 8)) * np.exp(-decay * t)  # type: ignore[return-value]

    for number, at in enumerate(range(0, count - 4 * beat, beat)):
        if number % 4 == 0:
            root = random.integers(0, 4)
            for step in (0, 2, 4):
                sound[at : at + 4 * beat] += 0.3 * pluck(scale[root + step] / 2, 4 * beat, 1.0)
        sound[at : at + beat] += 0.4 * pluck(2 * random.choice(scale), beat, 4.0)
        drum = 0.3 * random.standard_normal(beat // 4) * np.exp(-np.linspace(0, 8, beat // 4))
        sound[at : at + beat // 4] += drum
    return sound / np.abs(sound).max()


def sounds(seconds: float, seed: int = 0) -> Iterator[tuple[str, Samples]]:
    """Every sound by its name, mono at 16 kHz."""
    random, count = np.random.default_rng(seed), round(seconds * SAMPLE_RATE)
    time_s = np.arange(count) / SAMPLE_RATE
    white = random.standard_normal(count)
    clicks = np.zeros(count)
    clicks[random.integers(0, count, max(1, round(3 * seconds)))] = 0.9
    sweep = np.sin(2 * np.pi * (100 * time_s + 3900 * (time_s % 10) ** 2 / 20))
    beeps = np.sin(2 * np.pi * 1000 * time_s) * (time_s % 1.0 < 0.3)
    for name, samples in (
        ("silence", np.zeros(count)),
        ("direct current", np.full(count, 0.3)),
        ("dither", random.integers(-1, 2, count) / 32768),
        ("white noise at -50 dB", white * 10 ** (-50 / 20)),
        ("white noise at -20 dB", white * 10 ** (-20 / 20)),
        ("pink noise", 0.5 * colored(white, 1.0)),
        ("brown noise", 0.5 * colored(white, 2.0)),
        ("tone of 440 Hz", 0.3 * np.sin(2 * np.pi * 440 * time_s)),
        ("hum of 50 Hz", 0.1 * sum(np.sin(2 * np.pi * 50 * n * time_s) / n for n in (1, 2, 3, 5))),
        ("sweep", 0.3 * sweep),
        ("beeps", 0.3 * beeps),
        ("clicks", clicks),
        ("music", 0.5 * music(count, random)),
    ):
        yield name, np.asarray(samples, dtype=np.float32).clip(-1, 1)


def main() -> int:
    """Transcribe every sound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    model, rows = load_model(options.model), {}
    for name, samples in sounds(60 * options.minutes):
        started = time.perf_counter()
        transcript = model.transcribe(Waveform(samples, name), language="en")
        spent_s = time.perf_counter() - started
        codes = Counter(notice.code for notice in transcript.warnings)
        rows[name] = {"words": len(transcript.text.split()), "warnings": dict(codes), "seconds": round(spent_s, 1)}
        print(f"{name}: {transcript.text!r:.200} {dict(codes)} in {spent_s:.1f} s", flush=True)
    print(json.dumps({"model": options.model, "minutes": options.minutes, "sounds": rows}))
    return int(any(row["words"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
