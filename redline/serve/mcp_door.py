"""`/mcp`: tools for agents over streamable HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redline.serve.access import CALLER

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from redline.serve.app import ServerState

_log = logging.getLogger(__name__)
_MOST_BODY = 64 << 20  # bytes of a message; base64 takes a third more than the recording


class McpDoor:
    """ASGI application of `/mcp`, for callers with a key of the scope `transcribe`."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._ready: asyncio.Future[Callable[[Scope, Receive, Send], Awaitable[None]]]
        self._asked: asyncio.Event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: ServerState = self._app.state.server
        caller = state.keys.check(HTTPConnection(scope), "transcribe")
        self._asked.set()
        handle = await asyncio.shield(self._ready)
        await handle({**scope, CALLER: caller.name}, receive, send)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """While the application runs; the SDK is imported for the first who asks, since neither start nor stop is to
        wait for it."""
        self._ready, self._asked = asyncio.get_running_loop().create_future(), asyncio.Event()
        is_over = asyncio.Event()
        work = asyncio.ensure_future(self._serve(is_over))
        try:
            yield
        finally:
            is_over.set()
            self._asked.set()
            await work

    async def _serve(self, is_over: asyncio.Event) -> None:
        await self._asked.wait()
        if is_over.is_set():
            return
        try:
            manager = await asyncio.to_thread(self._manager)
            async with manager.run():
                self._ready.set_result(manager.handle_request)
                await is_over.wait()
        except Exception as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            _log.exception("/mcp does not work: %s", error)

    def _manager(self) -> StreamableHTTPSessionManager:
        from mcp.server.transport_security import TransportSecuritySettings

        from redline.serve.mcp_tools import tool_server

        server = tool_server(self._app, folder=None, reads_paths=False)
        server.streamable_http_app(
            stateless_http=True,
            max_request_body_size=_MOST_BODY,
            # The application itself looks at Host and Origin (`redline.serve.origins`).
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        return server.session_manager
