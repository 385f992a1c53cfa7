"""The database of a server: SQLite in its folder of data, or Postgres by URL; a transaction that ended is on disk.

Everything here blocks: the event loop calls it in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from redline.errors import ConfigError
from redline.serve.store import search_index
from redline.serve.store.tables import MIGRATIONS, metadata, version_table

SQLITE_FILE = "redline.sqlite"
_BUSY_MS = 30_000
_SCHEMA_LOCK = 0x7265646C  # of Postgres, while tables are made


class Database:
    """Connections to a database whose schema is the newest. Safe to use from any thread."""

    def __init__(
        self, url: str | None, data_dir: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS, *, make: bool = True
    ) -> None:
        """Raises `ConfigError` for a database that cannot be reached, is newer than this program or, without `make`,
        is not there."""
        self._url = _url_of(url, data_dir)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if not make and not Path(self._url.database or "").is_file():
                raise ConfigError(f"{self._url.database}: there is no archive; redline serve makes one")
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite has one writer, and whoever waits looks again ten times a second: threads of one process wait here.
        self._writing: AbstractContextManager[Any] = RLock() if self.is_sqlite else nullcontext()
        self._engine = create_engine(self._url, pool_pre_ping=not self.is_sqlite, pool_size=8, max_overflow=24)
        if self.is_sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        try:
            self._migrate(migrations, make)
        except DBAPIError as error:
            self.close()
            shown = self._url.render_as_string(hide_password=True)
            raise ConfigError(f"{shown}: the database cannot be used: {error.orig}") from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when it ends, all of it or, where it raises, nothing."""
        with (
            self._writing,
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def scrub(self) -> None:
        """Have deleted rows gone from the files too, as far as the database can: from index, pages and log."""
        if self.is_sqlite:
            with self.write() as connection:
                search_index.purge(connection)
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM")

    def close(self) -> None:
        self._engine.dispose()

    def _migrate(self, migrations: Sequence[Sequence[str]], make: bool) -> None:
        newest = len(migrations) + 1
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SCHEMA_LOCK})
            if not inspect(connection).has_table(version_table.name):
                if not make:
                    raise ConfigError("the database has no archive; redline serve makes one")
                metadata.create_all(connection)
                search_index.create(connection)
                connection.execute(insert(version_table).values(version=newest))
                return
            version = connection.execute(select(version_table.c.version)).scalar_one()
            if version > newest:
                raise ConfigError(
                    f"the database has schema version {version}, and this Redline knows versions up to {newest}; take "
                    "the Redline that wrote it, or a later one"
                )
            for statements in migrations[version - 1 :]:
                for statement in statements:
                    connection.exec_driver_sql(statement)
            if version < newest:
                connection.execute(update(version_table).values(version=newest))


def _url_of(url: str | None, data_dir: Path) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(data_dir / SQLITE_FILE))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"the database's URL cannot be read: {error}; allowed is postgresql://...") from error
    if backend not in ("postgresql", "postgres"):
        raise ConfigError(f"the database's URL begins with {parsed.drivername}; allowed is postgresql://...")
    return parsed.set(drivername="postgresql+psycopg")


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    for pragma in (
        f"busy_timeout = {_BUSY_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit is on disk
        "foreign_keys = ON",
        "secure_delete = ON",  # deleted bytes become zeros
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns writer may fail; whoever writes says so at the beginning.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
