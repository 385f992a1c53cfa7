"""The schema grows by migrations, and a database that cannot be used is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from redline.errors import ConfigError
from redline.serve.store.database import Database
from redline.serve.store.tables import metadata

GROWTH = (
    ("ALTER TABLE jobs ADD COLUMN mood TEXT",),
    ("UPDATE jobs SET mood = 'good'", "CREATE TABLE moods (name TEXT)"),
)


def test_an_older_database_is_migrated_once_and_a_newer_one_is_refused(
    database_url: str | None, tmp_path: Path
) -> None:
    Database(database_url, tmp_path).close()
    for _ in range(2):  # the second time there is nothing to do
        grown = Database(database_url, tmp_path, GROWTH)
        with grown.read() as connection:
            assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == 3
            assert {"moods", *metadata.tables} <= set(inspect(connection).get_table_names())
        grown.close()
    with pytest.raises(ConfigError, match="schema version 3"):
        Database(database_url, tmp_path)


def test_a_migration_that_fails_changes_nothing(database_url: str | None, tmp_path: Path) -> None:
    Database(database_url, tmp_path).close()
    with pytest.raises(ConfigError):
        Database(database_url, tmp_path, ((*GROWTH[0], "NO SQL"),))
    database = Database(database_url, tmp_path)
    with database.read() as connection:
        assert "mood" not in {column["name"] for column in inspect(connection).get_columns("jobs")}
    database.close()


def test_a_transaction_that_raises_leaves_nothing(database_url: str | None, tmp_path: Path) -> None:
    database = Database(database_url, tmp_path)
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(text("UPDATE schema_version SET version = 9"))
        raise ZeroDivisionError
    with database.read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar_one() == 1
    database.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://a/b", "allowed is postgresql"),
        ("no url", "allowed is postgresql"),
        ("postgresql://ana:hidden@127.0.0.1:1/x", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Database(url, tmp_path)
    assert "hidden" not in str(caught.value)


def test_what_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no archive"):
        Database(None, tmp_path / "data", make=False)
    assert not list(tmp_path.iterdir())
