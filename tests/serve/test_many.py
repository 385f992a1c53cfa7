"""A thousand uploads at once, stops and restarts with hundreds of jobs: nothing is lost, and the order stays."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest

from .killed_server import KilledServer
from .recordings import ROUTE, until, wav
from .test_job_kills import rows, submit, undisturbed

pytestmark = pytest.mark.laws

MEGABYTE = wav(32)  # 1,024,044 bytes


def test_a_thousand_uploads_at_once_are_each_done_or_refused(tmp_path: Path) -> None:
    async def upload(client: httpx.AsyncClient, number: int) -> tuple[int, httpx.Response]:
        route = "/v1/jobs" if number % 2 else ROUTE
        return number, await client.post(route, files={"file": (f"{number}.wav", MEGABYTE)})

    async def look(client: httpx.AsyncClient, seconds: list[float]) -> None:
        while True:
            began = time.perf_counter()
            assert (await client.get("/health")).status_code == 200
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)

    async def all_at_once(url: str) -> tuple[list[tuple[int, httpx.Response]], list[float]]:
        limits, seconds = httpx.Limits(max_connections=None), list[float]()
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            looking = asyncio.ensure_future(look(client, seconds))
            replies = await asyncio.gather(*(upload(client, number) for number in range(1000)))
            looking.cancel()
        return replies, sorted(seconds)

    expected = json.loads(undisturbed(MEGABYTE)[0])["text"]
    with KilledServer(tmp_path, {}) as url:
        replies, seconds = asyncio.run(all_at_once(url))
        statuses = [reply.status_code for _, reply in replies]
        p50, p99 = (seconds[share * len(seconds) // 100] for share in (50, 99))
        print({each: statuses.count(each) for each in set(statuses)}, f"health: p50 {p50:.3f} s, p99 {p99:.3f} s")
        for number, reply in replies:
            if reply.status_code in (429, 503):
                assert int(reply.headers["Retry-After"]) >= 1
            elif number % 2:
                assert reply.status_code == 202
            else:
                assert reply.status_code == 200 and reply.json()["text"] == expected
        until(lambda: not rows(tmp_path, "SELECT 1 FROM jobs WHERE state IN ('queued', 'running')"), 600.0)
        done = {str(row[0]) for row in rows(tmp_path, "SELECT name FROM jobs WHERE state = 'done'")}
        assert done == {f"{number}.wav" for number, reply in replies if reply.status_code == 202}


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_ten_restarts_with_500_jobs_queued_and_20_running_lose_none(tmp_path: Path, is_killed: bool) -> None:
    options: dict[str, object] = {"job_slots": 20, "lease_s": 2.0, "job_attempts": 1000}
    recordings = [wav(seconds) for seconds in (2, 13, 31)]
    numbers = range(520)
    running = "SELECT 1 FROM jobs WHERE state = 'running'"
    for restart in range(10):
        server = KilledServer(tmp_path, {"batch_s": 1.0}, **options)
        with server as url:
            if restart == 0:
                assert all(submit(url, number, recordings[number % 3]) for number in numbers)
            until(lambda: len(rows(tmp_path, running)) >= 15)  # of 20: some have just ended
            if not is_killed:
                began = time.monotonic()
                server.stop()
                print(f"stopped in {time.monotonic() - began:.1f} s")
                assert not rows(tmp_path, running), "leases were returned"
        assert len(rows(tmp_path, "SELECT 1 FROM jobs")) == len(numbers)
    with KilledServer(tmp_path, {}, **options):
        until(lambda: len(rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'done'")) == len(numbers), 600.0)
    assert len(rows(tmp_path, "SELECT DISTINCT job_id FROM transcripts")) == len(numbers), "one result for each"
    names = [str(row[0]) for row in rows(tmp_path, "SELECT name FROM jobs ORDER BY number")]
    assert names == [f"{number}.wav" for number in numbers]
    started = [float(str(row[0])) for row in rows(tmp_path, "SELECT started_at FROM jobs ORDER BY number")]
    assert all(later >= earlier - 2.0 for earlier, later in zip(started, started[20:], strict=False)), "in their order"
