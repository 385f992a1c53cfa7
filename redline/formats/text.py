"""Plain text and tables: txt, tsv."""

from __future__ import annotations

import re

from redline.formats.format import RenderOptions, milliseconds, of_segments, with_speaker
from redline.types import Segment, Transcript

_HEADER = "start\tend\ttext\n"
_FORMULA = re.compile(r"^'*[=+@-]")  # with quotes that are there already, so that taking one off gives the text


def render_txt(transcript: Transcript, options: RenderOptions) -> str:
    """One segment a line, behind its speaker where there is one."""
    lines = [with_speaker(segment.speaker, segment.text) for segment in transcript.segments] or [transcript.text]
    return "".join(f"{line}\n" for line in lines if line)


def render_tsv(transcript: Transcript, options: RenderOptions) -> str:
    """One segment a line: start and end in milliseconds, text.

    A text that a spreadsheet would take for a formula, because it starts with `=`, `+`, `-` or `@`, gets a `'` first.
    """
    lines = [_HEADER]
    for segment in transcript.segments:
        text = _FORMULA.sub(r"'\g<0>", " ".join(segment.text.split()))
        lines.append(f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t{text}\n")
    return "".join(lines)


def parse_tsv(text: str) -> Transcript:
    if not text.startswith(_HEADER):
        raise ValueError(f"its first line is not {_HEADER.strip()!r}")
    segments = []
    for id, row in enumerate(filter(None, text.removeprefix(_HEADER).split("\n"))):
        start, end, cell = row.split("\t")
        spoken = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
        segments.append(Segment(id, int(start) / 1000, int(end) / 1000, spoken))
    return of_segments(segments)
