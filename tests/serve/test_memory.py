"""What a burst of requests took of memory goes back when it is over."""

from __future__ import annotations

import threading
import time

import pytest

from redline.serve import memory

from .conftest import ServerFactory
from .recordings import ROUTE, Held, until, wav


def test_memory_is_given_back_behind_requests_and_while_nobody_is_served(
    serve: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(memory, "TRIM_S", 0.02)
    monkeypatch.setattr(memory, "allocator_trim", lambda: lambda pad: trims.append(pad) or 1)
    recognizer = Held()
    with serve(recognizer) as server, server.client() as client:
        service = server.app.state.server.service
        asked = threading.Thread(target=lambda: client.post(ROUTE, files={"file": wav(1)}))
        asked.start()
        until(lambda: service.active)
        assert trims == []
        recognizer.go_on.set()
        asked.join(20)
        until(lambda: trims)
        before = len(trims)
        for _ in range(5):
            assert client.get("/health").status_code == 200  # asked all day long: nothing is left behind
            time.sleep(0.03)
        assert trims == [0] * before
        client.get("/v1/models")
        until(lambda: len(trims) > before)
