"""Wyoming, the protocol of Home Assistant's voice assistants: speech to text over TCP (wyoming 1.10).

A connection sends `transcribe`, `audio-start`, `audio-chunk`s and `audio-stop`; text comes while it is spoken
(`transcript-start`, `-chunk`, `-stop`), and whole as `transcript`. The protocol has no keys.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redline.engine.live import LiveEvent, LiveStream
from redline.engine.shared import WithdrawnError
from redline.errors import AudioError, RedlineError
from redline.serve.api_errors import ApiError, internal_api_error
from redline.serve.health import VERSION
from redline.transcribe_options import StreamOptions

if TYPE_CHECKING:
    from wyoming.event import Event

    from redline.serve.app import ServerState

_log = logging.getLogger(__name__)
_MOST_DATA, _MOST_PAYLOAD = 1 << 18, 1 << 22
_NAME_WEIGHT = 2  # names go before terms
_SAMPLES: dict[int, str] = {1: "u1", 2: "<i2", 4: "<i4"}
"""Types of samples by their width in bytes."""


@asynccontextmanager
async def wyoming_door(state: ServerState) -> AsyncIterator[None]:
    """Listens on `wyoming_port` where there is one; behind it, connections that still say something may end."""
    options = state.options
    if options.wyoming_port is None:
        yield
        return
    open_connections: dict[asyncio.Task[None], _Connection] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(state, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        open_connections[task] = connection
        try:
            if len(open_connections) > options.max_streams:
                await connection.refuse(f"{options.max_streams} connections are open, which is the most", "busy")
            else:
                await connection.run()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # whoever left, or was sent away
        finally:
            del open_connections[task]
            writer.close()

    server = await asyncio.start_server(serve, options.wyoming_host, options.wyoming_port, limit=_MOST_DATA)
    state.ports["wyoming"] = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        for task, connection in open_connections.items():
            if not connection.is_speaking:
                task.cancel()
        if open_connections:
            await asyncio.wait(list(open_connections), timeout=options.drain_s)
        for task in open_connections:
            task.cancel()


class _Connection:
    """One client, which says one thing after the other."""

    def __init__(self, state: ServerState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._state, self._reader, self._writer = state, reader, writer
        self._asked: StreamOptions = {}  # of the next sound
        self._format: tuple[int, int, int] | None = None  # rate, width, channels
        self._stream: LiveStream | None = None
        self._open = AsyncExitStack()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()  # of who sends
        self._has_begun = False

    @property
    def is_speaking(self) -> bool:
        """Whether sound has begun whose text is not told yet."""
        return self._stream is not None

    async def run(self) -> None:
        """Answer events until the client leaves, says nothing for too long, or sends what is no event."""
        sender = asyncio.ensure_future(self._send_news())
        try:
            while True:
                event = await asyncio.wait_for(_read_event(self._reader), self._state.options.idle_s)
                await self._handle(event)
        except asyncio.TimeoutError:
            await self.refuse(f"nothing came for {self._state.options.idle_s:g} s", "timeout")
        except (RedlineError, ApiError, ValueError, KeyError, TypeError) as error:
            message = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            await self.refuse(message, getattr(error, "code", None) or type(error).__name__)
        except WithdrawnError:
            await self.refuse("the server stops", "stopping")
        except Exception:
            _log.exception("a wyoming connection failed")
            await self.refuse(internal_api_error().message, "internal_error")
        finally:
            sender.cancel()
            self._stream = None
            await self._open.aclose()

    async def refuse(self, text: str, code: str) -> None:
        """The last that is sent."""
        from wyoming.error import Error

        with suppress(OSError):
            await self._send(Error(text, code))

    async def _handle(self, event: Event) -> None:
        from wyoming.asr import Transcribe
        from wyoming.audio import AudioChunk, AudioStart, AudioStop
        from wyoming.info import Describe
        from wyoming.ping import Ping, Pong

        if Describe.is_type(event.type):
            await self._send(self._info())
        elif Ping.is_type(event.type):
            await self._send(Pong(text=Ping.from_event(event).text))
        elif Transcribe.is_type(event.type):
            asked = Transcribe.from_event(event)
            names = [f"{name} :{_NAME_WEIGHT}" for name in asked.transcript_names or () if name.strip()]
            self._asked = {"keywords": [*names, *(asked.transcript_terms or ())]}
            if asked.language:
                self._asked["language"] = asked.language
        elif AudioStart.is_type(event.type):
            start = AudioStart.from_event(event)
            await self._begin(start.rate, start.width, start.channels)
        elif AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            if self._stream is None:  # clients may leave audio-start out
                await self._begin(chunk.rate, chunk.width, chunk.channels)
            if self._format != (chunk.rate, chunk.width, chunk.channels):
                raise AudioError(f"a chunk of rate, width, channels {chunk.rate, chunk.width, chunk.channels} comes "
                                 f"behind audio-start of {self._format}; send them alike")  # fmt: skip
            await self._sound(chunk.audio)
        elif AudioStop.is_type(event.type):
            await self._end()
        # Other events are for other services, and dropped as the protocol says.

    def _info(self) -> Any:
        from wyoming.info import AsrModel, AsrProgram, Attribution, Info

        model = self._state.service.model
        by = Attribution(name="Redline", url="")
        described = AsrModel(
            name=model.name, attribution=by, installed=True, description=model.name, version=VERSION,
            languages=list(model.languages),
        )  # fmt: skip
        program = AsrProgram(
            name="redline", attribution=by, installed=True, description="Speech recognition by editing a draft",
            version=VERSION, models=[described], supports_transcript_streaming=True,
        )  # fmt: skip
        return Info(asr=[program])

    async def _begin(self, rate: int, width: int, channels: int) -> None:
        if self._stream is not None:
            raise AudioError("audio-start comes before the audio-stop of the sound before; send that first")
        if width not in _SAMPLES:
            raise AudioError(f"width is {width!r:.20} bytes; allowed are {', '.join(map(str, _SAMPLES))}")
        self._format = rate, width, channels
        options: StreamOptions = {**self._asked, "sample_rate": rate, "channels": channels}
        self._has_begun = False
        self._stream = await self._open.enter_async_context(self._state.service.live(self._news.set, **options))

    async def _sound(self, data: bytes) -> None:
        stream, format = self._stream, self._format
        assert stream is not None and format is not None
        if len(data) % (format[1] * format[2]):
            raise AudioError(f"a chunk of {len(data)} bytes is no whole number of frames of {format[1] * format[2]}")
        samples: NDArray[Any] = np.frombuffer(data, _SAMPLES[format[1]]).reshape(-1, format[2])
        await self._state.service.in_thread(lambda: stream.push(samples))
        self._state.service.sound()

    async def _end(self) -> None:
        from wyoming.asr import Transcript, TranscriptStop

        stream = self._stream
        if stream is None:
            raise AudioError("audio-stop comes without sound; send audio-start and audio-chunk first")
        async with self._turn:
            await self._tell(await self._state.service.in_thread(stream.close))
            transcript = await self._state.service.in_thread(stream.transcript)
            await self._start()
            await self._send(Transcript(transcript.text, language=transcript.language))
            await self._send(TranscriptStop())
        await self._open.aclose()
        self._stream, self._asked = None, {}

    async def _send_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            async with self._turn:
                if self._stream is not None and not self._stream.closed:
                    await self._tell(self._stream.poll())

    async def _tell(self, events: list[LiveEvent]) -> None:
        from wyoming.asr import TranscriptChunk

        for event in events:
            if event.kind == "committed" and event.text:
                text = event.text if not self._has_begun else f" {event.text}"
                await self._start()
                await self._send(TranscriptChunk(text))
            elif event.kind == "warning":
                _log.warning("wyoming: %s", event.code)

    async def _start(self) -> None:
        from wyoming.asr import TranscriptStart

        if not self._has_begun:
            self._has_begun = True
            await self._send(TranscriptStart())

    async def _send(self, event: Any) -> None:
        from wyoming.event import async_write_event

        await async_write_event(event.event(), self._writer)


async def _read_event(reader: asyncio.StreamReader) -> Event:
    """As `wyoming.event.async_read_event`, within limits; raises `ValueError` for what is no event."""
    from wyoming.event import Event

    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    try:
        values = json.loads(line)
        kind, data = values["type"], values.get("data") or {}
        sizes = [values.get(name) or 0 for name in ("data_length", "payload_length")]
        for size, most in zip(sizes, (_MOST_DATA, _MOST_PAYLOAD), strict=True):
            if type(size) is not int or not 0 <= size <= most:
                raise ValueError(f"an event of {size!r:.20} bytes; allowed are up to {most:,}")
        if sizes[0]:
            data = {**data, **json.loads(await reader.readexactly(sizes[0]))}
        return Event(str(kind), data, await reader.readexactly(sizes[1]) if sizes[1] else None)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"this is no event of the Wyoming protocol ({type(error).__name__})") from error
