"""HTTP/1.1 of uvicorn, with limits on the time in which the head of a request must have come (slow loris), and on what
is read of each connection ahead of the application."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from redline.serve.options import ServeOptions

HEAD_S = 10.0
"""From the first byte that is waited for to the end of the headers."""
_MOST_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 256 << 10  # read at once, while there are few connections, as asyncio does
_LEAST_PIECE_BYTES = 8 << 10
_READ_BYTES = 16 << 20  # the pieces of all connections together; some four copies of each are on their way to the disk
_MOST_MESSAGE_BYTES = 21 << 20  # of a WebSocket: OpenAI's clients may append 15 MiB of sound at once, in base64


class BoundedHeads(H11Protocol, asyncio.BufferedProtocol):
    """Closes connections that ask for nothing, or too slowly; reads in small pieces."""

    head_s = HEAD_S
    _timer: asyncio.TimerHandle | None = None
    _piece = bytearray()

    def get_buffer(self, sizehint: int) -> bytearray:
        self._piece = bytearray(self._share)
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        piece, self._piece = self._piece, bytearray()
        self.data_received(bytes(memoryview(piece)[:nbytes]))

    @property
    def _share(self) -> int:
        """Bytes that this connection may read ahead: the more there are, the fewer."""
        return max(_LEAST_PIECE_BYTES, min(_READ_BYTES // max(1, len(self.connections)), _PIECE_BYTES))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and len(self.cycle.body) > self._share:
            self.flow.pause_reading()  # until the application has taken that
        is_websocket = self.transport.get_protocol() is not self  # which has taken the connection over
        if not is_websocket and (self.cycle is None or self.cycle.response_complete):
            self._arm()
        else:
            self._disarm()

    def on_response_complete(self) -> None:
        has_more = self.conn.their_state is h11.SEND_BODY  # which nobody reads, so it may not go on for ever
        super().on_response_complete()
        if has_more:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def open_many_files() -> None:
    """Raise this process's limit of open files to what it may have: an upload is a connection and a file.

    Systems give programs 1,024 at first, since old ones cannot have more.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def uvicorn_config(app: Any, options: ServeOptions, **further: Any) -> uvicorn.Config:
    """How the application is served: bounded heads, a stop that waits for what is in work. `Access` bounds requests."""
    settings: dict[str, Any] = {
        "http": BoundedHeads,
        "loop": "asyncio",  # uvloop comes with other extras, which should not change how this one works
        "log_level": "warning",
        "access_log": False,
        "timeout_keep_alive": 10,
        "timeout_graceful_shutdown": round(options.drain_s) + 1,
        "h11_max_incomplete_event_size": _MOST_HEAD_BYTES,
        "ws_max_size": _MOST_MESSAGE_BYTES,
    }
    return uvicorn.Config(app, **settings | further)
