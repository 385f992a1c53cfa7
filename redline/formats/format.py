"""What every transcript format has: a renderer, perhaps a parser, and what it needs from the recognizer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redline.formats.subtitle_options import DEFAULT_SUBTITLES, SubtitleOptions
from redline.types import Segment, Transcript

SPEAKER_PREFIX = re.compile(r"Speaker (\d+): ")
"""What `with_speaker` puts before a text; a name cannot be told from the text."""
# Controls, halves of characters and two that are none: XML 1.0 has no place for them, and Praat ends a text at a zero.
_UNPRINTED = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class RenderOptions:
    """What a format may need besides the transcript: the recording's name; whether edits that kept a token count;
    whether the edits of the draft are shown as tracked changes; the style of subtitles."""

    name: str = "recording"
    all_edits: bool = False
    show_edits: bool = False
    subtitles: SubtitleOptions = DEFAULT_SUBTITLES


@dataclass(frozen=True)
class Format:
    """One transcript format: how it is written and, where it can be, read back."""

    render: Callable[[Transcript, RenderOptions], str | bytes]
    parse: Callable[[str], Transcript] | None = None
    """Inverse of `render`, up to what the format does not hold; raises `ValueError`."""
    needs_words: bool = False
    needs_speakers: bool = False
    subtitles: bool = False
    """Whether its times are those of words, whether or not they were asked for."""
    binary: bool = False
    """Whether it is bytes and no text."""
    has_edits: bool = False
    """Whether it can hold the edits of the draft."""


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def parsed_seconds(text: str) -> float:
    """Seconds to the millisecond; raises `ValueError` for what is none."""
    if not math.isfinite(seconds := float(text)):
        raise ValueError(f"{text!r} is no time")
    return round(seconds, 3)


def of_segments(segments: Sequence[Segment]) -> Transcript:
    """The transcript of which only segments are known."""
    text = " ".join(segment.text for segment in segments if segment.text)
    return Transcript(text, tuple(segments), duration=max((segment.end for segment in segments), default=0.0))


def speaker_label(speaker: str) -> str:
    """How a speaker is shown: a number as `Speaker 1`, a name as it is."""
    return f"Speaker {speaker}" if speaker.isdecimal() else speaker


def with_speaker(speaker: str | None, text: str) -> str:
    return text if speaker is None else f"{speaker_label(speaker)}: {text}"


def speaker_and_text(line: str) -> tuple[str | None, str]:
    """Inverse of `with_speaker`, for speakers that are numbers."""
    named = SPEAKER_PREFIX.match(line)
    return (None, line) if named is None else (named[1], line[named.end() :])


def plain_line(text: str) -> str:
    """A text in one line, single spaces between its words; characters that no file of text may have become `\ufffd`."""
    return _UNPRINTED.sub("\ufffd", " ".join(text.split()))
