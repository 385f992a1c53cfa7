"""Webhooks: signed deliveries that are kept until they have arrived, or are given up as dead letters.

The header `Redline-Signature: t=SECONDS,v1=HEX` holds the HMAC-SHA256 of "SECONDS.BODY", one `v1` for each secret while
secrets are changed. A delivery may come twice; both carry the same `Redline-Event-Id`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import Row, func, insert, select, update

from redline.errors import RedlineError
from redline.serve.outgoing import RefusedAddressError, guarded_client
from redline.serve.store.database import Database
from redline.serve.store.tables import deliveries_table

_log = logging.getLogger(__name__)
TOLERANCE_S = 300.0
"""A signature that is older was sent by somebody who overheard it."""
RETRY_S = (60.0, 300.0, 1800.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 86_400.0)
"""Waits between attempts: about three days in all."""
_MOST_REPLY_BYTES = 64 << 10


def sign(body: bytes, secrets: Sequence[str], at: float) -> str:
    """The value of the header for a body that is sent at this time."""
    signed = b"%d." % int(at) + body
    values = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={int(at)}", *(f"v1={value}" for value in values)])


def is_signed(body: bytes, header: str, secret: str, now: float, tolerance_s: float = TOLERANCE_S) -> bool:
    """Whether a body came from who knows the secret, just now: what a receiver checks."""
    parts = [part.partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name.strip() == "t" and value.isdigit()]
    if len(times) != 1 or abs(now - int(times[0])) > tolerance_s:
        return False
    expected = sign(body, [secret], int(times[0])).partition("v1=")[2]
    given = [value for name, _, value in parts if name.strip() == "v1"]
    return sum(hmac.compare_digest(expected, value.strip()) for value in given) > 0


@dataclass(frozen=True)
class Delivery:
    """One event for one receiver; `state` is waiting, delivered or dead."""

    event_id: str
    url: str
    attempts: int
    due_at: float
    state: str
    seen: str | None
    """What the last attempt met."""


class WebhookQueue:
    """Deliveries in the server's database, so that none is lost with the process. Any number of threads may use it."""

    def __init__(
        self, database: Database, *, now: Callable[[], float] = time.time, timeout_s: float = 10.0
    ) -> None:  # fmt: skip
        self.database, self.now, self.timeout_s = database, now, timeout_s

    def add(
        self, url: str, body: str, secret_env: str, allow_hosts: Collection[str] = (), *, job_id: str | None = None
    ) -> str:
        """Keep a delivery, which is due at once -> its event id; it is on disk when this returns.

        It goes with the job that it is about, when that is deleted.
        """
        event_id = f"evt_{uuid.uuid4().hex}"
        values = {
            "event_id": event_id, "job_id": job_id, "url": url, "secret_env": secret_env, "body": body,
            "allow_hosts": "\n".join(allow_hosts), "due_at": self.now(), "state": "waiting",
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(insert(deliveries_table).values(values))
        return event_id

    def deliver_due(self, limit: int = 100) -> int:
        """Try what is due -> how many arrived."""
        table = deliveries_table.c
        query = select(deliveries_table).where(table.state == "waiting", table.due_at <= self.now())
        with self.database.read() as connection:
            due = connection.execute(query.order_by(table.due_at).limit(limit)).all()
        return sum(self._try(row) for row in due)

    def next_due_at(self) -> float | None:
        """When the next attempt is due; None where nothing waits."""
        query = select(func.min(deliveries_table.c.due_at)).where(deliveries_table.c.state == "waiting")
        with self.database.read() as connection:
            due_at = connection.execute(query).scalar_one()
        return None if due_at is None else float(due_at)

    def deliveries(self, state: str | None = None, limit: int = 1000) -> list[Delivery]:
        """All of a state, the oldest first; dead ones are kept for whoever looks into what went wrong."""
        table = deliveries_table.c
        query = select(table.event_id, table.url, table.attempts, table.due_at, table.state, table.seen)
        if state is not None:
            query = query.where(table.state == state)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(table.number).limit(limit)).all()
        return [Delivery(*row) for row in rows]

    def revive(self, event_id: str) -> bool:
        """Try a dead one again from the beginning; False where there is none."""
        table = deliveries_table.c
        with self.database.write() as connection:
            changed = connection.execute(
                update(deliveries_table)
                .where(table.event_id == event_id, table.state == "dead")
                .values(state="waiting", attempts=0, due_at=self.now())
            ).rowcount
        return changed == 1

    def _try(self, row: Row[Any]) -> bool:
        allowed = row.allow_hosts.split("\n") if row.allow_hosts else []
        try:
            seen, is_final = self._send(row.event_id, row.url, row.secret_env, allowed, row.body.encode("utf-8"))
        except Exception as error:  # of this delivery: the others are due as well
            _log.exception("webhook %s could not be sent", row.event_id)
            seen, is_final = f"an internal error ({type(error).__name__})", False
        attempts = row.attempts + 1
        values: dict[str, Any] = {"attempts": attempts, "due_at": self.now(), "seen": seen or None}
        if not seen:
            values |= {"state": "delivered", "body": ""}
        elif is_final or attempts > len(RETRY_S):
            values["state"] = "dead"
            _log.warning("webhook %s is given up after %d attempts: %s", row.event_id, attempts, seen)
        else:
            values["due_at"] += RETRY_S[attempts - 1]
        with self.database.write() as connection:
            mine = deliveries_table.c.event_id == row.event_id
            connection.execute(update(deliveries_table).where(mine).values(values))
        return not seen

    def _send(self, event_id: str, url: str, secret_env: str, allowed: list[str], body: bytes) -> tuple[str, bool]:
        """What went wrong, "" for nothing, and whether it will always."""
        secrets = [secret for secret in os.environ.get(secret_env, "").split(",") if secret]
        if not secrets:
            return f"the environment variable {secret_env} is not set", False
        headers = {
            "Content-Type": "application/json",
            "Redline-Event-Id": event_id,
            "Redline-Signature": sign(body, secrets, self.now()),
        }
        until = time.monotonic() + self.timeout_s
        try:
            with (
                guarded_client(url, allow_hosts=allowed, timeout_s=self.timeout_s) as client,
                client.stream("POST", url, content=body, headers=headers) as reply,
            ):
                size = 0
                for piece in reply.iter_raw():
                    size += len(piece)
                    if size > _MOST_REPLY_BYTES or time.monotonic() > until:
                        break
                if 200 <= reply.status_code < 300:
                    return "", False
                return f"HTTP {reply.status_code}", reply.status_code == 410  # Gone: the receiver wants no more
        except RefusedAddressError as error:
            return str(error), "cannot be found" not in str(error)
        except (httpx.HTTPError, RedlineError) as error:
            return f"{type(error).__name__}: {error}", False
