"""Webhooks: signed deliveries that are kept until they have arrived, or are given up as dead letters.

The header `Redline-Signature: t=SECONDS,v1=HEX` holds the HMAC-SHA256 of "SECONDS.BODY", one `v1` for each secret while
secrets are changed. A delivery may come twice; both carry the same `Redline-Event-Id`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from redline.errors import RedlineError
from redline.serve.outgoing import RefusedAddressError, guarded_client

_log = logging.getLogger(__name__)
TOLERANCE_S = 300.0
"""A signature that is older was sent by somebody who overheard it."""
RETRY_S = (60.0, 300.0, 1800.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 86_400.0)
"""Waits between attempts: about three days in all."""
_MOST_REPLY_BYTES = 64 << 10
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    event_id TEXT PRIMARY KEY, url TEXT NOT NULL, secret_env TEXT NOT NULL, allow_hosts TEXT NOT NULL,
    body BLOB NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', seen TEXT
)"""


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
    """Deliveries in a file, so that none is lost with the process. Any number of threads may use it."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time, timeout_s: float = 10.0) -> None:
        self.path, self.now, self.timeout_s = path, now, timeout_s
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute(_SCHEMA)

    def add(self, url: str, body: bytes, secret_env: str, allow_hosts: Collection[str] = ()) -> str:
        """Keep a delivery, which is due at once -> its event id; it is on disk when this returns."""
        event_id = f"evt_{uuid.uuid4().hex}"
        row = (event_id, url, secret_env, "\n".join(allow_hosts), body, self.now())
        with self._open() as database:
            database.execute(
                "INSERT INTO deliveries (event_id, url, secret_env, allow_hosts, body, due_at) VALUES (?,?,?,?,?,?)",
                row,
            )
        return event_id

    def deliver_due(self, limit: int = 100) -> int:
        """Try what is due -> how many arrived."""
        with self._open() as database:
            due = database.execute(
                "SELECT event_id, url, secret_env, allow_hosts, body, attempts FROM deliveries "
                "WHERE state = 'waiting' AND due_at <= ? ORDER BY due_at LIMIT ?",
                (self.now(), limit),
            ).fetchall()
        return sum(self._try(*row) for row in due)

    def next_due_at(self) -> float | None:
        """When the next attempt is due; None where nothing waits."""
        with self._open() as database:
            (due_at,) = database.execute("SELECT min(due_at) FROM deliveries WHERE state = 'waiting'").fetchone()
        return None if due_at is None else float(due_at)

    def deliveries(self, state: str | None = None) -> list[Delivery]:
        """All of a state, the oldest first; dead ones are kept for whoever looks into what went wrong."""
        query = "SELECT event_id, url, attempts, due_at, state, seen FROM deliveries"
        with self._open() as database:
            rows = database.execute(f"{query} WHERE state = coalesce(?, state) ORDER BY rowid", (state,)).fetchall()
        return [Delivery(*row) for row in rows]

    def revive(self, event_id: str) -> bool:
        """Try a dead one again from the beginning; False where there is none."""
        with self._open() as database:
            query = "UPDATE deliveries SET state = 'waiting', attempts = 0, due_at = ? "
            changed = database.execute(
                f"{query} WHERE event_id = ? AND state = 'dead'", (self.now(), event_id)
            ).rowcount
        return changed == 1

    def _try(self, event_id: str, url: str, secret_env: str, allowed: str, body: bytes, attempts: int) -> bool:
        seen, is_final = self._send(event_id, url, secret_env, allowed.split("\n") if allowed else [], body)
        attempts += 1
        if not seen:
            state, due_at = "delivered", self.now()
        elif is_final or attempts > len(RETRY_S):
            state, due_at = "dead", self.now()
            _log.warning("webhook %s is given up after %d attempts: %s", event_id, attempts, seen)
        else:
            state, due_at = "waiting", self.now() + RETRY_S[attempts - 1]
        with self._open() as database:
            database.execute(
                "UPDATE deliveries SET state = ?, attempts = ?, due_at = ?, seen = ?, "
                "body = CASE WHEN ? = 'delivered' THEN x'' ELSE body END WHERE event_id = ?",
                (state, attempts, due_at, seen or None, state, event_id),
            )
        return state == "delivered"

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

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30.0)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            with database:
                yield database
