"""What live streams have for a scheduler: windows, whose text stays, and the speech behind them, for partial texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from threading import RLock
from typing import Protocol

from redline.errors import RedlineError
from redline.longform.session import Session
from redline.types import SAMPLE_RATE, Hypothesis, Request, Span, Waveform

PAUSING_S = 0.1
"""Behind so much silence no partial text is begun: the window is likely over, and its text would wait for it."""


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


class FinalWindows(StreamSource):
    """The windows of a stream."""

    def __init__(self, stream: FailingStream, session: Session, answered: Callable[[], None]) -> None:
        super().__init__(stream, session)
        self._answered = answered

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
        return self._session.ready()

    def _is_asked(self, id: int) -> bool:
        return self._session.wants(id)

    def _answer(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        self._session.put(id, outcome)
        self._answered()


class PartialTexts(StreamSource):
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

    @property
    def waiting(self) -> bool:
        return self.waits

    @property
    def done(self) -> bool:
        return self._session.closed or self._stream.is_over

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
        if window is None or self._session.open_pause_s > PAUSING_S:
            return None
        window = Span(window.start, min(window.end, window.start + self._most))
        known = self._asked.end if self._asked.start == window.start else window.start
        return window if window.end - known >= self._step else None
