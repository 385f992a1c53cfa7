"""Every request as it is seen from outside: one line of the log, one span, and the numbers of `/metrics`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.serve.api_errors import ApiError
from redline.serve.bounds import refuse_and_linger
from redline.serve.logs import EXTRA

if TYPE_CHECKING:
    from redline.serve.app import ServerState

_log = logging.getLogger("redline.access")
CALLER = "redline.caller"
"""In the scope of a request that a tool made, or of one whose key was looked at: the name of the caller."""
_QUIET = ("/health", "/ready", "/metrics")
"""Asked all day long by those who watch: counted, not logged."""


class Access:
    """ASGI middleware: counts, logs and traces requests, and keeps their number, and that of each caller, in bounds."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self._state = app, state
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began, status, received = time.monotonic(), 0, 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        async def noting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body") or message.get("bytes") or b"")
            return message

        state = self._state
        method = scope.get("method", "WEBSOCKET")
        caller = state.keys.find(HTTPConnection(scope))
        counted = None if CALLER in scope else caller  # a tool's request lasts within its caller's
        with state.tracer.span(method, dict(Headers(scope=scope).items())) as span:
            try:
                with self._place(scope), state.keys.in_work(counted):
                    await self.app(scope, noting_receive, noting_send)
            except ApiError as error:
                if status:
                    raise
                await _refuse(error, scope, receive, noting_send)
            finally:
                route, took_s = _route(scope), time.monotonic() - began
                state.metrics.requests.labels(route, method, str(status or 500)).inc()
                state.metrics.request_seconds.labels(route).observe(took_s)
                span |= {"name": f"{method} {route}", "http.route": route, "http.response.status_code": status or 500}
                if route not in _QUIET:
                    state.requests += 1
                    fields = {
                        "method": method,
                        "route": route,
                        "status": status or 500,
                        "seconds": round(took_s, 3),
                        "bytes": received,
                        "key": caller.name if caller else None,
                    }
                    _log.info("request", extra={EXTRA: fields})

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """Raises `ApiError` when too many requests are there; those who watch the server are always answered."""
        most = self._state.options.max_requests
        if self._in_work >= most and scope["path"] not in _QUIET:
            message = f"{self._in_work} requests are in work or being sent, which is the most; try again later"
            raise ApiError(503, message, code="server_full", retry_after_s=5)
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    response = error.response()
    if scope["type"] == "http":
        await refuse_and_linger(response, receive, send)
        return
    start = {"type": "websocket.http.response.start", "status": error.status, "headers": response.raw_headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body})


def _route(scope: Scope) -> str:
    """The pattern of the path, which has no ids in it; all that is none of ours has one name."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "/mcp" if scope["path"] == "/mcp" else "other"
