"""Five hundred clients that send a byte now and then: each is closed in time, and nobody else is slower for them."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from .killed_server import KilledServer
from .recordings import ROUTE, wav

pytestmark = pytest.mark.laws

ROUTES = (
    "/health",
    "/nowhere",
    ROUTE,
    "/v1/jobs",
    "/v1/uploads",
    "/v1/listen",
    "/v1/transcripts",
    "/mcp",
    "/",
    "/docs",
)
SLOW, NORMAL, EVERY_S = 500, 50, 10.0


async def drip(address: str, number: int) -> float:
    """Send a request at a byte in ten seconds, half of them in its head, half in its body -> seconds until the end."""
    host, _, port = address.partition(":")
    method = "GET" if number % 4 > 1 else "POST"
    head = f"{method} {ROUTES[number % len(ROUTES)]} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if number % 2:
        head += b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n--b\r\n"
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head)
        while True:
            try:
                while await asyncio.wait_for(reader.read(65536), EVERY_S):
                    pass  # an answer, perhaps, and the connection stays
                return time.monotonic() - began
            except asyncio.TimeoutError:
                writer.write(b"x")
    except OSError:
        return time.monotonic() - began
    finally:
        writer.close()


def drip_all(address: str, told: Any) -> None:
    async def every() -> list[float]:
        return await asyncio.gather(*(drip(address, number) for number in range(SLOW)))

    told.send(None)  # what it takes to begin is no work of the server's
    told.send(asyncio.run(every()))


async def p95_of_normal_clients(url: str, seconds: float) -> float:
    """Of clients that come again and again, two seconds after they were answered."""
    taken: list[float] = []
    until, recording = time.monotonic() + seconds, wav(1)

    async def come(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            began = time.perf_counter()
            reply = await client.post(ROUTE, files={"file": recording})
            taken.append(time.perf_counter() - began)
            assert reply.json()["text"] == "1.00 seconds"
            await asyncio.sleep(2.0)

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(*(come(client) for _ in range(NORMAL)))
    return sorted(taken)[95 * len(taken) // 100]


def test_500_slow_clients_are_closed_within_20_s_and_50_others_keep_their_pace(tmp_path: Path) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with KilledServer(tmp_path, {}) as url:
        before_s = asyncio.run(p95_of_normal_clients(url, 8.0))
        args = (url.removeprefix("http://"), sender)
        slow = multiprocessing.get_context("forkserver").Process(target=drip_all, args=args)
        slow.start()
        sender.close()
        receiver.recv()
        during_s = asyncio.run(p95_of_normal_clients(url, 20.0))
        lasted = receiver.recv()
        slow.join()
        after_s = asyncio.run(p95_of_normal_clients(url, 8.0))
        assert httpx.get(f"{url}/health").status_code == 200
    print(
        f"p95: before {before_s:.3f} s, during {during_s:.3f} s, after {after_s:.3f} s; closed in {max(lasted):.1f} s"
    )
    assert len(lasted) == SLOW and max(lasted) <= 20.0
    assert during_s < 2 * max(before_s, after_s)
