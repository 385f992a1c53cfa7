"""Pages of other sites: a browser on this machine must not be the way in for them.

CORS hides replies from a foreign page, but lets it send forms and open WebSockets; and a name of its own that points to
127.0.0.1 (DNS rebinding) makes it no foreign page at all. Both are seen in headers that pages cannot forge.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from redline.serve.api_errors import ApiError
from redline.serve.options import ServeOptions


class OwnPagesOnly:
    """ASGI middleware: refuses what a page of another site sends, unless that site is among `cors_origins`."""

    def __init__(self, app: ASGIApp, options: ServeOptions, *, asks_for_keys: bool) -> None:
        self.app, self._options, self._asks_for_keys = app, options, asks_for_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (error := self._refused(Headers(scope=scope))) is not None:
            response: Response = error.response()
            if scope["type"] == "http":
                await response(scope, receive, send)
                return
            await send({"type": "websocket.http.response.start", "status": 403, "headers": response.raw_headers})
            await send({"type": "websocket.http.response.body", "body": response.body})
            return
        await self.app(scope, receive, send)

    def _refused(self, headers: Headers) -> ApiError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        # A key cannot be guessed by a page; without keys the name of the machine is what is left.
        if not self._asks_for_keys and not self._is_ours(_name_of(host)):
            message = f"the name {host[:80]!r} is none of this server's; call it by its address, or use API keys"
            return ApiError(403, message, code="foreign_host")
        if origin is None or origin in self._options.cors_origins or "*" in self._options.cors_origins:
            return None
        if urlsplit(origin).netloc.lower() == host.lower():
            return None
        return ApiError(403, f"pages of {origin[:80]} may not call this server; --cors allows them", code="cors")

    def _is_ours(self, name: str) -> bool:
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in ("", "localhost", self._options.host)


def _name_of(host: str) -> str:
    """`[::1]:8020` -> ::1"""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
