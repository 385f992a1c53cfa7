"""The queue: one result for each job, whoever dies, comes back late or asks twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from redline.serve.options import ServeOptions
from redline.serve.store.jobs import KeyReusedError, LeaseLostError, NewJob, QueueFullError, TranscriptionJob
from redline.serve.store.store import Store
from redline.types import Segment, Transcript

from .conftest import Clock

NEW = NewJob("ana", "a.wav", {"language": "en"}, sha256="0" * 64)
TEXT = Transcript("well said", (Segment(0, 0.0, 2.0, "well said"),), duration=2.0)


def leased(store: Store, worker: str = "w") -> TranscriptionJob:
    job = store.jobs.lease(worker)
    assert job is not None
    return job


def test_jobs_are_leased_in_the_order_in_which_they_came(store: Store) -> None:
    ids = [store.jobs.submit(NEW)[0].id for _ in range(3)]
    assert [leased(store).id for _ in ids] == ids
    assert store.jobs.lease("w") is None


def test_owners_take_turns(store: Store) -> None:
    for owner in ("ana", "ana", "ana", "ana", "ben", "ben"):
        store.jobs.submit(replace(NEW, owner=owner))
    assert [leased(store).owner for _ in range(3)] == ["ana", "ben", "ana"]
    store.jobs.submit(replace(NEW, owner="eva"))
    assert [leased(store).owner for _ in range(4)] == ["eva", "ben", "ana", "ana"], "whoever is new goes first"


def test_a_process_takes_no_job_over_that_it_works_on(store: Store, clock: Clock) -> None:
    store.jobs.submit(NEW)
    mine = leased(store)
    clock.now += 31  # as where heartbeats wait for a disk
    assert store.jobs.lease("w", in_work={mine.id}) is None
    store.jobs.beat(mine, 1.0, 2.0)
    clock.now += 31
    assert leased(store, "another").id == mine.id


def test_a_late_writer_is_refused_when_its_lease_was_taken_over(store: Store, clock: Clock) -> None:
    store.jobs.submit(NEW)
    late = leased(store)
    clock.now += 31
    store.complete(leased(store, "other"), TEXT, None)
    for write in (
        lambda: store.complete(late, TEXT, None),
        lambda: store.jobs.beat(late, 1.0, 2.0),
        lambda: store.jobs.fail(late, "x", "y"),
        lambda: store.jobs.give_back(late),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert len(store.archive.entries()) == 1


def test_a_heartbeat_keeps_a_lease_and_tells_the_progress(store: Store, clock: Clock) -> None:
    store.jobs.submit(NEW)
    mine = leased(store)
    for done_s in range(4):
        clock.now += 20
        store.jobs.beat(mine, float(done_s), 9.0)
        assert store.jobs.lease("other") is None
    job = store.jobs.get(mine.id)
    assert job is not None and (job.done_s, job.known_s) == (3.0, 9.0)


def test_a_poisoned_job_is_given_up_and_one_that_goes_on_is_not(store: Store, clock: Clock) -> None:
    store.jobs.submit(NEW)
    for _ in range(3):
        leased(store)
        clock.now += 31
    assert store.jobs.lease("w") is None
    (job,) = store.jobs.recent()
    assert (job.state, job.error_code) == ("failed", "given_up")
    store.jobs.submit(NEW)
    answer = {"model": "m", "start": 0, "end": 9, "answer": "{}"}
    for window in range(5):  # each attempt does one window more
        store.jobs.beat(leased(store), 0.0, 9.0, [{"window_id": window, **answer}])
        clock.now += 31
    assert len(store.jobs.answers(leased(store).id)) == 5


def test_a_cancelled_job_has_no_result(store: Store) -> None:
    id = store.jobs.submit(NEW)[0].id
    mine = leased(store)
    cancelled = store.cancel(id)
    assert cancelled is not None and cancelled.state == "cancelled"
    with pytest.raises(LeaseLostError):
        store.complete(mine, TEXT, None)
    assert store.archive.entries() == [] and store.jobs.lease("w") is None


def test_a_lease_that_is_given_back_does_not_count_as_an_attempt(store: Store) -> None:
    store.jobs.submit(NEW)
    for _ in range(5):
        store.jobs.give_back(leased(store))
    assert leased(store).attempts == 1


def test_a_failure_that_may_pass_is_tried_again_and_then_told(store: Store) -> None:
    store.jobs.submit(NEW)
    states = [store.jobs.fail(leased(store), "timeout", "no text", again=True) for _ in range(3)]
    assert states == ["queued", "queued", "failed"]
    (job,) = store.jobs.recent(state="failed")
    assert (job.error_code, job.error_message) == ("timeout", "no text")


def test_one_key_at_the_same_time_is_one_job(store: Store) -> None:
    with ThreadPoolExecutor(10) as pool:
        jobs = list(pool.map(lambda _: store.jobs.submit(NEW, "key", "request"), range(20)))
    assert len({job.id for job, _ in jobs}) == 1 and sum(is_new for _, is_new in jobs) == 1
    with pytest.raises(KeyReusedError):
        store.jobs.submit(NEW, "key", "another request")
    assert store.jobs.submit(NewJob("ben", "b.wav", {}), "key", "r")[1], "a key is its owner's"


def test_workers_at_the_same_time_never_get_the_same_job(store: Store) -> None:
    ids = {store.jobs.submit(NEW)[0].id for _ in range(20)}
    with ThreadPoolExecutor(8) as pool:
        jobs = [job for job in pool.map(store.jobs.lease, map(str, range(30))) if job is not None]
    assert len(jobs) == 20 and {job.id for job in jobs} == ids


def test_a_full_queue_takes_no_more(tmp_path: Path) -> None:
    store = Store(ServeOptions(data_dir=tmp_path, max_queued_jobs=2))
    store.jobs.submit(NEW)
    store.jobs.submit(NEW)
    with pytest.raises(QueueFullError):
        store.jobs.submit(NEW)
    leased(store)
    assert store.jobs.submit(NEW)[1]
    store.close()


def test_retention_deletes_rows_and_files(store: Store, clock: Clock) -> None:
    job, _ = store.jobs.submit(NEW, "key", "r")
    store.recordings.audio(job.id).write_bytes(b"sound")
    store.complete(leased(store), TEXT, None)
    clock.now += 86_000
    assert store.tidy() == 0 and store.recordings.audio(job.id).exists()
    clock.now += 1_000
    assert store.tidy() == 1
    assert store.jobs.recent() == [] and store.archive.entries() == [] and store.archive.search("well") == []
    assert not store.recordings.audio(job.id).exists()
    assert store.jobs.submit(NEW, "key", "another request")[1]
