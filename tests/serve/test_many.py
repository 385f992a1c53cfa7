"""A thousand uploads at once, stops and restarts with hundreds of jobs: nothing is lost, and the order stays."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from .killed_server import KilledServer
from .recordings import ROUTE, until, wav
from .test_job_kills import rows, submit, undisturbed
from .watched import MB, Watch, percentile

pytestmark = pytest.mark.laws

MEGABYTE = wav(32)  # 1,024,044 bytes


def upload_all(url: str, count: int, told: Any) -> None:
    """Send recordings at once, to jobs and to requests by turns; tells (number, status, Retry-After, text) of each."""

    async def upload(client: httpx.AsyncClient, number: int) -> tuple[int, int, str | None, str | None]:
        route = "/v1/jobs" if number % 2 else ROUTE
        reply = await client.post(route, files={"file": (f"{number}.wav", MEGABYTE)})
        return number, reply.status_code, reply.headers.get("Retry-After"), reply.json().get("text")

    async def upload_each() -> list[tuple[int, int, str | None, str | None]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            return await asyncio.gather(*(upload(client, number) for number in range(count)))

    told.send(asyncio.run(upload_each()))


def test_a_thousand_uploads_at_once_are_each_done_or_refused(tmp_path: Path) -> None:
    """On one processor: none is lost, `/health` answers, and memory has a bound."""
    expected = json.loads(undisturbed(MEGABYTE)[0])["text"]
    server = KilledServer(tmp_path, {}, cpus=[min(os.sched_getaffinity(0))], base_timeout_s=600.0)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with server as url:
        httpx.post(f"{url}{ROUTE}", files={"file": MEGABYTE}).raise_for_status()  # what is imported late is there
        clients = multiprocessing.get_context("forkserver").Process(target=upload_all, args=(url, 1000, sender))
        with Watch(url, server.pid) as watch:
            clients.start()
            sender.close()  # so that clients that fail are not waited for
            replies = receiver.recv()
            clients.join()
        statuses = Counter(status for _, status, _, _ in replies)
        grown_mb = (watch.most_bytes - watch.base_bytes) / MB
        p99 = percentile(watch.busy_s, 99)
        health = f"p99 {percentile(watch.seconds, 99):.3f} s, of which the server computed {p99:.3f} s"
        print(f"{dict(statuses)}; health: {health}; memory: {watch.base_bytes / MB:.0f} MB and {grown_mb:.0f} MB more")
        assert len(replies) == 1000
        for number, status, retry_after, text in replies:
            if status in (429, 503):
                assert retry_after is not None and int(retry_after) >= 1
            elif number % 2:
                assert status == 202
            else:
                assert (status, text) == (200, expected)
        until(lambda: not rows(tmp_path, "SELECT 1 FROM jobs WHERE state IN ('queued', 'running')"), 600.0)
        done = {str(row[0]) for row in rows(tmp_path, "SELECT name FROM jobs WHERE state = 'done'")}
        assert done == {f"{number}.wav" for number, status, _, _ in replies if status == 202}
        assert p99 < 0.5 and grown_mb < 600


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


def test_a_stop_during_100_jobs_gives_them_back_and_1000_keep_their_order(tmp_path: Path) -> None:
    options: dict[str, object] = {"job_slots": 100, "job_attempts": 1000}
    numbers, running = range(1000), "SELECT 1 FROM jobs WHERE state = 'running'"
    server = KilledServer(tmp_path, {"batch_s": 1.0}, **options)
    with server as url:
        assert all(submit(url, number, wav(31)) for number in numbers)
        ids = rows(tmp_path, "SELECT id FROM jobs ORDER BY number")
        until(lambda: len(rows(tmp_path, running)) == 100)
        asked_at, began = time.time(), time.monotonic()
        server.stop()
        print(f"stopped in {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 30.0
    assert not rows(tmp_path, running), "leases were returned"
    assert not rows(tmp_path, f"SELECT 1 FROM jobs WHERE started_at > {asked_at}"), "and none was taken any more"
    with KilledServer(tmp_path, {}, **options):
        until(lambda: len(rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'done'")) == len(numbers), 600.0)
    assert rows(tmp_path, "SELECT id FROM jobs ORDER BY number") == ids
    started = [float(str(row[0])) for row in rows(tmp_path, "SELECT started_at FROM jobs ORDER BY number")]
    assert all(later >= earlier for earlier, later in zip(started, started[100:], strict=False)), "in their order"
