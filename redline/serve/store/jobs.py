"""The queue of jobs: leases with fencing tokens and heartbeats, so that each job has exactly one result.

A worker that leases a job gets a token. Whoever holds the newest token of a running job may write about it, nobody
else: a worker that was thought dead, and comes back, is refused. A lease that nobody renews expires, and the job is
leased again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from redline.serve.store.database import Database
from redline.serve.store.files import new_id
from redline.serve.store.tables import answers_table, idempotency_keys_table, jobs_table

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JOB_STATES: tuple[str, ...] = get_args(JobState)
OPEN_STATES = ("queued", "running")


class LeaseLostError(Exception):
    """A worker writes about a job that is no longer its own: it was cancelled, or its lease expired."""


class KeyReusedError(Exception):
    """An idempotency key comes again with another request."""


class QueueFullError(Exception):
    """So many jobs wait that no more are taken."""


@dataclass(frozen=True)
class TranscriptionJob:
    """A job as it is in the database."""

    id: str
    number: int
    owner: str
    name: str
    url: str | None
    sha256: str | None
    options: dict[str, Any]
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    token: int
    done_s: float
    known_s: float
    error_code: str | None
    error_message: str | None

    @property
    def is_over(self) -> bool:
        return self.state not in OPEN_STATES


@dataclass(frozen=True)
class NewJob:
    """What a job is made of: whose it is, the name of its recording, and the recording or where it is fetched."""

    owner: str
    name: str
    options: Mapping[str, Any]
    sha256: str | None = None
    url: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class QueueOptions:
    """How long a lease lasts, how often a job is begun, how many wait."""

    lease_s: float = 30.0
    max_attempts: int = 3
    max_queued: int = 10_000


class JobQueue:
    """All jobs of all servers on one database."""

    def __init__(
        self, database: Database, options: QueueOptions = QueueOptions(), now: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self.database, self.options, self.now = database, options, now
        self._turns: dict[str, int] = {}  # the last lease of each owner's jobs
        self._leases = count(1)

    def submit(self, new: NewJob, key: str | None = None, request_sha256: str = "") -> tuple[TranscriptionJob, bool]:
        """Add a job -> it, and whether it is new: the same key of the same owner gives the job that it gave before.

        Raises `KeyReusedError` where the key comes with another request, and `QueueFullError`.
        """
        try:
            with self.database.write() as connection:
                if key is not None and (known := self._known(connection, new.owner, key, request_sha256)) is not None:
                    return known, False
                waiting = select(jobs_table.c.id).where(jobs_table.c.state == "queued")
                if connection.execute(waiting.offset(self.options.max_queued - 1).limit(1)).first() is not None:
                    raise QueueFullError
                id = new.id or new_id("job")
                connection.execute(
                    insert(jobs_table).values(
                        id=id, owner=new.owner, name=new.name, options=json.dumps(dict(new.options)), url=new.url,
                        sha256=new.sha256, state="queued", created_at=self.now(),
                    )
                )  # fmt: skip
                if key is not None:
                    values = {"owner": new.owner, "key": key, "request_sha256": request_sha256, "job_id": id}
                    connection.execute(insert(idempotency_keys_table).values(values))
                return self._get(connection, id), True
        except IntegrityError:  # the same key, at the same time, on another server
            with self.database.read() as connection:
                known = None if key is None else self._known(connection, new.owner, key, request_sha256)
            if known is None:
                raise
            return known, False

    def known(self, owner: str, key: str, request_sha256: str) -> TranscriptionJob | None:
        """The job that an idempotency key gave before; raises `KeyReusedError` where that was another request."""
        with self.database.read() as connection:
            return self._known(connection, owner, key, request_sha256)

    def get(self, id: str, owner: str | None = None) -> TranscriptionJob | None:
        """A job, where it is there and, with `owner`, of that owner."""
        with self.database.read() as connection:
            condition = jobs_table.c.id == id if owner is None else _of(id, owner)
            row = connection.execute(select(jobs_table).where(condition)).one_or_none()
        return None if row is None else _job(row)

    def recent(
        self, owner: str | None = None, *, state: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[TranscriptionJob]:
        """Jobs, the newest first; `before` is the number of a job that was listed."""
        query = select(jobs_table).order_by(jobs_table.c.number.desc()).limit(limit)
        for column, value in ((jobs_table.c.owner, owner), (jobs_table.c.state, state)):
            query = query if value is None else query.where(column == value)
        if before is not None:
            query = query.where(jobs_table.c.number < before)
        with self.database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def lease(self, worker: str, in_work: Collection[str] = ()) -> TranscriptionJob | None:
        """A job that nobody works on, leased to a worker; None where there is none.

        Owners take turns, and the jobs of one go in their order. Jobs that are `in_work`, by their ids, are left to
        whoever works on them in this process, however late their heartbeats are: taken over, they would only begin
        again. A job that was begun `max_attempts` times without one window more fails instead (a dead letter).
        """
        free = or_(
            jobs_table.c.state == "queued",
            and_(jobs_table.c.state == "running", jobs_table.c.lease_until <= self.now()),
        )
        free = and_(free, jobs_table.c.id.not_in(in_work)) if in_work else free
        owners = select(jobs_table.c.owner, func.min(jobs_table.c.number)).where(free).group_by(jobs_table.c.owner)
        first = select(jobs_table).where(free).order_by(jobs_table.c.number).limit(1)
        while True:
            with self.database.read() as connection:  # most looks find nothing, and need not write
                if connection.execute(first).first() is None:
                    return None
            with self.database.write() as connection:
                waiting = {owner: (self._turns.get(owner, 0), number) for owner, number in connection.execute(owners)}
                if not waiting:
                    return None
                owner = min(waiting, key=waiting.__getitem__)
                mine = first.where(jobs_table.c.owner == owner)
                row = connection.execute(mine.with_for_update(skip_locked=True)).one_or_none()
                if row is None:
                    return None
                self._turns[owner] = next(self._leases)
                if row.attempts >= self.options.max_attempts:
                    message = (
                        f"the server ended {row.attempts} times while it worked on this recording, without finishing a "
                        "part of it"
                    )
                    self._end(connection, row.id, "failed", error_code="given_up", error_message=message)
                    continue
                values = {
                    "state": "running", "worker": worker, "token": row.token + 1, "attempts": row.attempts + 1,
                    "lease_until": self.now() + self.options.lease_s, "started_at": row.started_at or self.now(),
                }  # fmt: skip
                connection.execute(update(jobs_table).where(jobs_table.c.id == row.id).values(values))
                return self._get(connection, row.id)

    def beat(
        self, job: TranscriptionJob, done_s: float, known_s: float, answers: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Renew a lease, tell the progress in seconds, and keep answers to windows; raises `LeaseLostError`.

        With a window more the attempts count from the beginning: the job goes on, it does not fail again and again.
        """
        values: dict[str, Any] = {
            "lease_until": self.now() + self.options.lease_s, "done_s": done_s, "known_s": known_s,
        }  # fmt: skip
        if answers:
            values["attempts"] = 1
        with self.database.write() as connection:
            self._as_holder(connection, job, values)
            if answers:
                ids = [each["window_id"] for each in answers]
                mine = answers_table.c.job_id == job.id
                connection.execute(delete(answers_table).where(mine, answers_table.c.window_id.in_(ids)))
                connection.execute(insert(answers_table), [{"job_id": job.id, **each} for each in answers])

    def fetched(self, job: TranscriptionJob, sha256: str, name: str) -> None:
        """The recording of a job's URL is there; raises `LeaseLostError`."""
        with self.database.write() as connection:
            self._as_holder(connection, job, {"sha256": sha256, "name": name})

    def give_back(self, job: TranscriptionJob) -> None:
        """Return a lease: the job waits as if it had not been begun; raises `LeaseLostError`."""
        with self.database.write() as connection:
            values = {"state": "queued", "attempts": jobs_table.c.attempts - 1, "lease_until": None, "worker": None}
            self._as_holder(connection, job, values)

    def fail(self, job: TranscriptionJob, code: str, message: str, *, again: bool = False) -> JobState:
        """A job failed: for good, or with `again` it waits for its next attempt while there is one.

        Returns the state that it has now; raises `LeaseLostError`.
        """
        with self.database.write() as connection:
            self._as_holder(connection, job, {"error_code": code, "error_message": message})
            if again and self._get(connection, job.id).attempts < self.options.max_attempts:
                values = {"state": "queued", "lease_until": None, "worker": None}
                connection.execute(update(jobs_table).where(jobs_table.c.id == job.id).values(values))
                return "queued"
            self._end(connection, job.id, "failed", error_code=code, error_message=message)
            return "failed"

    def finish(self, connection: Connection, job: TranscriptionJob, duration_s: float) -> None:
        """A job is done, in the transaction that keeps its transcript; raises `LeaseLostError`."""
        self._as_holder(connection, job, {"done_s": duration_s, "known_s": duration_s})
        self._end(connection, job.id, "done", error_code=None, error_message=None)

    def cancel(self, id: str) -> TranscriptionJob | None:
        """Cancel a job that is not over -> the job as it is now; None where there is none.

        Who works on it learns it at the next heartbeat, and its result is refused.
        """
        with self.database.write() as connection:
            row = connection.execute(select(jobs_table).where(jobs_table.c.id == id).with_for_update()).one_or_none()
            if row is None:
                return None
            if row.state in OPEN_STATES:
                self._end(connection, id, "cancelled", token=row.token + 1)
            return self._get(connection, id)

    def answers(self, id: str) -> list[Row[Any]]:
        """The answers to windows of a job that were kept."""
        with self.database.read() as connection:
            return list(connection.execute(select(answers_table).where(answers_table.c.job_id == id)))

    def counts(self) -> dict[str, int]:
        """How many jobs are queued and running."""
        with self.database.read() as connection:
            query = select(jobs_table.c.state, func.count()).where(jobs_table.c.state.in_(OPEN_STATES))
            found = {row[0]: row[1] for row in connection.execute(query.group_by(jobs_table.c.state))}
        return {state: found.get(state, 0) for state in OPEN_STATES}

    def over_before(self, time_s: float) -> Sequence[str]:
        """Ids of the jobs that were over by then."""
        with self.database.read() as connection:
            query = select(jobs_table.c.id).where(jobs_table.c.finished_at <= time_s)
            return connection.execute(query).scalars().all()

    @staticmethod
    def delete(connection: Connection, id: str) -> None:
        """Forget a job, its answers and its idempotency key."""
        connection.execute(delete(jobs_table).where(jobs_table.c.id == id))

    def _known(self, connection: Connection, owner: str, key: str, request_sha256: str) -> TranscriptionJob | None:
        keys = idempotency_keys_table
        row = connection.execute(select(keys).where(keys.c.owner == owner, keys.c.key == key)).one_or_none()
        if row is None:
            return None
        if row.request_sha256 != request_sha256:
            raise KeyReusedError
        return self._get(connection, row.job_id)

    @staticmethod
    def _get(connection: Connection, id: str) -> TranscriptionJob:
        return _job(connection.execute(select(jobs_table).where(jobs_table.c.id == id)).one())

    def _as_holder(self, connection: Connection, job: TranscriptionJob, values: Mapping[str, Any]) -> None:
        """Change a running job in the name of who holds its newest token."""
        mine = and_(
            jobs_table.c.id == job.id,
            jobs_table.c.state == "running",
            jobs_table.c.token == job.token,  # an expired lease that nobody took is renewed: no clock decides
        )
        if connection.execute(update(jobs_table).where(mine).values(dict(values))).rowcount != 1:
            raise LeaseLostError

    def _end(self, connection: Connection, id: str, state: JobState, **values: Any) -> None:
        over = {"state": state, "finished_at": self.now(), "lease_until": None, "worker": None, **values}
        connection.execute(update(jobs_table).where(jobs_table.c.id == id).values(over))
        connection.execute(delete(answers_table).where(answers_table.c.job_id == id))


def _of(id: str, owner: str) -> Any:
    return and_(jobs_table.c.id == id, jobs_table.c.owner == owner)


def _job(row: Row[Any]) -> TranscriptionJob:
    values = row._asdict()
    values["options"] = json.loads(values["options"])
    for column in ("lease_until", "worker"):
        del values[column]
    return TranscriptionJob(**values)
