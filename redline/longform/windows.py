"""Where to cut: spans of speech in a long recording -> windows that a recognizer of seconds can take.

Pure functions over samples and one score per frame; nothing here listens to audio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redline.types import SAMPLE_RATE, Span

_PAUSE_S = 0.2  # a cut wants this much weakness around it, so that one weak frame inside a word does not attract it


@dataclass(frozen=True)
class WindowOptions:
    """How windows are made of speech; times in seconds."""

    max_s: float = 30.0
    """No window is longer."""
    pad_s: float = 0.2
    """Kept on both sides of speech, where the recording and the neighbour leave room."""
    join_s: float = 0.6
    """A shorter pause does not end a window."""

    def __post_init__(self) -> None:
        if self.max_s < 1:
            raise ValueError(f"max_s is {self.max_s}; a window must hold at least 1 second")
        if self.pad_s < 0 or self.join_s < 0:
            raise ValueError(f"pad_s is {self.pad_s}, join_s is {self.join_s}; neither may be negative")


def cut(
    speech: Sequence[Span],
    strength: NDArray[np.float32],
    frame: int,
    num_samples: int,
    options: WindowOptions = WindowOptions(),
) -> list[Span]:
    """Spans of speech -> windows in time order that hold all of it, none over `max_s`, none overlapping.

    Pauses shorter than `join_s` stay inside a window; what is then too long is split at its weakest point.
    `strength` [frames] says how much speech there is in every `frame` samples; only its order matters.
    """
    padded = pad(speech, round(options.pad_s * SAMPLE_RATE), num_samples)
    windows: list[Span] = []
    for span in join(padded, round((options.join_s - 2 * options.pad_s) * SAMPLE_RATE)):
        windows += split(span, strength, frame, round(options.max_s * SAMPLE_RATE))
    return windows


def pad(speech: Sequence[Span], padding: int, num_samples: int) -> list[Span]:
    """Widen every span by `padding` samples, at most to the middle of the pause before its neighbour."""
    spans = sorted(speech, key=lambda span: span.start)
    padded: list[Span] = []
    for index, span in enumerate(spans):
        floor = (spans[index - 1].end + span.start) // 2 if index > 0 else 0
        ceiling = (span.end + spans[index + 1].start) // 2 if index + 1 < len(spans) else num_samples
        padded.append(Span(max(floor, span.start - padding), min(ceiling, span.end + padding)))
    return padded


def join(spans: Sequence[Span], gap: int) -> list[Span]:
    """Make one span of neighbours that are at most `gap` samples apart, and always of those that touch."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].end <= max(gap, 0):
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def split(span: Span, strength: NDArray[np.float32], frame: int, max_samples: int) -> list[Span]:
    """Cut a span into pieces of at most `max_samples`, each cut at the weakest frame near an even share.

    The pieces cover the span exactly.
    """
    pieces: list[Span] = []
    while span.end - span.start > max_samples:
        at = _weakest(span, strength, frame, max_samples)
        pieces.append(Span(span.start, at))
        span = Span(at, span.end)
    return [*pieces, span]


def _weakest(span: Span, strength: NDArray[np.float32], frame: int, max_samples: int) -> int:
    """The sample at which to cut the first piece off a span that is too long."""
    length = span.end - span.start
    count = math.ceil(length / (0.9 * max_samples))  # the tenth is room to look for a pause in
    share = length / count
    earliest = span.start + max(length - (count - 1) * max_samples, share / 2)
    latest = span.start + min(max_samples, 1.5 * share)
    first, last = math.ceil(earliest / frame - 0.5), math.floor(latest / frame - 0.5)
    width = max(1, round(_PAUSE_S / 2 * SAMPLE_RATE / frame))
    low = max(0, first - width)
    around = np.pad(strength[low : last + width + 1], width, mode="edge")
    smooth = np.convolve(around, np.ones(2 * width + 1), mode="same")[width:-width]
    weakest = first + int(np.argmin(smooth[first - low : last - low + 1]))
    return round((weakest + 0.5) * frame)
