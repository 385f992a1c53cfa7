"""What a burst of requests took of memory goes back when it is over."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library gives out memory")
@pytest.mark.parametrize(("setting", "most"), [(None, memory.ARENAS), ("5", 5)])
def test_threads_share_a_few_arenas_unless_the_user_wants_others(setting: str | None, most: int) -> None:
    code = (
        "import ctypes, threading\nfrom redline.serve.memory import share_arenas\n"
        "c = ctypes.CDLL(None)\nshare_arenas()\ntogether = threading.Barrier(16)\n"
        "def take(): c.malloc(100_000), together.wait()\n"
        "threads = [threading.Thread(target=take) for _ in range(16)]\n"
        "[each.start() for each in threads], [each.join() for each in threads]\nc.malloc_stats()"
    )
    given = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    given |= {} if setting is None else {"MALLOC_ARENA_MAX": setting}
    run = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert 1 < run.stderr.count("Arena ") <= most
