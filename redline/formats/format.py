"""What every transcript format has: a renderer, perhaps a parser, and what it needs from the recognizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redline.types import Segment, Transcript


@dataclass(frozen=True)
class RenderOptions:
    """What a format may need besides the transcript: the recording's name; whether edits that kept a token count."""

    name: str = "recording"
    all_edits: bool = False


@dataclass(frozen=True)
class Format:
    """One transcript format: how it is written and, where it can be, read back."""

    render: Callable[[Transcript, RenderOptions], str]
    parse: Callable[[str], Transcript] | None = None
    """Inverse of `render`, up to what the format does not hold; raises `ValueError`."""
    needs_words: bool = False
    needs_speakers: bool = False
    subtitles: bool = False
    """Whether its times are those of words, whether or not they were asked for."""


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def of_segments(segments: Sequence[Segment]) -> Transcript:
    """The transcript of which only segments are known."""
    text = " ".join(segment.text for segment in segments if segment.text)
    return Transcript(text, tuple(segments), duration=max((segment.end for segment in segments), default=0.0))


def with_speaker(speaker: str | None, text: str) -> str:
    return text if speaker is None else f"Speaker {speaker}: {text}"
