"""What live streams have for a scheduler: windows, whose text stays, and the speech behind them, for partial texts.

While a pause is not long enough to end a window, its sound is known already: what a likely window is answered is a
partial text, and the window's own answer if it comes. So final text is there when the pause is certain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from threading import RLock
from typing import Protocol

import numpy as np

from redline.errors import RedlineError
from redline.longform.session import Session
from redline.types import SAMPLE_RATE, Hypothesis, Request, Span, Waveform


class FailingStream(Protocol):
    """A stream as its sources know it."""

    lock: RLock
    """Held around the session."""

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for its text any more."""
        ...

    def fail(self, fault: Exception) -> None:
        """Something that is no fault of a window went wrong."""
        ...


class StreamSource(ABC):
    """What a stream has for the scheduler. Whatever goes wrong in it ends this stream, and no other."""

    def __init__(self, stream: FailingStream, session: Session) -> None:
        self._stream, self._session = stream, session

    def ready(self) -> list[Request]:
        """Requests that may be recognized now."""
        try:
            with self._stream.lock:
                return [] if self._stream.is_over else self._requests()
        except Exception as fault:
            self._stream.fail(fault)
            return []

    def wants(self, id: int) -> bool:
        """Whether the answer to a request is waited for."""
        with self._stream.lock:
            return not self._stream.is_over and self._is_asked(id)

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        """The answer to a request."""
        try:
            with self._stream.lock:
                self._answer(id, outcome)
        except Exception as fault:
            self._stream.fail(fault)

    @abstractmethod
    def _requests(self) -> list[Request]: ...

    @abstractmethod
    def _is_asked(self, id: int) -> bool: ...

    @abstractmethod
    def _answer(self, id: int, outcome: Hypothesis | RedlineError) -> None: ...


class OpenSpeech(StreamSource):
    """Speech of a stream that no window holds yet."""

    @property
    @abstractmethod
    def waits(self) -> bool:
        """Whether an answer is waited for, or would be new."""
        ...

    @property
    def waiting(self) -> bool:
        return self.waits

    @property
    def done(self) -> bool:
        return self._session.closed or self._stream.is_over


class LikelyWindows(OpenSpeech):
    """The window that comes if a pause goes on, once for each pause."""

    def __init__(self, stream: FailingStream, session: Session, answered: Callable[[Span, str], None]) -> None:
        super().__init__(stream, session)
        self._answered = answered
        self._span: Span | None = None  # that was asked for last
        self._request: Request | None = None  # its request
        self._outcome: Hypothesis | None = None
        self._id, self._is_waited_for = 0, False

    @property
    def waits(self) -> bool:
        """Whether there is one that was not asked for, or has no answer yet."""
        with self._stream.lock:
            return not self._stream.is_over and (self._is_asked(self._id) or self._is_new)

    def answer_to(self, request: Request) -> Hypothesis | None:
        """The answer to a window's request, where it is the one that was likely; called with the lock held."""
        known, outcome = self._request, self._outcome
        if known is None or outcome is None or (known.id, known.task) != (request.id, request.task):
            return None
        return outcome if np.array_equal(known.clip.samples, request.clip.samples) else None

    @property
    def _is_new(self) -> bool:
        span = self._session.likely_window
        return span is not None and span != self._span

    def _requests(self) -> list[Request]:
        if not self._is_new or (request := self._session.likely_request()) is None:
            return []
        self._span, self._request, self._outcome = self._session.likely_window, request, None
        self._id, self._is_waited_for = self._id + 1, True
        return [replace(request, id=self._id)]

    def _is_asked(self, id: int) -> bool:
        return self._is_waited_for and id == self._id and self._is_open

    @property
    def _is_open(self) -> bool:
        window = self._session.open_window
        return self._span is not None and window is not None and window.start == self._span.start

    def _answer(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        if id != self._id:
            return
        self._is_waited_for = False
        if isinstance(outcome, Hypothesis):  # the window itself will tell of an error
            self._outcome = outcome
            if self._span is not None and self._is_open:
                self._answered(self._span, outcome.text)


class FinalWindows(StreamSource):
    """The windows of a stream."""

    def __init__(
        self, stream: FailingStream, session: Session, likely: LikelyWindows, answered: Callable[[], None]
    ) -> None:
        super().__init__(stream, session)
        self._likely, self._answered = likely, answered

    @property
    def waits(self) -> bool:
        """Whether a window has no answer."""
        return not self._stream.is_over and self._session.waiting > 0

    @property
    def waiting(self) -> int:
        return self._session.waiting

    @property
    def done(self) -> bool:
        return self._session.done or self._stream.is_over

    def _requests(self) -> list[Request]:
        unknown = []
        for request in self._session.ready():
            if (outcome := self._likely.answer_to(request)) is None:
                unknown.append(request)
            else:
                self._answer(request.id, outcome)
        return unknown

    def _is_asked(self, id: int) -> bool:
        return self._session.wants(id)

    def _answer(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        self._session.put(id, outcome)
        self._answered()


class PartialTexts(OpenSpeech):
    """The speech of a stream that no window holds yet: only the newest of it is worth an answer."""

    def __init__(
        self, stream: FailingStream, session: Session, partial_s: float, answered: Callable[[Span, str], None]
    ) -> None:
        super().__init__(stream, session)
        self._answered = answered
        self._step = partial_s * SAMPLE_RATE
        self._most = round(session.limits.max_s * SAMPLE_RATE)
        self._task = replace(session.task, words=False, prefix=None)
        self._asked = Span(-1, -1)
        self._id, self._is_waited_for = 0, False

    @property
    def waits(self) -> bool:
        """Whether an answer is waited for, or would be new."""
        with self._stream.lock:
            return not self._stream.is_over and (self.wants(self._id) or self._due() is not None)

    def _requests(self) -> list[Request]:
        if (span := self._due()) is None:
            return []
        self._asked, self._id, self._is_waited_for = span, self._id + 1, True
        clip = Waveform(self._session.samples_of(span), self._session.source)
        return [Request(clip, self._task, self._id)]

    def _is_asked(self, id: int) -> bool:
        window = self._session.open_window
        return self._is_waited_for and id == self._id and window is not None and window.start == self._asked.start

    def _answer(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        if self.wants(id) and isinstance(outcome, Hypothesis):  # the window itself will tell of an error
            self._answered(self._asked, outcome.text)
        self._is_waited_for = self._is_waited_for and id != self._id

    def _due(self) -> Span | None:
        """The speech to recognize, where there is enough that is new."""
        window = self._session.open_window
        if window is None or self._session.open_pause_s > 0.0:  # the likely window has its text
            return None
        window = Span(window.start, min(window.end, window.start + self._most))
        known = self._asked.end if self._asked.start == window.start else window.start
        return window if window.end - known >= self._step else None
