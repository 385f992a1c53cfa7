"""Small pieces for tests of code that uses Redline: a recognizer without a model, and simple sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from redline.errors import RedlineError
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, Request, Task, Waveform, listed


class FakeRecognizer:
    """A `Recognizer` that hears what a function says, and remembers the batches it was given.

    `respond` takes a clip and gives its text or its `Hypothesis`, or raises; by default its length in words.
    """

    def __init__(
        self,
        respond: Callable[[Waveform], str | Hypothesis] = lambda clip: f"{clip.duration:.2f} seconds",
        *,
        name: str = "fake",
        languages: str | Iterable[str] = ("en",),
        max_clip_s: float = 30.0,
        needs_previous: bool = False,
    ) -> None:
        self.respond = respond
        self.name = name
        self.languages = listed(languages)
        self.clip_limits = ClipLimits(max_clip_s, needs_previous)
        self.batches: list[list[float]] = []
        """The durations of the clips of each call, in seconds."""

    def limits(self, task: Task) -> ClipLimits:
        return self.clip_limits

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        self.batches.append([request.clip.duration for request in requests])
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Hypothesis | RedlineError:
        try:
            text = self.respond(request.clip)
        except RedlineError as error:
            return error
        return Hypothesis(text) if isinstance(text, str) else text


def tone(seconds: float, hertz: float = 440.0, level_db: float = -20.0) -> Waveform:
    """A sine wave; `level_db` is its power against full scale."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    amplitude = np.sqrt(2) * 10 ** (level_db / 20)
    return Waveform((amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32), "<tone>")


def silence(seconds: float) -> Waveform:
    return Waveform(np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32), "<silence>")
