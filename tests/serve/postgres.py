"""A Postgres server of its own for tests: Debian's binaries, a free port, a temporary folder, an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

_numbers = count()


def binaries() -> Path | None:
    """The folder of Postgres' programs, the newest; None where it is not installed."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: float(each.parent.name))
    return folders[-1] if folders else None


class PostgresServer:
    """A running server; `new_database` gives the URL of an empty database."""

    def __init__(self, port: int) -> None:
        self._url = f"postgresql://redline@127.0.0.1:{port}"

    def new_database(self) -> str:
        name = f"test_{next(_numbers)}"
        with psycopg.connect(f"{self._url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"{self._url}/{name}"


@contextmanager
def running_postgres(programs: Path) -> Iterator[PostgresServer]:
    """Start a server, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="redline-postgres-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data, log = folder / "data", folder / "log"
    try:
        make = [programs / "initdb", "-D", data, "-U", "redline", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **user)
        run = [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
        with log.open("wb") as output:
            process = subprocess.Popen(run, stdout=output, stderr=output, cwd=folder, **user)
        try:
            _wait(port, process, log)
            yield PostgresServer(port)
        finally:
            process.send_signal(signal.SIGINT)  # waits for nobody's connections
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"postgresql://redline@127.0.0.1:{port}/postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.05)
