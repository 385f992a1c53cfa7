"""The recognition service: recordings and live streams of all clients on one scheduler, admitted in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from typing_extensions import Unpack

from redline.engine.live import LiveStream
from redline.engine.scheduler import FILES, JOBS, Account
from redline.engine.shared import SchedulerClient, SharedLiveEngine, SharedScheduler, WithdrawnError
from redline.errors import RecognitionError
from redline.serve.api_errors import ApiError, stopping
from redline.serve.metrics import ServerMetrics
from redline.serve.options import ServeOptions
from redline.serve.tracing import ServerTracer
from redline.transcribe_options import RecordingSource, StreamOptions, TranscribeOptions
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Transcript, Waveform

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RecognitionService:
    """One model for everybody: requests, live sessions and jobs share its launches.

    Made inside a running event loop or before it; `close` drains it.
    """

    def __init__(
        self,
        model: Transcriber,
        options: ServeOptions,
        metrics: ServerMetrics | None = None,
        tracer: ServerTracer | None = None,
    ) -> None:
        self.options = options
        self._metrics, self._tracer = metrics or ServerMetrics(), tracer or ServerTracer()
        self._loaded = _Loaded(model, self._metrics)
        self._replaced: set[_Loaded] = set()  # that still finish what they began
        self._pool = ThreadPoolExecutor(options.max_active + options.max_streams, "redline-request")
        self._accounts: dict[str, Account] = {}
        self._turns = asyncio.Semaphore(options.max_active)
        self.active = self.waiting = 0
        """Recordings in work, and requests that wait for their turn."""
        self.transcribed_s = 0.0
        """Seconds of sound that were transcribed."""
        self.is_draining = False
        self._clients: set[SchedulerClient] = set()

    @property
    def model(self) -> Transcriber:
        """The model that answers what comes now."""
        return self._loaded.model

    @property
    def streams(self) -> int:
        """Live streams that are open."""
        return sum(each.scheduler.streams for each in (self._loaded, *self._replaced))

    async def swap(self, model: Transcriber) -> None:
        """Have another model answer what comes from now on; what is in work ends on the one that began it.

        Raises `RedlineError` for a model that fails on a second of noise, and changes nothing then.
        """
        await self.in_thread(lambda: _try_out(model))
        before, self._loaded = self._loaded, _Loaded(model, self._metrics)
        before.is_replaced = True
        self._replaced.add(before)
        await self._let_go(before)

    async def _let_go(self, loaded: _Loaded) -> None:
        """End a model that was replaced, once nobody uses it."""
        if loaded.is_replaced and not loaded.users and loaded in self._replaced:
            self._replaced.discard(loaded)
            await asyncio.to_thread(loaded.scheduler.close)

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[_Loaded]:
        """The model that answers now, kept until the end of the block."""
        loaded = self._loaded
        loaded.users += 1
        try:
            yield loaded
        finally:
            loaded.users -= 1
            await self._let_go(loaded)

    def account(self, caller: str) -> Account:
        """That of a caller, so that callers get equal shares of the model's time."""
        return self._accounts.setdefault(caller, Account())

    async def transcribe(
        self,
        source: RecordingSource,
        *,
        caller: str = "",
        priority: int = FILES,
        gone: Callable[[], Awaitable[None]] | None = None,
        **options: Unpack[TranscribeOptions],
    ) -> Transcript:
        """The transcript of a recording, as `Transcriber.transcribe` gives it.

        `gone` returns when nobody waits for the text any more; then, and when the task is cancelled, the recording is
        withdrawn behind the batch that runs. Raises `ApiError` when the server is full or stops and when time runs out,
        and `RedlineError` for what cannot be transcribed.
        """
        began = time.monotonic()
        async with self._admitted(gone), self._in_use() as loaded:
            client = loaded.scheduler.client(priority, self.account(caller))
            self._clients.add(client)
            try:
                deadline = _Deadline(self.options, options.get("progress"), rests=priority == JOBS)
                work = {**options, "progress": deadline.progress}
                model = loaded.model.on(client)

                def run() -> Transcript:
                    with client:
                        result = model.transcribe(source, **work)  # type: ignore[call-overload]
                    assert isinstance(result, Transcript)
                    return result

                with self._tracer.span("transcribe") as span:
                    transcript = await self._watched(run, client, gone, deadline)
                    span |= {"redline.model": transcript.model, "redline.duration_s": transcript.duration}
            finally:
                self._clients.discard(client)
            self.transcribed_s += transcript.duration
            self._metrics.transcript(transcript.duration, time.monotonic() - began)
            return transcript

    @asynccontextmanager
    async def live(self, notify: Callable[[], None], **options: Unpack[StreamOptions]) -> AsyncIterator[LiveStream]:
        """A live stream. `notify` is called in the event loop when `poll` has something new.

        `push`, `events` and `close` of the stream block: call them by `in_thread`, then `sound` behind `push`.
        """
        if self.is_draining:
            raise stopping()
        if self.streams >= self.options.max_streams:
            message = f"{self.streams} live streams are open, which is the most; try again later"
            raise ApiError(429, message, code="too_many_streams", retry_after_s=10)
        loop = asyncio.get_running_loop()
        async with self._in_use() as loaded:
            client = loaded.scheduler.client()
            stream = await self.in_thread(lambda: loaded.model.on(client, loaded.live_engine).live(**options))

            def wake() -> None:
                loop.call_soon_threadsafe(notify)

            stream.notify = wake
            try:
                yield stream
            finally:
                stream.notify = _nothing
                stream.abandon()

    def sound(self) -> None:
        """New sound was pushed into some stream."""
        for loaded in (self._loaded, *self._replaced):
            loaded.live_engine.call()

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Run what blocks in a thread of the service's."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def close(self) -> None:
        """Take nothing more, wait up to `drain_s` for what is in work, and end."""
        self.is_draining = True
        until = time.monotonic() + self.options.drain_s
        while (self.active or self.waiting or self.streams) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for client in list(self._clients):
            client.cancel()
        for loaded in (self._loaded, *self._replaced):
            await asyncio.to_thread(loaded.scheduler.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def _admitted(self, gone: Callable[[], Awaitable[None]] | None) -> AsyncIterator[None]:
        """A place among `max_active`, in order of arrival; who leaves meanwhile stands in nobody's way."""
        if self.is_draining:
            raise stopping()
        if self.active + self.waiting >= self.options.max_active + self.options.max_waiting:
            message = (
                f"{self.active} recordings are in work and {self.waiting} wait, which is the most; try again later"
            )
            raise ApiError(429, message, code="server_full", retry_after_s=5)
        self.waiting += 1
        try:
            await self._turn(gone)
        finally:
            self.waiting -= 1
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._turns.release()

    async def _turn(self, gone: Callable[[], Awaitable[None]] | None) -> None:
        turn = asyncio.ensure_future(self._turns.acquire())
        leaving = [] if gone is None else [asyncio.ensure_future(gone())]
        try:
            await asyncio.wait([turn, *leaving], return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                raise client_left()
        except BaseException:
            turn.add_done_callback(lambda each: None if each.cancelled() else self._turns.release())
            turn.cancel()
            raise
        finally:
            for each in leaving:
                each.cancel()

    async def _watched(
        self,
        run: Callable[[], Transcript],
        client: SchedulerClient,
        gone: Callable[[], Awaitable[None]] | None,
        deadline: _Deadline,
    ) -> Transcript:
        work = asyncio.ensure_future(self.in_thread(run))
        watchers: list[asyncio.Future[Any]] = [asyncio.ensure_future(deadline.passed())]
        if gone is not None:
            watchers.append(asyncio.ensure_future(gone()))
        try:
            futures: list[asyncio.Future[Any]] = [work, *watchers]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if watchers[0].done():
                raise ApiError(504, f"no text within {deadline.allowed_s:.0f} s", code="timeout")
            raise client_left()
        except WithdrawnError:
            raise stopping() from None
        finally:
            for watcher in watchers:
                watcher.cancel()
            if not work.done():
                client.cancel()
                await asyncio.wait([work], timeout=10.0)
                work.add_done_callback(lambda each: each.cancelled() or each.exception())


class _Loaded:
    """A model with its scheduler."""

    def __init__(self, model: Transcriber, metrics: ServerMetrics) -> None:
        self.model = model
        self.scheduler = SharedScheduler(model.recognizer, model.batch)
        self.scheduler.on_step = metrics.step
        self.live_engine = SharedLiveEngine(self.scheduler)
        self.users = 0
        """Recordings and streams that it answers."""
        self.is_replaced = False


def _try_out(model: Transcriber) -> None:
    """Raises `RecognitionError` for a model that cannot answer."""
    noise = np.random.default_rng(0).normal(0.0, 0.01, SAMPLE_RATE).astype(np.float32)
    try:
        model.transcribe(Waveform(noise, "<trial>"), vad=False)
    except Exception as error:
        raise RecognitionError(f"{model.name} fails on a second of noise ({type(error).__name__})") from error


class _Deadline:
    """The time that a recording may take, which grows with what is known of its duration.

    With `rests`, for what goes behind everybody else, it is the time without progress.
    """

    def __init__(
        self, options: ServeOptions, progress: Callable[[float, float], None] | None, *, rests: bool = False
    ) -> None:
        self._options, self._progress, self._rests = options, progress, rests
        self._began, self.known_s = time.monotonic(), 0.0

    @property
    def allowed_s(self) -> float:
        return self._options.base_timeout_s + self._options.timeout_factor * self.known_s

    def progress(self, done_s: float, known_s: float) -> None:
        self.known_s = known_s
        if self._rests:
            self._began = time.monotonic()
        if self._progress is not None:
            self._progress(done_s, known_s)

    async def passed(self) -> None:
        """Returns when the time is over."""
        while (left := self._began + self.allowed_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))


def _nothing() -> None:
    """For streams that nobody listens to any more."""


def client_left() -> ApiError:
    """Nobody reads it."""
    return ApiError(499, "the client has left", code="client_left")


def gone_of(request: Any) -> Callable[[], Awaitable[None]]:
    """`gone` of a request whose body has been read: returns when its client disconnects."""

    async def gone() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.25)

    return gone
