#!/usr/bin/env python3
"""Seams between windows: the same recording with more and more silence in front, so that it is cut at other places.

scripts/seams.py manifest.jsonl --split dev                 # 20 times, 0 to 3 s of digital silence
scripts/seams.py manifest.jsonl --split dev --room-tone     # of the recording's own noise
scripts/seams.py manifest.jsonl --split dev --source librispeech-dev-clean-20spk --model tiny-plus --seconds 300

The utterances of a manifest are joined to one recording. Where a seam is in one transcript, most of the others have
none: a word is lost at a seam if it is missing within two words of it and most of the others have it, and added if it
is there and most of the others do not have it; doubled is an added word that stands beside its like. The same is
counted halfway between seams: there the model changes its mind, for the sound begins elsewhere. Words that are missing
whatever the others have are counted at all seams. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redline.audio import load
from redline.evaluate.seams import NEAR_SEAM, SegmentErrors, join_utterances, segment_errors
from redline.load import load_model
from redline.manifest import read_manifest
from redline.normalize import normalised
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Transcript, Waveform

_FRAME = 512


def room_tone(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Noise with the mean spectrum and the level of the quietest tenth of a recording's frames that hold any sound."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    frames = frames[(frames != 0).mean(axis=1) > 0.9]
    powers = np.square(frames, dtype=np.float64).mean(axis=1)
    quietest = frames[powers <= np.percentile(powers, 10)] * np.hanning(_FRAME)
    spectrum = np.sqrt(np.square(np.abs(np.fft.rfft(quietest, axis=1))).mean(axis=0))
    noise = np.fft.rfft(np.random.default_rng(0).standard_normal(count))
    bands = np.linspace(0.0, 1.0, len(spectrum))
    tone = np.fft.irfft(noise * np.interp(np.linspace(0.0, 1.0, len(noise)), bands, spectrum), count)
    return (tone * np.sqrt(np.percentile(powers, 10) / np.square(tone).mean())).astype(np.float32)


def count_at(place: int, run: SegmentErrors, others: list[SegmentErrors]) -> tuple[int, int, int]:
    """Words lost, added and doubled at one place of the reference, against what most of the others have."""
    lost = added = doubled = 0
    words, gaps = run.near(place)
    for word in words:
        lost += not run.matched[word] and sum(other.matched[word] for other in others) > len(others) / 2
    for gap in gaps:
        usual = int(np.median([len(other.added[gap]) for other in others]))
        more = run.added[gap][: max(0, len(run.added[gap]) - usual)]
        added += len(more)
        beside = [*run.recognized[max(0, gap - 2) : gap + 2]]
        doubled += sum(word in beside for word in more)
    return lost, added, doubled


def measure(
    model: Transcriber, wave: Waveform, reference: str, language: str, silences: list[NDArray[np.float32]]
) -> dict[str, object]:
    """Transcribe with each silence in front, and count."""
    runs, started = list[SegmentErrors](), time.perf_counter()
    for silence in silences:
        padded = np.concatenate((silence, wave.samples))
        transcript: Transcript = model.transcribe(Waveform(padded, "joined"), language=language)
        segments = [normalised(segment.text, language) for segment in transcript.segments]
        runs.append(segment_errors(reference, segments))
        wer = runs[-1].errors / len(runs[-1].matched)
        done = f"{len(silence) / SAMPLE_RATE:5.2f} s: WER {100 * wer:.2f} %, {len(segments)} windows"
        print(done, file=sys.stderr, flush=True)
    at_seams, between, seams, halfways = np.zeros(3, int), np.zeros(3, int), 0, 0
    missing = [0, 0]  # words of the reference at all seams, and halfway between them, whatever the others have
    for run in runs:
        borders = [0, *run.seams, len(run.matched)]
        for place in run.seams:
            missing[0] += sum(not run.matched[word] for word in run.near(place)[0])
            others = [each for each in runs if all(abs(seam - place) > 2 * NEAR_SEAM for seam in each.seams)]
            if len(others) >= len(runs) / 3:  # else nearly all are cut there
                at_seams, seams = at_seams + count_at(place, run, others), seams + 1
        for left, right in itertools.pairwise(borders):
            place = (left + right) // 2
            others = [
                each
                for each in runs
                if each is not run and all(abs(seam - place) > 2 * NEAR_SEAM for seam in each.seams)
            ]
            if right - left > 4 * NEAR_SEAM and len(others) >= len(runs) / 3:
                between, halfways = between + count_at(place, run, others), halfways + 1
                missing[1] += sum(not run.matched[word] for word in run.near(place)[0])
    rates = [100 * run.errors / len(run.matched) for run in runs]
    names = ("lost", "added", "doubled")
    return {
        "model": model.name,
        "minutes": round(wave.duration / 60, 1),
        "words": len(runs[0].matched),
        "wer": [round(rate, 2) for rate in rates],
        "wer_spread": round(max(rates) - min(rates), 2),
        "all_seams": sum(len(run.seams) for run in runs),
        "seams": seams,
        **{f"{name}_at_seams": int(count) for name, count in zip(names, at_seams, strict=True)},
        "missing_at_all_seams": missing[0],
        "halfway": halfways,
        "missing_halfway": missing[1],
        **{f"{name}_halfway": int(count) for name, count in zip(names, between, strict=True)},
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> int:
    """Measure one model on the joined utterances of a manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default=None)
    parser.add_argument("--source", default=None, help="only rows of this source")
    parser.add_argument("--language", default="en")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--times", type=int, default=20, help="transcripts")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds of silence in front of the last")
    parser.add_argument("--room-tone", action="store_true", help="silence as the recording has it, not digital zeros")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between utterances")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speech, at most")
    options = parser.parse_args()
    rows = read_manifest(options.manifest, split=options.split, language=options.language)
    rows = [row for row in rows if options.source in (None, row.source)]
    longest_s = options.seconds
    long, *_ = join_utterances(rows, lambda row: load(row.audio), longest_s=longest_s, pause_s=options.pause)
    counts = [round(length_s * SAMPLE_RATE) for length_s in np.linspace(0.0, options.longest, options.times)]
    most = np.zeros(max(counts), dtype=np.float32)
    most = room_tone(long.wave.samples, len(most)) if options.room_tone else most
    silences = [most[len(most) - count :] for count in counts]
    result = measure(load_model(options.model), long.wave, long.reference, options.language, silences)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
