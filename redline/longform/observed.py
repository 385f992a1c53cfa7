"""How a recording is cut: the session that transcribes, watched, with nothing recognized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.longform.detector import Detection
from redline.longform.session import Session
from redline.longform.vad import VAD_FRAME
from redline.longform.windows import Cut
from redline.types import JsonRecord, Notice, Span


@dataclass(frozen=True)
class Chunk(JsonRecord):
    """One window, in seconds, and why it ends there: a `pause` (of `pause_s`), the `longest` window, or the `end`.

    The end of a longest window is the weakest place between `searched_from` and `searched_to`.
    """

    number: int
    start: float
    end: float
    reason: str
    pause_s: float | None = None
    searched_from: float | None = None
    searched_to: float | None = None


@dataclass(frozen=True)
class Chunking:
    """A recording of `duration_s` seconds as it is cut: the peak of each frame of 32 ms, speech, windows, notices."""

    duration_s: float
    peaks: NDArray[np.float32]
    speech: tuple[tuple[float, float], ...]
    chunks: tuple[Chunk, ...]
    notices: tuple[Notice, ...]


class ObservedSession(Session):
    """A session that keeps what it is cut by."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As for `Session`."""
        super().__init__(*arguments, **options)
        self._peaks: list[NDArray[np.float32]] = []
        self._speech: dict[int, Span] = {}  # by its start, for it comes again when more of it is known

    def _detect(self, samples: NDArray[np.float32], *, last: bool) -> Detection:
        detection = super()._detect(samples, last=last)
        if not self._peaks:
            self._peaks.append(np.zeros(self._base // VAD_FRAME, np.float32))  # of digital silence that was skipped
        frames = np.pad(np.abs(samples), (0, -len(samples) % VAD_FRAME)).reshape(-1, VAD_FRAME)
        self._peaks.append(frames.max(axis=1, initial=0.0))
        self._speech |= {span.start: span for span in detection.speech}
        return detection

    def chunking(self) -> Chunking:
        """What the sound so far was cut into; its samples are given up."""
        self.ready()
        self._clips.clear()
        joined = list[Span]()
        for _, span in sorted(self._speech.items()):
            if joined and span.start <= joined[-1].end:
                joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
            else:
                joined.append(span)
        return Chunking(
            self.fed_s,
            np.concatenate([np.zeros(0, np.float32), *self._peaks]),
            tuple((span.start_s, span.end_s) for span in joined),
            tuple(_chunks(self.windows, self._cutter.cuts)),
            tuple(self.notices()),
        )


def _chunks(windows: Sequence[Span], cuts: Sequence[Cut]) -> list[Chunk]:
    chunks = []
    for number, (window, cut) in enumerate(zip(windows, cuts, strict=True)):
        searched = () if cut.searched is None else (cut.searched.start_s, cut.searched.end_s)
        pause_s = None if cut.pause_s is None else round(cut.pause_s, 3)
        chunks.append(Chunk(number, window.start_s, window.end_s, cut.reason, pause_s, *searched))
    return chunks
