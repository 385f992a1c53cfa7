"""Segmentation of long recordings: spans of speech as they come -> windows that a recognizer of seconds can take.

Every decision depends on what lies before it and at most two windows behind it, so it is the same however much of the
recording is known. Borders are moved to the sound's own valleys (`strength`), so they hardly depend on where frames of
the detector begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from redline.errors import ConfigError
from redline.longform.strength import MARGIN_SAMPLES, REACH, Strength
from redline.types import SAMPLE_RATE, Span

_SHORTEST_S = 1.0  # of the longest windows that may be asked for
_AHEAD = 0.69  # of the pause that ends an eager window is left to the next one: detection is late at a beginning
_FULL = 0.9  # of the longest window is an even share of long speech; the tenth is room to look for a pause in


@dataclass(frozen=True)
class WindowOptions:
    """How windows are made of speech; times in seconds."""

    pad_s: float = 0.4
    """Kept on both sides of speech, at most to the middle of a pause. Detection ends in soft consonants: on LibriSpeech
    dev 0.2 s give a WER of 20.6 %, as no detection does, 0.4 s 20.4 %; on Common Voice 64.5 %, 64.7 % and 62.9 %."""
    join_s: float = 0.6
    """A shorter pause does not end a window."""
    max_s: float | None = None
    """The longest window; None is as long as the recognizer takes, which is never exceeded."""
    eager: bool = False
    """Decide each window as soon as that can be, for streams whose text somebody waits for: when the pause that ends it
    is certain, with a third of that as padding, and in long speech behind one window, not two."""

    def __post_init__(self) -> None:
        if self.max_s is not None and not _SHORTEST_S <= self.max_s < math.inf:
            raise ConfigError(f"max_s is {self.max_s:g}; allowed are seconds from {_SHORTEST_S:g} on, or None")
        if not (0 <= self.pad_s < math.inf and 0 <= self.join_s < math.inf):
            raise ConfigError(f"pad_s is {self.pad_s:g}, join_s is {self.join_s:g}; allowed are seconds from 0 on")


@dataclass(frozen=True)
class Cut:
    """Why a window ends where it does.

    A `pause` is longer than `join_s`. The `longest` window is full; it was cut at the weakest sample of those that were
    `searched`. Or it is the `end` of the recording.
    """

    reason: Literal["pause", "longest", "end"]
    pause_s: float | None = None
    """The silence behind the speech, as far as it was known then."""
    searched: Span | None = None


class WindowCutter:
    """Speech that is certain so far -> windows in time order that hold all of it, none too long, none overlapping.

    Speech with pauses up to `join_s` is one window; what is then longer than `max_s` is cut at its weakest point.
    """

    def __init__(self, options: WindowOptions, max_s: float) -> None:
        if max_s < _SHORTEST_S:
            raise ValueError(f"max_s is {max_s}; a window must hold at least {_SHORTEST_S:g} second")
        self._pad = round(options.pad_s * SAMPLE_RATE)
        self._join = round(options.join_s * SAMPLE_RATE)
        self._max = round(min(max_s, options.max_s or max_s) * SAMPLE_RATE)
        self._eager = options.eager
        self._ahead = round(_AHEAD * self._join) if options.eager else 0
        self._wait = self._join if options.eager else max(self._join, 2 * self._pad, self._pad + MARGIN_SAMPLES)
        self._longest = self._max if options.eager else 2 * self._max  # speech that is not cut while it goes on
        self._last_end = 0  # of the window before
        self._start: int | None = None  # of the speech that no window holds yet, with its padding
        self._end: int | None = None  # of all speech so far, without padding
        self.cuts: list[Cut] = []
        """Why each of the windows so far ends."""

    @property
    def open(self) -> Span | None:
        """The speech that no window holds yet, with its padding."""
        return None if self._start is None or self._end is None else Span(self._start, self._end + self._pad)

    @property
    def speech_end(self) -> int | None:
        """Of that speech, without padding."""
        return None if self._start is None else self._end

    def likely(self, settled: int, block: int) -> Span | None:
        """The window that comes if nobody speaks until a pause is certain, where each `block` settles so much more.

        None where nobody has spoken, and where the speech would be cut.
        """
        if not self._eager or self._start is None or self._end is None:
            return None
        missing = self._end + self._wait + 1 - settled
        certain = settled + max(0, math.ceil(missing / block)) * block
        end = min(self._end + self._pad, certain - self._ahead)
        return Span(self._start, end) if end - self._start <= self._max else None

    def push(self, speech: Iterable[Span], settled: int, strength: Strength) -> list[Span]:
        """More speech, and where unknown speech begins at the earliest -> the windows that this decides.

        A span may come again, longer. `strength` begins `MARGIN_SAMPLES` before `needed`, or with the sound.
        """
        windows: list[Span] = []
        for span in speech:
            if self._start is not None and self._end is not None and span.start - self._end > self._join:
                pause = Cut("pause", (span.start - self._end) / SAMPLE_RATE)
                windows += self._finish((self._end + span.start) // 2, strength, pause)
            if self._start is None:
                first = max(self._last_end, strength.start)  # where digital silence has ended, or nothing is kept
                self._start = strength.valley(max(first, span.start - self._pad), first, span.start)
            self._end = max(self._end or 0, span.end)
        if self._start is None or self._end is None:
            return windows
        if settled - self._end > self._wait:
            pause = Cut("pause", (settled - self._end) / SAMPLE_RATE)
            return windows + self._finish(settled - self._ahead, strength, pause)
        return windows + self._cut_long(self._end, strength)

    def close(self, num_samples: int, strength: Strength) -> list[Span]:
        """The recording ends -> the last windows."""
        return [] if self._start is None else self._finish(num_samples, strength, Cut("end"))

    def needed(self, settled: int) -> int:
        """No window that is still to come begins before this sample."""
        return max(0, settled - self._pad - REACH) if self._start is None else self._start

    def _finish(self, limit: int, strength: Strength, cut: Cut) -> list[Span]:
        """The windows of speech that has ended with a `cut`; its padding reaches to `limit` at most."""
        assert self._start is not None and self._end is not None
        end = min(self._end + self._pad, limit)
        if not self._eager:
            end = strength.valley(end, self._end, limit)
        windows = self._cut_long(end, strength)
        while end - self._start > self._max:
            length = end - self._start
            count = math.ceil(length / (_FULL * self._max))
            share = length / count
            windows.append(self._cut(max(length - (count - 1) * self._max, share / 2), 1.5 * share, strength))
        windows.append(Span(self._start, end))
        self.cuts.append(cut)
        self._start, self._last_end = None, end
        return windows

    def _cut_long(self, end: int, strength: Strength) -> list[Span]:
        """Windows from the front of speech that goes on for longer, and may go on for ever."""
        assert self._start is not None
        windows = []
        while end - self._start > self._longest:
            windows.append(self._cut(_FULL * self._max / 2, self._max, strength))
        return windows

    def _cut(self, earliest: float, latest: float, strength: Strength) -> Span:
        """A window of `earliest` to `latest` samples, and never more than the longest, from the front of the speech."""
        assert self._start is not None
        searched = Span(round(self._start + earliest), round(self._start + min(latest, self._max)))
        at = strength.weakest(self._start + earliest, self._start + min(latest, self._max))
        self.cuts.append(Cut("longest", searched=searched))
        window, self._start = Span(self._start, at), at
        return window
