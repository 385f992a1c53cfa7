"""One scheduler for callers in many threads: a thread of its own recognizes, everybody else waits for answers.

A `Transcriber` that runs on a `SchedulerClient` shares launches with the recordings and live streams of all others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Lock, Thread
from typing import Any

from redline.engine.live import MAX_LIVE_BATCH_S
from redline.engine.scheduler import (
    FILES,
    LIKELY,
    LIVE,
    PARTIAL,
    Account,
    BatchOptions,
    IsolatingScheduler,
    Schedulable,
)
from redline.errors import RedlineError
from redline.types import Hypothesis, Recognizer, Request

_log = logging.getLogger(__name__)
_COMPANY_S = 0.1  # a batch takes several times as long, and hardly longer with another recording in it


class WithdrawnError(Exception):
    """The caller has left, or the scheduler was closed, before the answer came."""


class SharedScheduler:
    """The scheduler of a process that serves many callers. Safe to call from any thread; `close` ends its thread."""

    def __init__(self, recognizer: Recognizer, options: BatchOptions = BatchOptions()) -> None:  # noqa: B008
        self.options = options
        self._scheduler = IsolatingScheduler(recognizer, options)
        self.on_step: Callable[[int, float], None] = lambda answered, took_s: None
        """Told behind each step, in the scheduler's thread: the requests that it answered, and its seconds."""
        self._turn = Condition()
        self._changes: list[Callable[[], None]] = []
        self._streams: set[Schedulable] = set()  # while somebody speaks batches are short, so that nobody waits long
        self._recordings: set[_Counted] = set()
        self._is_called = self._is_closed = False
        self._thread = Thread(target=self._work, name="redline-scheduler", daemon=True)
        self._thread.start()

    @property
    def answered(self) -> int:
        """Requests that have their answer."""
        return self._scheduler.answered

    @property
    def streams(self) -> int:
        """Live streams that are open."""
        with self._turn:
            return sum(not stream.done for stream in self._streams)

    def client(self, priority: int = FILES, account: Account | None = None) -> SchedulerClient:
        """For one caller, whose recordings go at this priority and count on this account."""
        return SchedulerClient(self, priority, account or Account())

    def submit(self, session: Schedulable, priority: int, account: Account | None = None) -> None:
        """From now on recognize what a session has ready."""
        with self._turn:
            if self._is_closed:
                raise WithdrawnError("the scheduler is closed")
            if priority == LIVE:
                self._streams.add(session)
            elif isinstance(session, _Counted):
                self._recordings.add(session)
            self._changes.append(lambda: self._scheduler.submit(session, priority, account))

    def withdraw(self, *sessions: Schedulable) -> None:
        """Forget sessions and their requests, at the latest behind the batch that runs."""
        with self._turn:
            self._streams -= set(sessions)
            self._recordings.difference_update(sessions)
            for session in sessions:
                self._changes.append(lambda session=session: self._scheduler.withdraw(session))  # type: ignore[misc]
            self._call()

    def call(self) -> None:
        """Some session has requests ready."""
        with self._turn:
            self._call()

    def wait(self, answered: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until something is so, which is looked at behind each batch; raises `WithdrawnError` once closed."""
        with self._turn:
            self._call()
            self._turn.wait_for(lambda: self._is_closed or answered(), timeout_s)
            if self._is_closed and not answered():
                raise WithdrawnError("the scheduler is closed")
            return answered()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self._turn:
            self._turn.notify_all()

    def close(self) -> None:
        """End behind the batch that runs; whoever still waits gets a `WithdrawnError`."""
        with self._turn:
            self._is_closed = True
            self._turn.notify_all()
        self._thread.join()

    def _call(self) -> None:
        self._is_called = True
        self._turn.notify_all()

    def _work(self) -> None:
        try:
            while not self._is_closed:
                with self._turn:
                    self._turn.wait_for(lambda: self._is_called or self._is_closed)
                    self._is_called = False
                self._wait_for_company()
                while not self._is_closed and self._step():
                    self.wake()
                    self._wait_for_company()
                self.wake()
        except BaseException:
            _log.critical("the scheduler's thread ended; nobody gets an answer any more", exc_info=True)
        finally:
            with self._turn:
                self._is_closed = True
                self._turn.notify_all()

    def _wait_for_company(self) -> None:
        """A moment for recordings that are being read, where they are more than those whose batch would begin."""

        def is_worth_it() -> bool:
            coming = sum(each.is_coming for each in self._recordings)
            return bool(coming) and 0 < sum(bool(each.waiting) for each in self._recordings) < coming

        with self._turn:
            self._recordings = {each for each in self._recordings if not each.done}
            if not self._streams:
                self._turn.wait_for(lambda: self._is_closed or not is_worth_it(), _COMPANY_S)

    def _step(self) -> bool:
        """One batch."""
        with self._turn:
            changes, self._changes = self._changes, []
            self._streams = {stream for stream in self._streams if not stream.done}
            most_s = min(self.options.batch_s, MAX_LIVE_BATCH_S) if self._streams else self.options.batch_s
        for change in changes:
            change()
        self._scheduler.options = replace(self.options, batch_s=most_s)
        before, began = self.answered, time.monotonic()
        try:
            return self._scheduler.step()
        finally:
            self.on_step(self.answered - before, time.monotonic() - began)


class SchedulerClient:
    """The share of one caller in a `SharedScheduler`; a context manager, behind which nothing of the caller's is left.

    `Flight` and `Transcriber` take it in place of a scheduler of their own.
    """

    def __init__(self, shared: SharedScheduler, priority: int, account: Account) -> None:
        self.options = shared.options
        self.answered = 0
        """Requests of this caller that have their answer."""
        self.answering = Lock()
        """Held while an answer is put and counted."""
        self._shared, self._priority, self._account = shared, priority, account
        self._reported = 0  # answers behind which a step has ended
        self._sessions: dict[Any, _Counted] = {}
        self._failure: Exception | None = None

    def submit(self, session: Schedulable, priority: int = FILES, account: Account | None = None) -> None:
        """From now on recognize what a session has ready, at the caller's priority and on the caller's account."""
        self._sessions[session] = counted = _Counted(session, self)
        self._shared.submit(counted, self._priority, self._account)

    def withdraw(self, session: Schedulable) -> None:
        """Forget a session and its requests."""
        if (counted := self._sessions.pop(session, None)) is not None:
            self._shared.withdraw(counted)

    def step(self) -> bool:
        """Wait for an answer to this caller; False where no session of the caller's waits for one.

        Raises `WithdrawnError` behind `cancel`, and what went wrong in a session of the caller's.
        """
        self._sessions = {session: each for session, each in self._sessions.items() if not session.done}
        if self._failure is None and self.answered == self._reported:
            with self.answering:  # an answer is put and counted, or neither
                is_new, waits = self.answered > self._reported, any(session.waiting for session in self._sessions)
                self._reported = self.answered if is_new or not waits else self._reported
            if is_new or not waits:
                return is_new
            self._shared.wait(lambda: self._failure is not None or self.answered > self._reported)
        if self._failure is not None:
            raise self._failure
        self._reported = self.answered
        return True

    def cancel(self) -> None:
        """Have the next `step`, or the one that waits in another thread, raise `WithdrawnError`."""
        self.fail(WithdrawnError("the caller has left"))

    def fail(self, error: Exception) -> None:
        """Have it raise this."""
        self._failure = self._failure or error
        self._shared.wake()

    @property
    def is_open(self) -> bool:
        """Whether its answers are still wanted."""
        return self._failure is None

    def __enter__(self) -> SchedulerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.withdraw(*self._sessions.values())
        self._sessions.clear()


class _Counted:
    """A session of a client, for the scheduler."""

    def __init__(self, session: Schedulable, client: SchedulerClient) -> None:
        self._session, self._client = session, client

    @property
    def done(self) -> bool:
        return self._session.done

    @property
    def waiting(self) -> bool:
        return bool(self._session.waiting)

    @property
    def is_coming(self) -> bool:
        """Whether it is read, and no window of it is decided yet."""
        return not self.done and not self.waiting

    def ready(self) -> list[Request]:
        try:
            return self._session.ready() if self._client.is_open else []
        except Exception as error:  # it harms only its own caller
            self._client.fail(error)
            return []

    def wants(self, id: int) -> bool:
        return self._client.is_open and self._session.wants(id)

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        with self._client.answering:
            try:
                self._session.put(id, outcome)
            except Exception as error:
                self._client.fail(error)
            self._client.answered += 1


class SharedLiveEngine:
    """`LiveEngine` of streams that share batches with files: nobody recognizes in the thread of a stream.

    Partial texts get at most half of the time: behind a batch of them they rest for as long as it took.
    """

    def __init__(self, shared: SharedScheduler) -> None:
        self._shared, self._rest = shared, _Rest()
        self._resting: dict[Any, _Resting] = {}

    def submit(self, finals: Any, likely: Any, partials: Any) -> None:
        """A stream's windows, those that are likely, and its partial texts."""
        self._resting[partials] = resting = _Resting(partials, self._rest)
        self._shared.submit(finals, LIVE)
        self._shared.submit(likely, LIKELY)
        self._shared.submit(resting, PARTIAL)

    def withdraw(self, *sources: Any) -> None:
        """Forget them."""
        self._shared.withdraw(*(self._resting.pop(source, source) for source in sources))

    def run(self, waits: Callable[[], bool], *_: Callable[[], bool]) -> None:
        """Wait for the text that is waited for; likely windows and partial texts come by themselves."""
        self._shared.wait(lambda: not waits())

    def call(self) -> None:
        """Some stream has new sound."""
        self._shared.call()


@dataclass
class _Rest:
    """When partial texts may be asked for again; the clock is `time.monotonic`."""

    until: float = 0.0


class _Resting:
    """The partial texts of a stream, which are asked for where others left time for them."""

    def __init__(self, partials: Any, rest: _Rest) -> None:
        self._partials, self._rest = partials, rest
        self._asked_at = 0.0

    @property
    def done(self) -> bool:
        return bool(self._partials.done)

    @property
    def waiting(self) -> bool:
        return bool(self._partials.waits)

    def ready(self) -> list[Request]:
        if time.monotonic() < self._rest.until:
            return []
        self._asked_at = time.monotonic()
        return list(self._partials.ready())

    def wants(self, id: int) -> bool:
        return bool(self._partials.wants(id))

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        self._partials.put(id, outcome)
        now = time.monotonic()
        self._rest.until = max(self._rest.until, now + (now - self._asked_at))
