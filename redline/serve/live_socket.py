"""`/v1/live`: a live stream over a WebSocket, PCM in and `LiveEvent`s out.

The client sends, if it likes, a text message with `StreamSettings`, then sound in binary messages (s16le, mono), and
`{"kind": "end"}`. The server sends each event as JSON, and at the end `{"kind": "transcript", "transcript": {...}}`.
What goes wrong is told as `{"kind": "error", "error": {...}}`, and the socket closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from typing import Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, ValidationError

from redline.engine.live import LiveOptions, LiveStream
from redline.engine.shared import WithdrawnError
from redline.errors import RedlineError
from redline.serve.api_errors import ApiError, api_error_of, internal_api_error, stopping
from redline.serve.service import RecognitionService
from redline.transcribe_options import StreamOptions
from redline.types import SAMPLE_RATE

_log = logging.getLogger(__name__)
LIVE_PROTOCOL = "redline-live"
"""The subprotocol, for browsers: they send their API key as another one, and want one of them chosen."""
MAX_MESSAGE_BYTES = 1 << 20
MAX_WINDOWS_WAITING = 8
"""Windows of a stream without an answer; the sound of a client that is further ahead is not read."""
_POLICY, _INTERNAL, _TRY_AGAIN = 1008, 1011, 1013  # closing codes of RFC 6455


class StreamSettings(BaseModel):
    """The first message of a client that does not want 16 kHz and defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kind: Literal["start"]
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    language: str | None = None
    keywords: list[str] = []
    words: bool = False
    speakers: bool = False
    digits: bool = False
    vad: bool = True
    partials: bool = True

    def stream_options(self) -> StreamOptions:
        values = self.model_dump(exclude={"kind", "partials"})
        live = LiveOptions() if self.partials else LiveOptions(partial_s=math.inf)
        return {**values, "live_options": live}  # type: ignore[typeddict-item]


def live_router() -> APIRouter:
    """The route of live streams, for the page and for programs."""
    router = APIRouter()

    @router.websocket("/v1/live")
    async def live(websocket: WebSocket) -> None:
        server = websocket.app.state.server
        offered = websocket.scope["subprotocols"]
        await websocket.accept(LIVE_PROTOCOL if LIVE_PROTOCOL in offered else None)
        talk = _Talk(websocket, server.service, server.options.idle_s)
        try:
            server.keys.check(websocket, "transcribe")
            await talk.run()
        except (WebSocketDisconnect, ConnectionError):
            pass
        except ApiError as error:
            await talk.refuse(error)
        except RedlineError as error:
            await talk.refuse(api_error_of(error))
        except WithdrawnError:
            await talk.refuse(stopping())
        except Exception:
            _log.exception("a live stream failed")
            await talk.refuse(internal_api_error())

    return router


class _Talk:
    """One client's stream: what it sends goes in while what is found goes out."""

    def __init__(self, websocket: WebSocket, service: RecognitionService, idle_s: float) -> None:
        self._socket, self._service, self._idle_s = websocket, service, idle_s
        self._news = asyncio.Event()
        self._is_ended = False

    async def run(self) -> None:
        """Returns behind the transcript; raises `ApiError`, `RedlineError`, or `WebSocketDisconnect` for who leaves."""
        first = await self._receive()
        settings = StreamSettings(kind="start") if isinstance(first, bytes) else _settings_of(first)
        async with self._service.live(self._news.set, **settings.stream_options()) as stream:
            taking = asyncio.ensure_future(self._take(stream, first if isinstance(first, bytes) else b""))
            telling = asyncio.ensure_future(self._tell(stream))
            try:
                done, _ = await asyncio.wait({taking, telling}, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            finally:
                for each in (taking, telling):
                    each.cancel()
                await asyncio.gather(taking, telling, return_exceptions=True)
        await self._socket.close()

    async def refuse(self, error: ApiError) -> None:
        """Say what is wrong, and close."""
        code = _TRY_AGAIN if error.status in (429, 503) else _POLICY if error.status < 500 else _INTERNAL
        try:
            await self._send({"kind": "error", **error.to_dict()})
            await self._socket.close(code)
        except (ApiError, RuntimeError, WebSocketDisconnect):
            pass  # nobody is there to be told

    async def _take(self, stream: LiveStream, sound: bytes) -> None:
        """Sound into the stream, until the client leaves: ends by raising."""
        while True:
            if sound:
                await self._service.in_thread(lambda data=sound: stream.push(data))  # type: ignore[misc]
                self._service.sound()
            while stream.waiting > MAX_WINDOWS_WAITING:
                await asyncio.sleep(0.05)
            message = await self._receive()
            if isinstance(message, bytes) and not self._is_ended:
                sound = message
                continue
            if self._is_ended or _object_of(message).get("kind") != "end":
                what = repr(message[:100]) if isinstance(message, str) else f"{len(message):,} bytes of sound"
                behind = " behind the end" if self._is_ended else ""
                raise ApiError(400, f'{what}{behind}; allowed are sound, then one {{"kind": "end"}}', code="invalid")
            sound, self._is_ended = b"", True
            await self._service.in_thread(stream.end)
            self._news.set()

    async def _tell(self, stream: LiveStream) -> None:
        """Events to the client, and at the end the transcript."""
        while not self._is_ended:
            await self._news.wait()
            self._news.clear()
            for event in await self._service.in_thread(stream.poll):
                await self._send(event.to_dict())
        for event in await self._service.in_thread(stream.close):
            await self._send(event.to_dict())
        await self._send({"kind": "transcript", "transcript": stream.transcript().to_dict()})

    async def _receive(self) -> bytes | str:
        # Behind the end nothing more is due.
        timeout = None if self._is_ended else self._idle_s
        try:
            message = await asyncio.wait_for(self._socket.receive(), timeout)
        except asyncio.TimeoutError:
            raise ApiError(408, f"nothing was sent for {self._idle_s:g} s", code="slow_client") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data: bytes | str = message.get("bytes") or message.get("text") or ""
        if len(data) > MAX_MESSAGE_BYTES:
            raise ApiError(413, f"a message of {len(data):,} bytes; allowed are {MAX_MESSAGE_BYTES:,}")
        return data

    async def _send(self, values: dict[str, Any]) -> None:
        """Waits while the client does not read, for a while: what is not read would pile up."""
        try:
            await asyncio.wait_for(self._socket.send_json(values), self._idle_s)
        except asyncio.TimeoutError:
            raise ApiError(408, f"nothing was read for {self._idle_s:g} s", code="slow_client") from None


def _settings_of(message: str) -> StreamSettings:
    try:
        return StreamSettings.model_validate_json(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"the first message: {where or 'it'}: {first['msg']}"
        raise ApiError(400, message, code="invalid", param=where) from None


def _object_of(message: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
