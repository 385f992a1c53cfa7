#!/usr/bin/env python3
"""What a model hears where nobody speaks: ten minutes each of silence, noise, tones, music, clicks, babble.

scripts/no_speech.py                       # the bundled model
scripts/no_speech.py --model tiny-plus --minutes 1
scripts/no_speech.py --babble manifest.jsonl --language fr --voices 1 8   # and people who speak another language

A line for each sound: the words that were invented, of which there should be none, the warnings, and how fast it went.
Babble is made of the dev split of a manifest: so many voices of equal power at once, which go on without a pause. It
may give words, but nobody should believe them: `sure` are those whose confidence is 0.5 or more.
The last line is JSON. Exit status 1 where words were invented, but for babble.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline import audio
from redline.load import load_model
from redline.manifest import read_manifest
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Waveform

Samples = NDArray[np.float32]
SURE = 0.5
"""Words below it are underlined by `--show-edits`."""


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


def babble(clips: Sequence[Samples], voices: int, count: int, seed: int = 0) -> Samples:
    """So many voices at once: clips one behind the other on each track, in another order, with equal power."""
    random, sound = np.random.default_rng(seed), np.zeros(count)
    for _ in range(voices):
        at = 0
        for number in cycle(random.permutation(len(clips)).tolist()):
            clip = clips[number] / max(float(np.sqrt(np.square(clips[number]).mean())), 1e-4)
            sound[at : at + len(clip)] += clip[: count - at]
            at += len(clip)
            if at >= count:
                break
    return np.asarray(0.05 * sound / np.sqrt(voices), dtype=np.float32).clip(-1, 1)


def heard(model: Transcriber, name: str, samples: Samples) -> dict[str, Any]:
    """What a model makes of a sound."""
    started = time.perf_counter()
    transcript = model.transcribe(Waveform(samples, name), language="en", words=True)
    spent_s = time.perf_counter() - started
    confidences = [word.confidence or 0.0 for word in transcript.words]
    row: dict[str, Any] = {"words": len(confidences)}
    if confidences:
        row["words_a_minute"] = round(60 * len(confidences) * SAMPLE_RATE / len(samples), 1)
        row["sure"] = sum(each >= SURE for each in confidences)
        row["mean_confidence"] = round(float(np.mean(confidences)), 2)
    row["warnings"] = dict(Counter(notice.code for notice in transcript.warnings))
    row["seconds"] = round(spent_s, 1)
    print(f"{name}: {transcript.text!r:.200} {row}", flush=True)
    return row


def main() -> int:
    """Transcribe every sound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--babble", type=Path, help="a manifest of speech in a language that the model does not know")
    parser.add_argument("--language", default="fr", help="of its rows (default: fr)")
    parser.add_argument("--voices", type=int, nargs="+", default=[1, 8], help="at once (default: 1 8)")
    options = parser.parse_args()
    model, seconds = load_model(options.model), 60 * options.minutes
    rows = {name: heard(model, name, samples) for name, samples in sounds(seconds)}
    invented = any(row["words"] for row in rows.values())
    if options.babble is not None:
        spoken = read_manifest(options.babble, split="dev", language=options.language)
        clips = [audio.load(row.audio).samples for row in spoken]
        for voices in options.voices:
            name = f"{voices} at once, {options.language}"
            rows[name] = heard(model, name, babble(clips, voices, round(seconds * SAMPLE_RATE)))
    print(json.dumps({"model": options.model, "minutes": options.minutes, "sounds": rows}))
    return int(invented)


if __name__ == "__main__":
    sys.exit(main())
