"""Live streams: sound as it is spoken -> partial text, and text that stays, of any number of streams at once.

A stream is a `Session` whose windows are decided as soon as they can be. Its committed text is that of its windows,
which the recognizer answers as it answers those of files; it depends on the sound alone, neither on the pieces in which
that came nor on what else is recognized. Partial texts are answers to the speech that no window holds yet, and come
where the recognizer has time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock, RLock
from typing import Any, Literal

from numpy.typing import NDArray

from redline import itn
from redline.audio.pcm import LiveResampler
from redline.engine.live_sources import FinalWindows, LikelyWindows, PartialTexts
from redline.engine.scheduler import LIKELY, LIVE, PARTIAL, BatchOptions, Scheduler, StreamEngine
from redline.errors import ConfigError
from redline.longform.session import Session, SessionOptions, SessionProgress
from redline.longform.vad import VadOptions
from redline.longform.windows import WindowOptions
from redline.types import (
    SAMPLE_RATE,
    JsonRecord,
    Recognizer,
    Segment,
    Span,
    Transcript,
    Word,
)

MAX_LIVE_BATCH_S = 20.0
"""Speech in one call of the recognizer while somebody speaks: more would make the first of it wait, and four windows
cost hardly more each than eight."""
_MAX_PARTIAL_S = 10.0  # of partial texts, behind which a window may have to wait
_REMEMBERED_S = 2.0  # of work on windows, by which the share of time for partial texts is found
_BUSY = 0.5  # a share of time that windows take, above which likely ones are not worth it
_BLOCK_FRAMES = 3  # 96 ms: what speech detection waits for


@dataclass(frozen=True)
class LiveOptions:
    """How soon text comes and when it is final; times in seconds."""

    partial_s: float = 0.3
    """Speech between two partial texts, at least; math.inf: none are made."""
    pause_s: float = 0.28
    """A pause that ends a window: its text is committed."""
    max_s: float = 8.0
    """Longer speech is cut at its weakest point, and its beginning committed while it goes on."""
    pad_s: float = 0.4
    """Sound that is kept on both sides of speech, as far as it is there when the pause is certain."""
    onset: float = 0.5
    """Speech begins at this probability."""
    silence_s: float = 0.3
    """Digital silence that the model hears behind a window, because nobody waits for the rest of the pause."""
    lead_s: float = 0.28
    """Sound of the pause in front of a window that the model hears with it, because the window before has it."""

    def __post_init__(self) -> None:
        if not self.partial_s > 0:
            raise ConfigError(f"partial_s is {self.partial_s:g}; allowed are seconds above 0, math.inf for no partials")
        if not 0 < self.pause_s < math.inf:
            raise ConfigError(f"pause_s is {self.pause_s:g}; allowed are seconds above 0")

    def session_options(self) -> SessionOptions:
        """The same for a session: nothing waits for what comes later than the pause."""
        usual = VadOptions()
        offset = self.onset * usual.offset / usual.onset
        vad = VadOptions(self.onset, offset, min_silence_s=self.pause_s, second_look_s=0.0)
        window = WindowOptions(self.pad_s, self.pause_s, self.max_s, eager=True)
        return SessionOptions(vad, window, _BLOCK_FRAMES, self.silence_s, self.lead_s)


EventKind = Literal["partial", "committed", "warning"]


@dataclass(frozen=True)
class LiveEvent(JsonRecord):
    """Something new about a stream; times in seconds of the stream.

    A "partial" text is that of the speech since the last committed text; the next event of either kind replaces it. It
    is empty where nothing came of what was partial text. A "committed" text never changes; with `pause` the speaker
    paused, or the stream ended, behind it. A "warning" has a `code`, and its message as `text`.
    """

    kind: EventKind
    text: str
    start: float | None = None
    end: float | None = None
    pause: bool = False
    confidence: float | None = None
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    code: str | None = None
    segment: Segment | None = field(default=None, compare=False, repr=False)
    """Of committed text."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; the keys are always all present, but for the segment."""
        values = JsonRecord.to_dict(replace(self, segment=None))
        del values["segment"]
        return values


class LiveEngine:
    """The one scheduler of all live streams of a recognizer: whoever waits for text has it work for everybody."""

    def __init__(self, recognizer: Recognizer, batch: BatchOptions) -> None:
        self._finals, self._partials = (
            BatchOptions(min(batch.batch_s, most_s), batch.workers) for most_s in (MAX_LIVE_BATCH_S, _MAX_PARTIAL_S)
        )
        self.now: Callable[[], float] = time.monotonic
        """The clock, in seconds, by which partial texts get at most half of the time that windows leave."""
        self._scheduler = Scheduler(recognizer, self._finals)
        self._lock = Lock()
        self._rests_until = -math.inf
        self._busy, self._noted = 0.0, 0.0  # the share of time that windows take, and when it was last found

    def submit(self, finals: Any, likely: Any, partials: Any) -> None:
        """A stream's windows, those that are likely, and its partial texts: each waits for everybody's before it."""
        with self._lock:
            self._scheduler.submit(finals, LIVE)
            self._scheduler.submit(likely, LIKELY)
            self._scheduler.submit(partials, PARTIAL)

    def withdraw(self, *sources: Any) -> None:
        """Forget them."""
        with self._lock:
            for source in sources:
                self._scheduler.withdraw(source)

    def run(
        self,
        waits: Callable[[], bool],
        expects: Callable[[], bool] = lambda: False,
        hopes: Callable[[], bool] = lambda: False,
    ) -> None:
        """Recognize while somebody waits, one batch at a time; threads take turns.

        Then a likely window that is expected, unless windows take most of the time: not every one comes. Then one batch
        more for who hopes for a partial text, unless the last such batch was just now: with too many partial texts to
        write, sound and windows would wait for them.
        """
        while waits():
            with self._lock:
                if waits() and not self._step_for_windows():
                    break
        if expects() and self._share_of_windows() < _BUSY:
            with self._lock:
                if expects():
                    self._step_for_windows()
        if hopes() and self.now() >= self._rests_until:
            with self._lock:
                started = self.now()
                if hopes() and started >= self._rests_until:
                    self._scheduler.options = self._partials
                    self._scheduler.step()
                    took, left = self.now() - started, max(0.05, 1.0 - self._share_of_windows())
                    self._rests_until = self.now() + took * (2.0 / left - 1.0)

    def _step_for_windows(self) -> bool:
        """One batch, whose time is counted; the lock is held."""
        started = self.now()
        self._scheduler.options = self._finals
        if not self._scheduler.step():
            return False
        self._busy = self._share_of_windows() + 1.0 - math.exp((started - self.now()) / _REMEMBERED_S)
        self._noted = self.now()
        return True

    def _share_of_windows(self) -> float:
        """Of the last seconds."""
        return self._busy * math.exp(min(0.0, self._noted - self.now()) / _REMEMBERED_S)


class LiveStream:
    """One stream: sound in, events out. A context manager; leaving it ends the stream.

    Streams of one model share batches. Each may have a thread of its own; one stream is for one thread at a time.
    """

    def __init__(
        self,
        session: Session,
        engine: StreamEngine,
        options: LiveOptions = LiveOptions(),
        *,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        digits: bool = False,
    ) -> None:
        """`session` has the session options of `options`; with `digits` texts are inverse normalised."""
        self._input = LiveResampler(sample_rate, channels, session.source)
        self._session, self._engine, self._digits = session, engine, digits
        self.lock = RLock()
        """Held around the session: another thread may be the one that recognizes."""
        self._events: list[LiveEvent] = []
        self.notify: Callable[[], None] = lambda: None
        """Called when there is a new event, in whichever thread found it; it must not wait for anything."""
        self._shown = ""  # the partial text that nothing has replaced
        self._fault: Exception | None = None
        self._is_left = False
        show = self._partial if options.partial_s < math.inf else lambda span, text: None
        self._likely = LikelyWindows(self, session, show)
        self._finals = FinalWindows(self, session, self._likely, self._collect)
        self._partials = PartialTexts(self, session, options.partial_s, self._partial)
        engine.submit(self._finals, self._likely, self._partials)

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self._session.closed

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for its text any more: something failed in it, or it was abandoned."""
        return self._is_left or self._fault is not None

    def fail(self, fault: Exception) -> None:
        """Something that is no fault of a window went wrong: whoever asks for events gets it raised."""
        with self.lock:
            self._fault = self._fault or fault
        self.notify()

    @property
    def seconds(self) -> float:
        """Of sound so far."""
        return self._session.fed_s

    @property
    def waiting(self) -> int:
        """Windows that have no text yet."""
        with self.lock:
            return self._session.waiting

    def progress(self, known: int = 0) -> SessionProgress:
        """What is decided about the sound, for whoever knows so many windows."""
        with self.lock:
            return self._session.progress(known)

    def push(self, sound: NDArray[Any] | bytes) -> None:
        """Take sound and find speech in it; nothing is recognized before somebody asks for `events`.

        `sound` is an array [N] or [N, channels] of float (full scale 1), int16, int32 or uint8 at the stream's rate, or
        bytes of 16-bit little-endian PCM, of any length. Raises `AudioError` for what is no such thing.
        """
        if self.closed:
            raise ValueError(f"{self._session.source}: the stream is closed, it takes no more sound")
        samples = self._input.add(sound)
        with self.lock:
            self._session.feed(samples)
            self._warn()

    def events(self) -> list[LiveEvent]:
        """What is new: recognizes what is ready of this stream, and of others with it.

        Committed text is there at once, partial text where there was time for it, else in a later call.
        """
        self._engine.run(lambda: self._finals.waits, lambda: self._likely.waits, lambda: self._partials.waits)
        return self.poll()

    def poll(self) -> list[LiveEvent]:
        """What others found by now; recognizes nothing. Raises what went wrong in the stream."""
        with self.lock:
            if self._fault is not None:
                raise self._fault
            events, self._events = self._events, []
        return events

    def feed(self, sound: NDArray[Any] | bytes) -> list[LiveEvent]:
        """`push`, then `events`."""
        self.push(sound)
        return self.events()

    def end(self) -> None:
        """The sound has ended; `events` has the rest of the text, or `close` does both."""
        with self.lock:  # whoever ends it as well waits for the last windows
            if self.closed:
                return
            samples, notices = self._input.finish()
            if len(samples):
                self._session.feed(samples)
            self._session.close(notices)
            self._warn()

    def close(self) -> list[LiveEvent]:
        """End the stream -> the events that are left."""
        self.end()
        return self.events()

    def abandon(self) -> None:
        """End the stream without its last text: nobody waits for it, whatever is in work."""
        self._is_left = True
        self._engine.withdraw(self._finals, self._likely, self._partials)

    def transcript(self) -> Transcript:
        """All of a stream that was closed, as of a file; raises `RecognitionError` when every window failed."""
        if not self._session.done:
            raise ValueError(f"{self._session.source}: the stream goes on; close it first")
        with self.lock:
            transcript = self._session.finish()
        return itn.with_itn(transcript, self._session.task.language) if self._digits else transcript

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.end()
            self._engine.run(lambda: self._finals.waits)
        else:
            self.abandon()

    def _collect(self) -> None:
        """New segments become events; called with the lock held."""
        segments = self._session.segments()
        windows = [self._window_of(segment) for segment in segments]
        for number, (segment, window) in enumerate(zip(segments, windows, strict=True)):
            is_last = window not in windows[number + 1 :]
            if self._digits:
                segment = itn.segment_with_itn(segment, self._session.task.language or "en")
            shared = {name: getattr(segment, name) for name in ("start", "end", "confidence", "speaker", "words")}
            pause = is_last and window not in self._session.cut
            self._add(LiveEvent("committed", segment.text, pause=pause, segment=segment, **shared))
        if not segments and self._shown:
            self._add(LiveEvent("partial", ""))
        self._warn()

    def _window_of(self, segment: Segment) -> int:
        windows = self._session.windows
        return next(at for at in reversed(range(len(windows))) if windows[at].start_s <= segment.start)

    def _partial(self, span: Span, text: str) -> None:
        """A partial text; called with the lock held."""
        text = " ".join(text.split())
        if self._digits:
            text = itn.inverse_normalize(text, self._session.task.language or "en")
        if text != self._shown:
            self._add(LiveEvent("partial", text, span.start_s, span.end_s))

    def _warn(self) -> None:
        for notice in self._session.notices():
            self._add(LiveEvent("warning", notice.message, notice.start, notice.end, code=notice.code))

    def _add(self, event: LiveEvent) -> None:
        if event.kind != "warning":
            self._shown = event.text if event.kind == "partial" else ""
        self._events.append(event)
        self.notify()
