"""Recordings that are read and recognized side by side: sound goes to sessions while the scheduler works on them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import Full, Queue
from threading import BoundedSemaphore, Event, RLock, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redline import itn
from redline.engine.scheduler import Account, BatchOptions, Schedulable
from redline.errors import RedlineError, UnsupportedTaskError
from redline.longform.session import Session
from redline.types import SAMPLE_RATE, Hypothesis, Notice, Request, Segment, Transcript, Waveform

_MOST = 64  # recordings at the same time
_BLOCK_S = 30.0
_BLOCKS_AHEAD = 16  # of one recording that a thread decodes: half a minute
_LOOK_S = 0.5  # between two looks whether somebody still reads
_FEEDING = BoundedSemaphore(max(1, (os.cpu_count() or 1) // 2))
"""Held while speech is looked for: many threads at it would only keep each other, and the scheduler's, waiting."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped before its end.

    `results` has what is done of each recording, in order: all of it, or the windows that were finished, with notices
    of the code "interrupted" for what is missing; None where there is none.
    """

    def __init__(self, results: Sequence[Transcript | RedlineError | None]) -> None:
        super().__init__()
        self.results = list(results)


class Sound(Protocol):
    """An opened recording: mono float32 blocks at 16 kHz, and, when they have ended, what went wrong."""

    name: str
    warnings: tuple[Notice, ...]

    @property
    def duration_s(self) -> float | None:
        """About how long it is, where it tells."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


class WaveformSound:
    """A `Waveform` as blocks."""

    def __init__(self, wave: Waveform) -> None:
        self.name, self.warnings = wave.source, wave.warnings
        self.duration_s: float | None = wave.duration
        self._samples = wave.samples

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        size = round(_BLOCK_S * SAMPLE_RATE)
        return (self._samples[at : at + size] for at in range(0, len(self._samples), size))


class DecodeAhead:
    """A recording that a thread of its own opens and decodes a few blocks ahead; errors are raised where it is read."""

    def __init__(self, open: Callable[[], AbstractContextManager[Sound]]) -> None:
        self._open = open
        self._items: Queue[Sound | NDArray[np.float32] | BaseException | None] = Queue(_BLOCKS_AHEAD)
        self._is_left = Event()
        self._sound: Sound | None = None
        self.name = ""
        self.warnings: tuple[Notice, ...] = ()
        Thread(target=self._decode, name="redline-decode", daemon=True).start()

    def _decode(self) -> None:
        try:
            with self._open() as sound:
                self._put(sound)
                for block in sound:
                    if not self._put(block):
                        return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Sound | NDArray[np.float32] | BaseException | None) -> bool:
        """Wait for room; False where nobody reads on."""
        while not self._is_left.is_set():
            with suppress(Full):
                self._items.put(item, timeout=_LOOK_S)
                return True
        return False

    def _take(self) -> Any:
        """The sound, then its blocks, then None."""
        if isinstance(item := self._items.get(), BaseException):
            raise item
        return item

    def __enter__(self) -> DecodeAhead:
        self._sound = self._take()
        self.name = self._sound.name
        return self

    def __exit__(self, *_: object) -> None:
        """Have the thread end; it closes the recording behind the block that it decodes."""
        self._is_left.set()

    @property
    def duration_s(self) -> float | None:
        """About how long it is, where it tells."""
        return self._sound.duration_s if self._sound else None

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        while (block := self._take()) is not None:
            yield block
        self.warnings = self._sound.warnings if self._sound else ()


class Recording:
    """A recording on its way: how it is opened, its session, and what comes of it.

    With `digits` its texts are inverse normalised. One thread may read it while another one's scheduler asks for its
    requests and gives it their answers.
    """

    def __init__(
        self, open: Callable[[], AbstractContextManager[Sound]], session: Session, *, digits: bool = False
    ) -> None:
        self.session = session
        self.error: RedlineError | None = None
        self._open = open
        self._digits = digits
        self._lock = RLock()  # around the session
        self._stack = ExitStack()
        self._sound: Sound | None = None
        self._ahead: DecodeAhead | None = None
        self._blocks: Iterator[NDArray[np.float32]] = iter(())

    def decode_ahead(self) -> None:
        """Open and decode it from now on, in a thread."""
        if self._sound is None and self._ahead is None and not self.ended:
            self._ahead = DecodeAhead(self._open)

    @property
    def is_decoded_ahead(self) -> bool:
        """Whether a thread decodes it."""
        return self._ahead is not None and not self.ended

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read."""
        return self.session.closed or self.error is not None

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return self.session.done or self.error is not None

    @property
    def done(self) -> bool:
        """Whether every window has its answer, and none will come."""
        return self.session.done

    @property
    def waiting(self) -> int:
        """Windows that have no answer yet."""
        return self.session.waiting

    def ready(self) -> list[Request]:
        """Requests that may be recognized now, each given out once."""
        if not self._lock.acquire(blocking=False):  # it is fed: whoever feeds it will ask again
            return []
        try:
            return self.session.ready()
        finally:
            self._lock.release()

    def wants(self, id: int) -> bool:
        """Whether the answer to a request is waited for."""
        return self.session.wants(id)

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        """The answer to a request."""
        with self._lock:
            self.session.put(id, outcome)

    @property
    def held_s(self) -> float:
        """Seconds of sound that wait for their text."""
        with self._lock:
            return 0.0 if self.finished else self.session.held_s

    @property
    def known_s(self) -> float:
        """Seconds that were read, or, while it is read, that the recording claims to have where it claims any."""
        claimed_s = None if self.ended or self._sound is None else self._sound.duration_s
        return max(self.session.fed_s, claimed_s or 0.0)

    def read(self) -> None:
        """Open it, and feed the next block to the session or close it; an error of the recording ends it."""
        try:
            if self._sound is None:
                self._sound = self._stack.enter_context(self._ahead or self._open())
                self._blocks = iter(self._sound)
                self.session.source = self._sound.name
            block = next(self._blocks, None)
            with _FEEDING, self._lock:
                if block is not None:
                    self.session.feed(block)
                else:
                    self.session.close(self._sound.warnings)
        except RedlineError as error:
            self.error = error
        if self.ended:
            self.close()

    def close(self) -> None:
        """Close the sound and forget it; what was read stays with the session."""
        self._stack.close()
        if self._ahead is not None:
            self._ahead.__exit__()
        self._sound, self._ahead, self._blocks = None, None, iter(())

    def segments(self) -> list[Segment]:
        """New segments."""
        with self._lock:
            segments, language = self.session.segments(), self.session.task.language or "en"
        return [itn.segment_with_itn(segment, language) for segment in segments] if self._digits else segments

    def result(self) -> Transcript | RedlineError | None:
        """The transcript, or the error in its place; of a recording that is not finished what there is, or None.

        Raises `UnsupportedTaskError`, which no other clip can escape.
        """
        try:
            with self._lock:
                result = self.error or (self.session.finish() if self.session.done else self.session.interrupted())
        except UnsupportedTaskError:
            raise
        except RedlineError as error:
            return error
        if self._digits and isinstance(result, Transcript):
            return itn.with_itn(result, self.session.task.language)
        return result


class RecordingScheduler(Protocol):
    """A scheduler, or the share of one that others use as well."""

    options: BatchOptions
    answered: int

    def submit(self, session: Schedulable, priority: int = ..., account: Account | None = None) -> None:
        """From now on recognize what a session has ready."""
        ...

    def withdraw(self, session: Schedulable) -> None:
        """Forget a session and its requests."""
        ...

    def step(self) -> bool:
        """Recognize, or wait for, some of what is ready; False where nothing is."""
        ...


class Flight:
    """The recordings that are in work, in their order."""

    def __init__(
        self, recordings: Iterable[Recording], scheduler: RecordingScheduler, *, ahead_s: float, most_ahead_s: float
    ) -> None:
        """Sound is read until `ahead_s` of it wait for text; that doubles with new answers up to `most_ahead_s`.

        As many recordings as the scheduler's options say are decoded ahead, each in a thread.
        """
        self.recordings: deque[Recording] = deque()
        self._coming = iter(recordings)
        self._scheduler, self._account = scheduler, Account()
        self._ahead_s, self._most_ahead_s = ahead_s, most_ahead_s
        self._taken_s = 0.0

    def ticks(self, progress: Callable[[float, float], None] | None = None) -> Iterator[None]:
        """Read a block or recognize a batch again and again until all is done; comes back in between.

        `progress` gets the seconds done and known.
        """
        reported = (0.0, 0.0)
        while True:
            yield
            self._decode_ahead()
            held_s = sum(recording.held_s for recording in self.recordings)
            due, answered = self._due() if held_s <= self._ahead_s else None, self._scheduler.answered
            if due is None and self._scheduler.step():
                if self._scheduler.answered > answered:
                    self._ahead_s = min(self._most_ahead_s, max(2 * self._ahead_s, _BLOCK_S))
            elif due is not None or (due := self._due(full=True)) is not None:  # what is held waits for what follows
                due.read()
                if due.error is not None:
                    self._scheduler.withdraw(due)
            else:
                return
            if progress is not None and (now := self._done_and_known_s()) != reported:
                reported = now
                progress(*now)

    def take_finished(self) -> Iterator[Recording]:
        """The first recordings, as far as they are finished."""
        while self.recordings and self.recordings[0].finished:
            self._taken_s += self.recordings[0].known_s
            yield self.recordings.popleft()

    def close(self) -> None:
        """Close what is open."""
        for recording in self.recordings:
            recording.close()

    def _due(self, full: bool = False) -> Recording | None:
        """The recording to read next: the first that has not ended, or one more.

        Where each window waits for the one before it, only those of several recordings can share a batch: one that has
        two windows waiting is left, unless `full`.
        """
        for recording in self.recordings:
            if not recording.ended and (full or not recording.session.limits.needs_previous or recording.waiting < 2):
                return recording
        return self._next()

    def _next(self) -> Recording | None:
        """One more recording in work, where there is one and room for it."""
        coming = next(self._coming, None) if len(self.recordings) < _MOST else None
        if coming is not None:
            self.recordings.append(coming)
            self._scheduler.submit(coming, account=self._account)
        return coming

    def _decode_ahead(self) -> None:
        """Have threads decode the next recordings while batches run."""
        busy = sum(recording.is_decoded_ahead for recording in self.recordings)
        waiting = [recording for recording in self.recordings if not recording.ended and not recording.is_decoded_ahead]
        while (
            busy < self._scheduler.options.read_ahead
            and (recording := waiting.pop(0) if waiting else self._next()) is not None
        ):
            recording.decode_ahead()
            busy += 1

    def _done_and_known_s(self) -> tuple[float, float]:
        known = self._taken_s + sum(recording.known_s for recording in self.recordings)
        open_s = sum(each.known_s - each.session.fed_s + each.held_s for each in self.recordings if not each.finished)
        return round(max(0.0, known - open_s), 3), round(known, 3)
