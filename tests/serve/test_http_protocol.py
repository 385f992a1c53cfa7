"""What a server reads of its connections ahead of the application has a bound for all of them together."""

from __future__ import annotations

from contextlib import ExitStack
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
