"""A real server on a free port of this machine, with a fake recognizer or a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from redline import Transcriber
from redline.longform.session import SessionOptions
from redline.serve.app import create_app
from redline.serve.http_protocol import uvicorn_config
from redline.serve.options import ServeOptions
from redline.testing import FakeRecognizer
from redline.types import Recognizer

from .postgres import PostgresServer, binaries, running_postgres


@dataclass
class RunningServer:
    """A server that answers."""

    app: FastAPI
    url: str
    recognizer: Recognizer
    stop: Callable[[], None]
    """Has it stop, as SIGTERM does; returns at once."""

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30.0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server of the tests' own."""
    if (programs := binaries()) is None:
        pytest.skip("Postgres is not installed (apt-get install postgresql)")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.battery)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Each database that a server can have: None is SQLite."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


ServerFactory = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture
def serve(tmp_path: Path) -> ServerFactory:
    """Starts a server: `with serve(recognizer, max_active=2) as server`; options are those of `ServeOptions`.

    A `Transcriber` in place of the recognizer is served as it is.
    """

    @contextmanager
    def running(served: Recognizer | Transcriber | None = None, **options: object) -> Iterator[RunningServer]:
        served = served or FakeRecognizer()
        model = served if isinstance(served, Transcriber) else Transcriber(served, SessionOptions(vad=None))
        settings = ServeOptions(**{"port": 0, "data_dir": tmp_path / "data", "drain_s": 5.0, **options})  # type: ignore[arg-type]
        app = create_app(model, settings)
        config = uvicorn_config(app, settings, host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def stop() -> None:
            server.should_exit = True

        try:
            yield RunningServer(app, f"http://127.0.0.1:{port}", model.recognizer, stop)
        finally:
            stop()
            thread.join(20)
            assert not thread.is_alive(), "the server does not stop"

    return running
