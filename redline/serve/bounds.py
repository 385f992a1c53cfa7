"""Bounds of what a client may send: the size of a body, the pace of an upload, headers."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.serve.api_errors import ApiError
from redline.serve.options import ServeOptions

_MOST_HEADERS, _MOST_HEADER_BYTES = 100, 64 << 10
_LINGER_S, _LINGER_IDLE_S = 10.0, 2.0
_SHORTEST_WAIT_S = 0.1  # for what has come while the server was busy


async def refuse_and_linger(response: Response, receive: Receive, send: Send) -> None:
    """Lingering close: answer a request whose body may still be coming, and read on for a while.

    Most clients read nothing before they have sent everything, and a connection that is closed in front of unread bytes
    is reset: they would never see why they were refused.
    """
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    end = time.monotonic() + _LINGER_S
    with suppress(asyncio.TimeoutError):
        while (left := end - time.monotonic()) > 0:
            if not (await asyncio.wait_for(receive(), min(left, _LINGER_IDLE_S))).get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b""})


class BoundedBodies:
    """ASGI middleware: bodies beyond `max_upload_bytes` are refused, and so are clients that send too slowly.

    A body is never held in memory here; whoever reads it gets it piece by piece.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, taken, has_begun = time.monotonic(), 0, False

        async def bounded_receive() -> Message:
            nonlocal taken
            if is_read:
                return await receive()
            # Refused as soon as it is too slow, not when its next byte comes.
            slow_at = began + max(self.options.idle_s, taken / self.options.least_bytes_per_s)
            wait_s = min(self.options.idle_s, slow_at - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(wait_s, _SHORTEST_WAIT_S))
            except asyncio.TimeoutError:
                self._check(taken, time.monotonic() - began)
                raise ApiError(408, f"nothing was sent for {self.options.idle_s:g} s", code="slow_upload") from None
            taken += len(message.get("body", b""))
            self._check(taken, time.monotonic() - began)
            if not message.get("more_body", False):
                finished()
            return message

        is_read = False

        def finished() -> None:
            nonlocal is_read
            is_read = True

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message.get("status") == 408:  # the application has made the answer; what it did not read never ends
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            self._check_head(scope)
            await self.app(scope, bounded_receive, noting_send)
        except ClientDisconnect:  # in the middle of its body: nobody reads an answer
            return
        except ApiError as error:
            if has_begun:
                raise
            response = error.response()
            response.headers["Connection"] = "close"  # the rest of the body is not read
            if is_read or error.status == 408:
                await response(scope, receive, send)
            else:
                await refuse_and_linger(response, receive, send)

    def _check_head(self, scope: Scope) -> None:
        headers = scope["headers"]
        if len(headers) > _MOST_HEADERS:
            raise ApiError(431, f"{len(headers)} headers; allowed are {_MOST_HEADERS}", code="too_many_headers")
        if (size := sum(len(name) + len(value) for name, value in headers)) > _MOST_HEADER_BYTES:
            message = f"{size:,} bytes of headers; allowed are {_MOST_HEADER_BYTES:,}"
            raise ApiError(431, message, code="headers_too_large")
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                self._check(int(value), 0.0)
            if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
                message = f"the body is encoded ({value.decode('latin-1')[:40]}); send it as it is"
                raise ApiError(415, message, code="encoded_body")

    def _check(self, size: int, seconds: float) -> None:
        most = self.options.max_upload_bytes
        if size > most:
            raise ApiError(413, f"the body has more than {most:,} bytes, which is the most", code="too_large")
        if seconds > self.options.idle_s and size < seconds * self.options.least_bytes_per_s:
            message = f"{size:,} bytes came in {seconds:.0f} s; at least {self.options.least_bytes_per_s:,} a second"
            raise ApiError(408, message, code="slow_upload")
