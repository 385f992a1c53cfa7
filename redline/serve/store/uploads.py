"""Resumable uploads: how much of a recording has come, and until when the rest may.

The bytes are in `RecordingFolder.upload`; a row tells how many of them are safely on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from redline.serve.store.database import Database
from redline.serve.store.files import new_id
from redline.serve.store.tables import uploads_table


@dataclass(frozen=True)
class Upload:
    """An upload as it is in the database; sizes in bytes."""

    id: str
    owner: str
    name: str
    length: int
    sha256: str | None
    received: int
    expires_at: float


class UploadTable:
    """The uploads that are not jobs yet."""

    def __init__(self, database: Database, keep_s: float, now: Callable[[], float] = time.time) -> None:
        """An upload may rest for `keep_s` seconds before it is forgotten."""
        self.database, self.keep_s, self.now = database, keep_s, now

    def begin(self, owner: str, name: str, length: int, sha256: str | None) -> Upload:
        """A new upload, of which nothing has come."""
        upload = Upload(new_id("up"), owner, name, length, sha256, 0, self.now() + self.keep_s)
        with self.database.write() as connection:
            connection.execute(insert(uploads_table).values(upload.__dict__))
        return upload

    def get(self, id: str, owner: str | None) -> Upload | None:
        """An upload, expired or not, where it is there and, with `owner`, of that owner."""
        query = select(uploads_table).where(uploads_table.c.id == id)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None or owner not in (None, row.owner) else _upload(row)

    def has_expired(self, upload: Upload) -> bool:
        return upload.expires_at <= self.now()

    def advance(self, upload: Upload, received: int) -> Upload:
        """So many bytes of it are on disk."""
        values = {"received": received, "expires_at": self.now() + self.keep_s}
        with self.database.write() as connection:
            connection.execute(update(uploads_table).where(uploads_table.c.id == upload.id).values(values))
            return _upload(connection.execute(select(uploads_table).where(uploads_table.c.id == upload.id)).one())

    def forget(self, id: str) -> None:
        with self.database.write() as connection:
            connection.execute(delete(uploads_table).where(uploads_table.c.id == id))

    def expired(self, for_s: float) -> Sequence[str]:
        """Ids of the uploads that expired so long ago, or longer."""
        query = select(uploads_table.c.id).where(uploads_table.c.expires_at <= self.now() - for_s)
        with self.database.read() as connection:
            return connection.execute(query).scalars().all()


def _upload(row: Row[Any]) -> Upload:
    return Upload(**row._asdict())
