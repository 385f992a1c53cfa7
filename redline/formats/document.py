"""Transcripts as documents for people: facts, paragraphs and warnings, whatever program shows them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from redline.formats.tracked_changes import Change, segment_changes
from redline.types import Segment, Transcript


class Paragraph(NamedTuple):
    """What one speaker says in a row, or one segment where no speaker is known; a text without times has no `start`."""

    start: str | None
    speaker: str | None
    changes: list[Change]


def facts_line(transcript: Transcript) -> str:
    """Model, language and duration."""
    language = "Translated into" if transcript.task == "translate" else "Language"
    facts = {"Model": transcript.model, language: transcript.language, "Duration": _clock(transcript.duration)}
    return ", ".join(f"{name}: {value}" for name, value in facts.items() if value)


def paragraphs(transcript: Transcript, show_edits: bool) -> Iterator[Paragraph]:
    """All of the text in order; with `show_edits` as changes of the draft, else as it is."""
    changes_of = segment_changes if show_edits else _unchanged
    if not transcript.segments and transcript.text:
        yield Paragraph(None, None, [Change("keep", transcript.text, transcript.text)])
    for group in _same_speaker(transcript.segments):
        if changes := [change for segment in group for change in changes_of(segment)]:
            yield Paragraph(_clock(group[0].start), group[0].speaker, changes)


def _unchanged(segment: Segment) -> list[Change]:
    return [Change("keep", segment.text, segment.text)] if segment.text else []


def _same_speaker(segments: tuple[Segment, ...]) -> Iterator[list[Segment]]:
    for speaker, group in groupby(segments, key=lambda segment: segment.speaker):
        own = list(group)
        yield from [own] if speaker is not None else ([each] for each in own)


def warning_lines(transcript: Transcript) -> list[str]:
    """The warnings, each behind the time that it is about."""
    return [
        notice.message if notice.start is None else f"{_clock(notice.start)}: {notice.message}"
        for notice in transcript.warnings
    ]


def _clock(seconds: float) -> str:
    """Seconds -> h:mm:ss, rounded down: who plays a recording from there misses nothing."""
    minutes, whole = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"
