"""`kill -9` at any moment: no job is lost, none has two results, and each result is that of an undisturbed run."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from redline import Transcriber
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer

from .killed_server import WINDOW_S, KilledServer
from .recordings import until, wav

pytestmark = pytest.mark.battery


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    """What is in the database of a server, running or not."""
    with closing(sqlite3.connect(folder / "data" / "redline.sqlite", timeout=30)) as connection:
        return connection.execute(query).fetchall()


def undisturbed(recording: bytes) -> tuple[str, int]:
    """The JSON that the archive has of a recording, and the number of its windows."""
    model = Transcriber(recognizer := FakeRecognizer(max_clip_s=WINDOW_S), SessionOptions(vad=None))
    told = json.dumps(model.transcribe(recording, words=True).to_dict(all_edits=True), ensure_ascii=False)
    return told, sum(map(len, recognizer.batches))


def submit(url: str, number: int, recording: bytes) -> bool:
    """Submit a job under its number; whether the server said that it has it."""
    try:
        reply = httpx.post(
            f"{url}/v1/jobs",
            files={"file": (f"{number}.wav", recording)},
            headers={"Idempotency-Key": str(number)},
            timeout=10.0,
        )
    except httpx.HTTPError:
        return False
    assert reply.status_code == 202, reply.text
    return True


def run_with_kills(folder: Path, kills: int, jobs: int, seed: int) -> None:
    """Submit jobs to a server that is killed so many times, at random moments; then check every job."""
    chance = random.Random(seed)
    recordings = [wav(seconds) for seconds in (2, 13, 31)]
    wanted, answered = list(range(jobs)), set[int]()
    options: dict[str, object] = {"lease_s": 0.5, "job_attempts": 1000}
    for _ in range(kills):
        with KilledServer(folder, {"batch_s": 0.02}, **options) as url:
            for _ in range(chance.randrange(1, 2 + 2 * jobs // kills)):
                number = chance.choice(wanted)  # also such as were answered: a client that did not hear it asks again
                if submit(url, number, recordings[number % 3]):
                    answered.add(number)
            if chance.random() < 0.5:
                until(lambda: True, chance.random() / 4)
    with KilledServer(folder, {}, **options) as url:
        for number in wanted:
            assert submit(url, number, recordings[number % 3])
        until(lambda: not rows(folder, "SELECT 1 FROM jobs WHERE state IN ('queued', 'running')"), 300.0)
    states = rows(folder, "SELECT name, state FROM jobs")
    assert sorted(states) == sorted((f"{number}.wav", "done") for number in wanted), "lost or doubled"
    texts = dict(rows(folder, "SELECT name, body FROM transcripts"))
    assert len(rows(folder, "SELECT 1 FROM transcripts")) == len(texts) == jobs
    alone = [undisturbed(recording)[0] for recording in recordings]
    assert all(texts[f"{number}.wav"] == alone[number % 3] for number in wanted), "not the bytes of an undisturbed run"
    assert rows(folder, "SELECT 1 FROM answers") == [] and rows(folder, "PRAGMA integrity_check") == [("ok",)]


def test_five_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    run_with_kills(tmp_path, kills=5, jobs=12, seed=5)


@pytest.mark.laws
def test_a_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    run_with_kills(tmp_path, kills=100, jobs=200, seed=100)


def test_a_long_recording_goes_on_inside_where_its_server_was_killed(tmp_path: Path) -> None:
    recording, log = wav(60), tmp_path / "log"
    with KilledServer(tmp_path, {"stops_at": 7}, lease_s=0.5) as url:
        assert submit(url, 0, recording)
        until(lambda: len(rows(tmp_path, "SELECT 1 FROM answers")) >= 6)
        kept = {int(str(row[0])) for row in rows(tmp_path, "SELECT window_id FROM answers")}
    with KilledServer(tmp_path, {"log": log}, lease_s=0.5):
        until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'done'"))
    again = [int(line) for line in log.read_text().split()]
    alone, windows = undisturbed(recording)
    assert sorted([*kept, *again]) == list(range(windows)), "what was kept was not asked again"
    assert rows(tmp_path, "SELECT body FROM transcripts") == [(alone,)]


def test_a_stop_gives_jobs_back_and_the_next_start_keeps_their_order(tmp_path: Path) -> None:
    recordings = [wav(seconds) for seconds in (31, 2, 2, 2, 2, 2)]
    options: dict[str, object] = {"job_slots": 2, "drain_s": 2.0}
    server = KilledServer(tmp_path, {"batch_s": 0.1}, **options)
    with server as url:
        assert all(submit(url, number, recording) for number, recording in enumerate(recordings))
        until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'running'"))
        server.stop()
    left = rows(tmp_path, "SELECT name, state, attempts FROM jobs WHERE state != 'done' ORDER BY number")
    assert left and all(row[1:] == ("queued", 0) for row in left), "leases were returned, attempts not counted"
    with KilledServer(tmp_path, {}, **options):
        until(lambda: len(rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'done'")) == len(recordings))
    began = [row[0] for row in rows(tmp_path, "SELECT name FROM jobs ORDER BY started_at")]
    assert began == [f"{number}.wav" for number in range(len(recordings))]
