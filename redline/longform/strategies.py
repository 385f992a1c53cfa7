"""Other ways to cut a recording and to join its windows, to measure them against the one that is used.

Windows of one length without regard to speech, as many programs cut; windows that are recognized with some sound of
their neighbours, whose words are left out by their times; and windows that go on from the text of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redline.errors import ConfigError, RedlineError
from redline.longform.session import Session, SessionOptions
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, JsonRecord, Request, Span, Task, Turn, Waveform, Word


@dataclass(frozen=True)
class Strategy(JsonRecord):
    """How a long recording is cut and joined; `window_s` is the longest window without the `overlap_s` on each side."""

    cut: Literal["pauses", "fixed"] = "pauses"
    window_s: float | None = None
    """None: as long as the recognizer takes."""
    overlap_s: float = 0.0
    prefix: Literal["none", "previous"] = "none"
    """With "previous" each window is recognized behind the one before it and goes on from its text."""

    def longest_s(self, limits: ClipLimits) -> float:
        """The longest window in seconds; raises `ConfigError` where a recognizer cannot take it."""
        if self.prefix == "previous" and self.overlap_s:
            raise ConfigError("a window that goes on from the one before holds it whole, and takes no overlap")
        most_s = limits.max_s / (2 if self.prefix == "previous" else 1) - 2 * self.overlap_s
        window_s = most_s if self.window_s is None else self.window_s
        if not 1 <= window_s <= most_s:
            raise ConfigError(
                f"windows of {window_s:g} s; from 1 to {most_s:g} s are possible, as a clip may have {limits.max_s:g} s"
            )
        return window_s


class StrategySession(Session):
    """A session over a recording that is whole in memory, cut and joined by a `Strategy`."""

    def __init__(
        self, limits: ClipLimits, task: Task, options: SessionOptions, strategy: Strategy, wave: Waveform, **names: Any
    ) -> None:
        """Raises `ConfigError` for a strategy that the recognizer, with these `limits`, cannot follow."""
        longest_s = strategy.longest_s(limits)
        options = replace(options, window=replace(options.window, max_s=longest_s))
        super().__init__(ClipLimits(limits.max_s, strategy.prefix == "previous"), task, options, **names)
        self._strategy, self._wave = strategy, wave.samples
        self._size = round(longest_s * SAMPLE_RATE)
        self._overlap = round(strategy.overlap_s * SAMPLE_RATE)
        self._before: dict[int, float] = {}  # seconds of sound in front of each window that was asked

    def _push(self, samples: NDArray[np.float32], *, last: bool = False) -> None:
        if self._strategy.cut == "pauses":
            return super()._push(samples, last=last)
        self._samples = np.concatenate((self._samples, samples))
        while len(self._samples) >= self._size or (last and len(self._samples)):
            clip, self._samples = self._samples[: self._size], self._samples[self._size :].copy()
            self._clips[len(self.windows)] = clip.copy()
            self.windows.append(Span(self._base, self._base + len(clip)))
            self._base += len(clip)
        self._needed = self._base

    def _request(self, id: int) -> Request:
        request = super()._request(id)
        if not self._overlap:
            return request
        window = self.windows[id]
        first = max(0, window.start - self._overlap)
        self._before[id] = (window.start - first) / SAMPLE_RATE
        return replace(request, clip=Waveform(self._wave[first : window.end + self._overlap], self.source))

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        if isinstance(outcome, Hypothesis) and self._strategy.prefix == "previous":
            outcome = replace(outcome, tagged=outcome.tagged or outcome.text)
        if isinstance(outcome, Hypothesis) and self._overlap:
            length_s = (self.windows[id].end - self.windows[id].start) / SAMPLE_RATE
            outcome = within(outcome, self._before.pop(id), length_s)
        super().put(id, outcome)


def within(answer: Hypothesis, start_s: float, length_s: float) -> Hypothesis:
    """The words of an answer whose middle lies in a part of its clip, with times from the start of that.

    An answer whose words cannot be aligned stays whole. The draft does not fit it any more and goes.
    """
    words: Sequence[Word] = answer.words or (answer.timing() if answer.timing is not None else ())
    if not words:
        return answer
    kept = [word for word in words if 0 <= (word.start + word.end) / 2 - start_s < length_s]
    text = " ".join(word.text for word in kept)
    moved = tuple(
        replace(word, start=max(0.0, word.start - start_s), end=max(0.0, word.end - start_s)) for word in kept
    )
    turns = (Turn("", 0.0, length_s, text),) if answer.turns else ()
    return replace(answer, text=text, words=moved, draft=None, edits=(), turns=turns, timing=None)
