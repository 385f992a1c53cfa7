"""Formats of NIST's scoring tools: ctm (words), rttm (speaker turns). Columns are divided by spaces."""

from __future__ import annotations

from redline.formats.format import RenderOptions, milliseconds, of_segments
from redline.types import Segment, Transcript, Turn, Word


def render_ctm(transcript: Transcript, options: RenderOptions) -> str:
    """One word a line: recording, channel, start, length, word, confidence (NA where there is none)."""
    lines = []
    for word in transcript.words:
        confidence = "NA" if word.confidence is None else f"{word.confidence:.3f}"
        times = _start_and_length(word.start, word.end)
        lines.append(f"{_column(options.name)} 1 {times} {_column(word.text)} {confidence}\n")
    return "".join(lines)


def parse_ctm(text: str) -> Transcript:
    words = []
    for line in text.splitlines():
        if not line.startswith(";;"):
            _, _, start, length, word, confidence = line.split()
            words.append(Word(*_start_and_end(start, length), word, None if confidence == "NA" else float(confidence)))
    if not words:
        return Transcript("")
    spoken = " ".join(word.text for word in words)
    return of_segments([Segment(0, words[0].start, words[-1].end, spoken, words=tuple(words))])


def render_rttm(transcript: Transcript, options: RenderOptions) -> str:
    """One speaker turn a line: recording, channel, start, length, speaker."""
    return "".join(
        f"SPEAKER {_column(options.name)} 1 {_start_and_length(turn.start, turn.end)} "
        f"<NA> <NA> {_column(turn.speaker)} <NA> <NA>\n"
        for turn in transcript.turns
    )


def parse_rttm(text: str) -> Transcript:
    turns = []
    for line in text.splitlines():
        kind, _, _, start, length, _, _, speaker, *_ = line.split()
        if kind == "SPEAKER":
            turns.append(Turn(speaker, *_start_and_end(start, length), ""))
    return Transcript("", turns=tuple(turns), duration=max((turn.end for turn in turns), default=0.0))


def _start_and_length(start: float, end: float) -> str:
    return f"{milliseconds(start) / 1000:.3f} {(milliseconds(end) - milliseconds(start)) / 1000:.3f}"


def _start_and_end(start: str, length: str) -> tuple[float, float]:
    return float(start), round(float(start) + float(length), 3)


def _column(text: str) -> str:
    return "_".join(text.split()) or "_"
