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


@dataclass
class RunningServer:
    """A server that answers."""

    app: FastAPI
    url: str
    recognizer: Recognizer

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30.0, **options)  # type: ignore[arg-type]


ServerFactory = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture
def serve(tmp_path: Path) -> ServerFactory:
    """Starts a server: `with serve(recognizer, max_active=2) as server`; options are those of `ServeOptions`."""

    @contextmanager
    def running(recognizer: Recognizer | None = None, **options: object) -> Iterator[RunningServer]:
        recognizer = recognizer or FakeRecognizer()
        settings = ServeOptions(**{"port": 0, "data_dir": tmp_path / "data", "drain_s": 5.0, **options})  # type: ignore[arg-type]
        app = create_app(Transcriber(recognizer, SessionOptions(vad=None)), settings)
        config = uvicorn_config(app, settings, host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield RunningServer(app, f"http://127.0.0.1:{port}", recognizer)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not stop"

    return running
