#!/usr/bin/env python3
"""How well subtitles follow the sound: utterances are joined, subtitled, and each cue compared with its first word.

    scripts/cue_times.py --data manifest.jsonl --split dev --minutes 7
    scripts/cue_times.py --data manifest.jsonl --picture subtitles.png    # the cues of each preset over 14 s of sound

The recording is that of `joined_speech.py`. A cue counts where its first word is heard right; that word's true start is
what a second model (`--referee`) finds in its utterance alone. `shared` are the times that cues have where nothing is
aligned: those of their segment, shared out by letters. Cues that are too quick to be read in the default style are
counted, with the seconds that one lacks.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from redline import formats
from redline.evaluate.metrics.alignment import align_words
from redline.formats import SUBTITLE_PRESETS, SubtitleOptions
from redline.load import load_model
from redline.manifest import read_manifest
from redline.types import SAMPLE_RATE, Transcript, Waveform, Word
from redline_recipes.tiny.joined_speech import join, true_words

CUE = re.compile(r"(\d+):(\d+):(\d+),(\d+) --> [^\n]*\n(.*?)\n\n", re.DOTALL)
TEXT = re.compile(r" --> [^\n]*\n(.*?)(?:\n\n|\Z)", re.DOTALL)
FAR_S = 0.5
PICTURE_S = 14.0


def bare(text: str) -> str:
    """Words as they are compared: small letters only."""
    return re.sub(r"[^a-z' ]", "", text.lower().replace("\n", " "))


def misses(srt: str, words: Sequence[Word]) -> list[float]:
    """Seconds between the start of each cue and that of its first word, where that is a true word."""
    cues = [
        (3600 * int(hours) + 60 * int(minutes) + int(seconds) + int(rest) / 1000, bare(text).split())
        for hours, minutes, seconds, rest, text in CUE.findall(srt + "\n\n")
    ]
    starts = {at: start for (start, _), at in zip(cues, np.cumsum([0, *(len(text) for _, text in cues)]), strict=False)}
    true = [bare(word.text) for word in words]
    pairs = align_words(" ".join(true), " ".join(word for _, text in cues for word in text))
    distances: list[float] = []
    spoken = recognized = 0
    for pair in pairs:
        if pair.kind == "equal" and recognized in starts:
            distances.append(abs(starts[recognized] - words[spoken].start))
        spoken += bool(pair.reference)
        recognized += bool(pair.hypothesis)
    return distances


def lacking(srt: str) -> list[float]:
    """Seconds that are missing to read each cue at the default reading speed, of those that lack more than 10 ms."""
    cues = formats.parse_transcript(srt, "srt").segments
    missing = (len(cue.text) / SubtitleOptions().max_cps - (cue.end - cue.start) for cue in cues)
    return [seconds for seconds in missing if seconds > 0.01]


def shared(transcript: Transcript) -> Transcript:
    """The transcript with nothing in it to align words with."""
    return replace(transcript, segments=tuple(replace(segment, timing=None) for segment in transcript.segments))


def draw(recording: Waveform, transcript: Transcript, path: Path) -> None:
    """PNG of the first seconds of a recording: waveform, and below it the cues of each preset with their speeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = recording.samples[: round(PICTURE_S * SAMPLE_RATE)]
    shape: dict[str, Any] = {"figsize": (12, 4), "height_ratios": (1, 4), "layout": "constrained"}
    figure, (wave, cues) = pyplot.subplots(2, 1, sharex=True, **shape)
    wave.plot(np.arange(len(samples)) / SAMPLE_RATE, samples, color="#888888", linewidth=0.3)
    wave.set_axis_off()
    for row, style in enumerate(SUBTITLE_PRESETS.values()):
        srt = formats.render_transcript(transcript, "srt", "talk", subtitles=style)
        for cue, lines in zip(formats.parse_transcript(srt, "srt").segments, TEXT.findall(srt), strict=True):
            if cue.start > PICTURE_S - 1:  # no room for its text
                continue
            speed = len(cue.text) / (cue.end - cue.start)
            color = "#b3261e" if speed > style.max_cps + 0.5 else "#0b6e4f"
            cues.barh(row, cue.end - cue.start, left=cue.start, height=0.8, color="#eef3f1", edgecolor=color)
            middle = (cue.start + min(cue.end, PICTURE_S)) / 2
            cues.text(middle, row - 0.06, lines, ha="center", va="center", fontsize=6.5, clip_on=True)
            cues.text(middle, row + 0.31, f"{speed:.0f} /s", ha="center", va="center", fontsize=6, color=color)
    cues.set(xlabel="seconds", xlim=(0, PICTURE_S), ylim=(len(SUBTITLE_PRESETS) - 0.5, -0.5))
    cues.set_yticks(range(len(SUBTITLE_PRESETS)), list(SUBTITLE_PRESETS))
    cues.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Join, transcribe, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest of utterances with their texts")
    parser.add_argument("--split", nargs="+", default=["dev"])
    parser.add_argument("--source", default="", help="only rows whose source begins so")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--model", nargs="+", default=["tiny", "tiny-plus", "tiny-multi"])
    parser.add_argument("--referee", default="tiny-multi", help="the model that tells where words are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="PNG of the cues of the first model, in place of the comparison")
    options = parser.parse_args()
    rows = [row for row in read_manifest(options.data, language="en") if row.split in options.split]
    joined = join([row for row in rows if row.source.startswith(options.source)], options.minutes, options.seed)
    if options.picture is not None:
        recording = Waveform(joined.samples[: round((PICTURE_S + 5) * SAMPLE_RATE)])
        draw(recording, load_model(options.model[0]).transcribe(recording, language="en"), options.picture)
        return 0
    words = true_words(joined, options.referee, "en")
    for name in options.model:
        aligned = load_model(name).transcribe(Waveform(joined.samples), language="en")
        for kind, transcript in (("aligned", aligned), ("shared", shared(aligned))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that times are shared out is what is asked for here
                srt = formats.render_transcript(transcript, "srt", "talk")
            off, quick = misses(srt, words), lacking(srt)
            far = np.mean(np.array(off) > FAR_S)
            print(
                f"{name}, {kind}: {len(off)} cues, {far:.0%} off by more than {FAR_S} s, p90 "
                f"{np.percentile(off, 90):.2f} s, worst {max(off):.2f} s; {len(quick)} of {srt.count('-->')} too quick "
                f"to be read, by {np.mean(quick or [0.0]):.2f} s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
