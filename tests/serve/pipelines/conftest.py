"""A server that stands for whatever a pipeline talks to: it answers what a test says, and remembers what came."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Received:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class OtherSide:
    """A server on this machine."""

    url: str
    answer: Callable[[Received], Answer] = lambda _: (200, {}, b"{}")
    received: list[Received] = field(default_factory=list)

    def chat(self, *texts: str, finish: str = "stop") -> None:
        """Answer chat completions: these texts in turn, then the last one again."""
        waiting = list(texts)

        def answer(_: Received) -> Answer:
            text = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
            return 200, {}, json.dumps({"choices": [choice]}).encode()

        self.answer = answer


@pytest.fixture
def other_side() -> Iterator[OtherSide]:
    side = OtherSide("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            side.received.append(Received(self.command, self.path, dict(self.headers), body))
            status, headers, content = side.answer(side.received[-1])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PATCH = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    side.url = f"http://127.0.0.1:{server.server_port}"
    yield side
    server.shutdown()
    server.server_close()
