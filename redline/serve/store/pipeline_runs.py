"""Runs of pipelines behind jobs: begun in the transaction that ends the job, so that none is forgotten.

A run is leased as jobs are, and keeps what each step gave: whoever leases it again goes on behind the last step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from redline.serve.store.database import Database
from redline.serve.store.jobs import LeaseLostError
from redline.serve.store.tables import pipeline_runs_table

LEASE_S = 60.0


@dataclass(frozen=True)
class PipelineRun:
    """A run that a worker has leased; `outcome` is what its steps gave before, if it was begun."""

    job_id: str
    pipeline: str
    token: int
    outcome: dict[str, Any] | None


class PipelineRuns:
    """All runs of all servers on one database."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self.database, self.now = database, now

    @staticmethod
    def add(connection: Connection, job_id: str, pipeline: str) -> None:
        """Have a pipeline follow a job, when the transaction ends."""
        values = {"job_id": job_id, "pipeline": pipeline, "state": "queued", "token": 0}
        connection.execute(insert(pipeline_runs_table).values(values))

    def about(self, job_id: str) -> dict[str, Any] | None:
        """State, results and errors, as JSON; None before the job is done."""
        with self.database.read() as connection:
            row = connection.execute(select(pipeline_runs_table).where(_of_job(job_id))).one_or_none()
        if row is None:
            return None
        outcome = json.loads(row.outcome) if row.outcome else {"results": {}, "errors": {}}
        return {"name": row.pipeline, "state": row.state, "results": outcome["results"], "errors": outcome["errors"]}

    def lease(self) -> PipelineRun | None:
        """The first run that nobody works on; None where there is none."""
        table = pipeline_runs_table.c
        expired = and_(table.state == "running", table.lease_until <= self.now())
        free = select(pipeline_runs_table).where(or_(table.state == "queued", expired)).order_by(table.number).limit(1)
        with self.database.read() as connection:
            if connection.execute(free).first() is None:
                return None
        with self.database.write() as connection:
            row = connection.execute(free.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            token = row.token + 1
            values = {"state": "running", "token": token, "lease_until": self.now() + LEASE_S}
            connection.execute(update(pipeline_runs_table).where(_of_job(row.job_id)).values(values))
            return PipelineRun(row.job_id, row.pipeline, token, json.loads(row.outcome) if row.outcome else None)

    def beat(self, run: PipelineRun, outcome: dict[str, Any] | None = None, state: str = "running") -> None:
        """Renew the lease, keep what the steps gave so far, or end the run; raises `LeaseLostError`."""
        values: dict[str, Any] = {"lease_until": self.now() + LEASE_S, "state": state}
        if outcome is not None:
            values["outcome"] = json.dumps(outcome)
        with self.database.write() as connection:
            held = and_(_of_job(run.job_id), pipeline_runs_table.c.token == run.token)
            still = pipeline_runs_table.c.state == "running"
            if connection.execute(update(pipeline_runs_table).where(held, still).values(values)).rowcount != 1:
                raise LeaseLostError


def _of_job(job_id: str) -> Any:
    return pipeline_runs_table.c.job_id == job_id
