"""Label tracks of Audacity: a start, an end and a text a line, in seconds, divided by tabs."""

from __future__ import annotations

from redline.formats.format import (
    RenderOptions,
    milliseconds,
    of_segments,
    parsed_seconds,
    plain_line,
    speaker_and_text,
    with_speaker,
)
from redline.types import Segment, Transcript


def render_audacity(transcript: Transcript, options: RenderOptions) -> str:
    """A label for each word where there are word timestamps, else for each segment, behind its speaker."""
    labels = []
    for segment in transcript.segments:
        if segment.words:
            labels += [(word.start, word.end, word.text) for word in segment.words]
        else:
            labels.append((segment.start, segment.end, with_speaker(segment.speaker, segment.text)))
    return "".join(f"{_seconds(start)}\t{_seconds(end)}\t{plain_line(text)}\n" for start, end, text in labels)


def parse_audacity(text: str) -> Transcript:
    """Each label is a segment; the lines of a backslash are of frequencies that were selected, and are left out."""
    segments: list[Segment] = []
    for line in filter(None, text.split("\n")):
        if not line.startswith("\\"):
            start, end, label = line.split("\t")
            speaker, words = speaker_and_text(label)
            times = parsed_seconds(start), parsed_seconds(end)
            segments.append(Segment(len(segments), *times, words, speaker=speaker))
    return of_segments(segments)


def _seconds(seconds: float) -> str:
    return f"{milliseconds(seconds) / 1000:.6f}"
