#!/usr/bin/env python3
"""Error rates of a model at other levels than its recordings have: quieter, louder, clipped, or in 16 bits.

    scripts/levels.py --data manifest.jsonl --split dev --model tiny gain:-50 gain16:-60 clip:12

`gain:-50` brings each clip's mean power to -50 dB below full scale, `gain16` rounds the result to 16 bits, `clip:12`
lets its peak be 12 dB above full scale and cuts it off there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redline import audio, load_model
from redline.evaluate.metrics.wer import score_wer
from redline.evaluate.run import clip as part
from redline.manifest import read_manifest
from redline.normalize import normalised
from redline.types import Transcript, Waveform


def changed(samples: NDArray[np.float32], case: str) -> NDArray[np.float32]:
    """Samples as a case wants them."""
    kind, _, value = case.partition(":")
    wanted = 10 ** (float(value) / 20)
    if kind == "clip":
        scaled = np.clip(samples / np.abs(samples).max() * wanted, -1, 1)
    else:
        scaled = samples * (wanted / np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    if kind == "gain16":
        scaled = np.round(scaled * 32768) / 32768
    elif kind not in ("gain", "clip"):
        raise SystemExit(f"no case is called {kind!r}; allowed are gain, gain16 and clip")
    result: NDArray[np.float32] = scaled.astype(np.float32)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a manifest")
    parser.add_argument("--split", help="which rows")
    parser.add_argument("--source", help="which rows")
    parser.add_argument("--every", type=int, default=1, help="take each so many rows only")
    parser.add_argument("--limit", type=int, default=16, help="at most so many rows")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("cases", nargs="+", help="such as gain:-50, gain16:-60, clip:12")
    given = parser.parse_args()
    rows = [row for row in read_manifest(given.data, split=given.split) if given.source in (None, row.source)]
    rows = [row for row in rows if row.text][:: given.every][: given.limit]
    clips = [part(audio.load(row.audio), row).samples for row in rows]
    references = [normalised(row.text, row.language or "en") for row in rows]
    model = load_model(given.model)
    for case in given.cases:
        waves = [Waveform(changed(samples, case)) for samples in clips]
        transcripts: list[Transcript] = model.transcribe(waves)
        texts = [
            normalised(transcript.text, row.language or "en") for row, transcript in zip(rows, transcripts, strict=True)
        ]
        empty = sum(not transcript.text for transcript in transcripts)
        codes = sorted({notice.code for transcript in transcripts for notice in transcript.warnings})
        rate = 100 * score_wer(zip(references, texts, strict=True))["wer"]
        print(f"{case}: WER {rate:.1f} %, {empty} of {len(transcripts)} empty {' '.join(codes)}", flush=True)


if __name__ == "__main__":
    main()
