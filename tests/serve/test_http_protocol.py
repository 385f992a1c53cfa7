"""What a server reads of its connections ahead of the application has a bound for all of them together."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import pytest

from redline.serve.http_protocol import BoundedHeads

from .conftest import ServerFactory
from .recordings import ROUTE, until, wav
from .test_battery import connected, form, post, status

RECORDING, OTHERS = wav(60), 200


def test_the_more_clients_send_the_less_is_read_of_each_and_all_get_their_text(
    serve: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    protocols: set[Any] = set()
    read, made = BoundedHeads.buffer_updated, BoundedHeads.connection_made

    def noting_read(protocol: Any, nbytes: int) -> None:
        sizes.append(nbytes)
        read(protocol, nbytes)

    def noting_made(protocol: Any, transport: Any) -> None:
        made(protocol, transport)
        protocols.add(protocol)

    monkeypatch.setattr(BoundedHeads, "buffer_updated", noting_read)
    monkeypatch.setattr(BoundedHeads, "connection_made", noting_made)
    with serve() as server, server.client() as client, ExitStack() as stack:
        assert client.post(ROUTE, files={"file": RECORDING}).status_code == 200
        assert max(sizes) <= 256 << 10
        protocols.clear()
        others = [stack.enter_context(connected(server)) for _ in range(OTHERS)]
        until(lambda: len(protocols) == OTHERS)
        sizes.clear()
        others[0].sendall(post(form(RECORDING)))
        assert status(others[0]) == 200
        assert 8 << 10 < max(sizes) <= (16 << 20) // OTHERS


@pytest.mark.parametrize("route", [ROUTE, "/v1/jobs", "/nowhere", "/health"])
def test_a_body_that_trickles_ends_the_connection_whether_it_is_read_or_not(
    serve: ServerFactory, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_s", 0.5)
    with serve(idle_s=0.5) as server, connected(server) as connection:
        connection.settimeout(0.2)
        connection.sendall(post(b"--b\r\n", route=route, length=1_000_000))
        reply, trickled = b"", 0
        with suppress(ConnectionError):
            while trickled < 100:
                try:
                    if not (piece := connection.recv(4096)):
                        break
                    reply += piece
                except TimeoutError:
                    connection.sendall(b"x")
                    trickled += 1
        assert trickled < 100, "it went on and on"
        assert reply.split()[1] in (b"408", b"404", b"405")
