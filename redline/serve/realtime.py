"""OpenAI's realtime API: transcription sessions over a WebSocket, `/v1/realtime`.

What goes wrong is an event of the type error; the connection stays.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Mapping
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from redline.errors import RedlineError
from redline.serve.api_errors import ApiError, api_error_of, internal_api_error
from redline.serve.auth import Caller, key_of
from redline.serve.model_names import check_model_name
from redline.serve.realtime_beta import beta_dict, settings_of_beta
from redline.serve.realtime_config import RealtimeConfig
from redline.serve.realtime_items import Hearing

_log = logging.getLogger(__name__)
_MOST_APPENDED = 15 << 20  # bytes
_LEAST_COMMITTED_S = 0.1


def realtime_router() -> APIRouter:
    """The route of the sessions."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.websocket("/realtime")
    async def realtime(websocket: WebSocket) -> None:
        server = websocket.app.state.server
        try:
            caller = server.keys.check(websocket, "transcribe")
            config = _begun(websocket, server)
        except ApiError as error:
            await websocket.send_denial_response(error.response())
            return
        protocols = [each.strip() for each in websocket.headers.get("sec-websocket-protocol", "").split(",")]
        await websocket.accept(subprotocol="realtime" if "realtime" in protocols else None)
        session = _RealtimeSession(websocket, server, caller, config)
        try:
            await session.run()
        except WebSocketDisconnect:
            pass
        finally:
            session.leave()

    return router


def _begun(websocket: WebSocket, server: Any) -> RealtimeConfig:
    """The settings at first: those of the client's secret, and the model of the address."""
    config = server.secrets.config_of(key_of(websocket))
    if (intent := websocket.query_params.get("intent", "transcription")) != "transcription":
        raise ApiError(400, f"intent is {intent[:40]!r}; allowed is transcription", code="invalid", param="intent")
    if name := websocket.query_params.get("model"):
        check_model_name(server, name)
        config = config.updated({"audio": {"input": {"transcription": {"model": name}}}})
    if config.asked.model is None:
        config = config.updated({"audio": {"input": {"transcription": {"model": server.service.model.name}}}})
    return config  # type: ignore[no-any-return]


class _RealtimeSession:
    """One connection: events of the client in order, events of the server as they come."""

    def __init__(self, websocket: WebSocket, server: Any, caller: Caller, config: RealtimeConfig) -> None:
        self._websocket, self._server, self._caller, self._config = websocket, server, caller, config
        self._id = f"sess_{token_hex(8)}"
        self._chain: list[str | None] = [None]
        self._hearing: Hearing | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._sent_s = 0.0  # of sound
        self._handlers = {
            "session.update": self._update,
            "transcription_session.update": self._update_of_beta,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    async def run(self) -> None:
        """Until the client leaves, which raises `WebSocketDisconnect`."""
        await self._send("session.created", {"session": self._config.to_dict(self._id)})
        if (left := self._server.keys.left(self._caller)) is not None:
            limit = {"name": "requests", "limit": self._caller.per_minute, "remaining": left[0]}
            await self._send("rate_limits.updated", {"rate_limits": [{**limit, "reset_seconds": left[1]}]})
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            await self._take(message.get("text"))

    def leave(self) -> None:
        """Nobody hears any more: what is in work is withdrawn."""
        for task in self._tasks:
            task.cancel()

    async def _take(self, text: str | None) -> None:
        """One event of the client's; whatever is wrong with it is told."""
        event: Any = None
        try:
            event = _event_of(text)
            handler = self._handlers.get(event["type"])
            if handler is None:
                known = ", ".join(self._handlers)
                message = f"the type is {event['type'][:80]!r}; a transcription session takes {known}"
                raise ApiError(400, message, code="unknown_event", param="type")
            await handler(event)
        except (ApiError, RedlineError) as error:
            await self._complain(error, event)
        except WebSocketDisconnect:
            raise
        except Exception:
            _log.exception("an event of a realtime session failed")
            await self._complain(internal_api_error(), event)

    async def _update(self, event: Mapping[str, Any]) -> None:
        await self._set(event.get("session"))
        await self._send("session.updated", {"session": self._config.to_dict(self._id)})

    async def _update_of_beta(self, event: Mapping[str, Any]) -> None:
        await self._set(settings_of_beta(event.get("session")))
        await self._send("transcription_session.updated", {"session": beta_dict(self._config, self._id)})

    async def _set(self, changes: Any) -> None:
        config = self._config.updated(changes)
        if config.asked.model != self._config.asked.model:
            check_model_name(self._server, config.asked.model)
        config.stream_options(self._server.service.model)
        if config != self._config and self._hearing is not None:
            if self._config.input.turn_detection is None:
                message = "the buffer has sound; commit or clear it before the settings change"
                raise ApiError(400, message, code="buffer_not_empty", param="session")
            await self._left(self._hearing.commit(also_silence=False))
        self._config = config

    async def _append(self, event: Mapping[str, Any]) -> None:
        given = event.get("audio")
        if not isinstance(given, str):
            raise ApiError(400, "audio is missing; send sound in base64", code="invalid", param="audio")
        try:
            data = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, f"audio is not base64: {error}", code="invalid", param="audio") from error
        if len(data) > _MOST_APPENDED:
            message = f"audio has {len(data):,} bytes; allowed are {_MOST_APPENDED:,} in one event"
            raise ApiError(400, message, code="too_large", param="audio")
        hearing = self._hearing or await self._opened()
        self._sent_s += self._config.input.format.seconds(data)
        await hearing.push(self._config.input.format.decode(data))

    async def _commit(self, _: Mapping[str, Any]) -> None:
        held_s = 0.0 if self._hearing is None else self._hearing.uncommitted_s
        if self._hearing is None or held_s < _LEAST_COMMITTED_S:
            message = f"the buffer has {1000 * held_s:.0f} ms of sound; at least {1000 * _LEAST_COMMITTED_S:.0f} ms"
            raise ApiError(400, f"{message} are needed", code="input_audio_buffer_commit_empty")
        await self._left(self._hearing.commit())

    async def _clear(self, _: Mapping[str, Any]) -> None:
        if self._hearing is not None:
            await self._left(self._hearing.discard())
        await self._send("input_audio_buffer.cleared", {})

    async def _left(self, ending: Awaitable[None]) -> None:
        """The stream takes no more sound; what it has is told while the next one begins."""
        self._hearing = None
        await ending

    async def _opened(self) -> Hearing:
        """A stream with the settings of now; raises `ApiError` and `RedlineError`."""
        hearing = Hearing(self._server.service, self._config, self._send, self._chain, self._sent_s)
        self._tasks.add(hearing.task)
        hearing.task.add_done_callback(self._ended)
        await hearing.opened()
        self._hearing = hearing
        return hearing

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, WebSocketDisconnect):
            return
        _log.error("a stream of a realtime session failed", exc_info=error)
        self._hearing = None
        self._tasks.add(asyncio.ensure_future(self._complain(internal_api_error(), None)))

    async def _complain(self, error: ApiError | RedlineError, event: Any) -> None:
        error = api_error_of(error) if isinstance(error, RedlineError) else error
        id = event.get("event_id") if isinstance(event, dict) else None
        await self._send("error", {"error": {**error.to_dict()["error"], "event_id": id}})

    async def _send(self, type: str, keys: Mapping[str, Any]) -> None:
        event = {"type": type, "event_id": f"event_{token_hex(8)}", **keys}
        try:
            await self._websocket.send_text(json.dumps(event, ensure_ascii=False))
        except RuntimeError as error:  # the connection is closed
            raise WebSocketDisconnect(1006) from error


def _event_of(text: str | None) -> dict[str, Any]:
    """The event in a message; raises `ApiError` for what is none."""
    if text is None:
        raise ApiError(400, "a binary message; events are JSON in text messages", code="invalid")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the message is no JSON: {error}", code="invalid") from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ApiError(400, "the message is no object with a type", code="invalid", param="type")
    return event
