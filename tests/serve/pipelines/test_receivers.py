"""Sixty receivers of webhooks that do wrong: each is asked again with the same event, none holds up the others."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from redline.serve.pipelines.webhooks import RETRY_S, WebhookQueue, is_signed
from redline.serve.store.database import Database

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
LARGE = b"Content-Length: 10000000\r\n\r\n" + b"x" * 10_000_000
REFUSING = (400, 401, 402, 403, 404, 405, 406, 408, 409, 411, 413, 415, 418, 421, 422, 423, 425, 429, 431, 451)
FAILING = (500, 501, 502, 503, 504, 507, 508, 511, 520, 599)
PLACES = ("169.254.169.254/latest", "127.0.0.1/", "[::1]/", "10.0.0.1/", "metadata.google.internal/")
WRONG: dict[str, bytes | str] = {
    **{f"status {status}": b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status for status in (*REFUSING, *FAILING)},
    **{
        f"{status} to {place}": b"HTTP/1.1 %d Away\r\nLocation: http://%s\r\n\r\n" % (status, place.encode())
        for status, place in zip((301, 302, 303, 307, 308) * 2, PLACES * 2, strict=True)
    },
    **{f"{status} with 10 MB": b"HTTP/1.1 %d No\r\n" % status + LARGE for status in (401, 404, 500, 503)},
    "503 with Retry-After": b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "a body that breaks off": b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nx",
    "chunks that break off": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nx",
    "a head that breaks off": b"HTTP/1.1 500 No\r\nContent-Le",
    "a line that breaks off": b"HTTP/1.1",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(1000),
    "a status that is none": b"HTTP/1.1 abc No\r\n\r\n",
    "a version that is none": b"HTTP/9.9 500 No\r\n\r\n",
    "two lengths": b"HTTP/1.1 500 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a head of a megabyte": b"HTTP/1.1 500 No\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "a head without an end": b"HTTP/1.1 500 No\r\nX: " + b"x" * 1_000_000,
    "nothing": b"",
    "a status line alone": b"HTTP/1.1 500\r\n",
    "a negative length": b"HTTP/1.1 500 No\r\nContent-Length: -1\r\n\r\n",
    "a chunk that is none": b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "only that it goes on": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "a reset at once": "reset",
    "a reset behind the request": "late reset",
    "silence": "silence",
    "a byte now and then": "a byte now and then",
}


class Receivers:
    """A server whose answer is in the number that is the path; after `heal` it takes everything."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers = list(WRONG.values())
        self.seen: dict[int, list[tuple[dict[str, str], bytes]]] = {}
        self.is_well = False
        self._held: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += (piece := connection.recv(65536))
            if not piece:
                return
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        number = int(first.split()[1].strip("/"))
        answer: bytes | str = OK if self.is_well else self.answers[number]
        if answer != "reset":
            while len(body) < int(headers["content-length"]):
                body += (piece := connection.recv(65536))
                if not piece:
                    return
            self.seen.setdefault(number, []).append((headers, body))
        if answer == "silence":
            self._held.append(connection)
            return
        if answer == "a byte now and then":
            with suppress(OSError):
                for byte in b"HTTP/1.1 500 No\r\nX: " + b"x" * 1_000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.1)
        if isinstance(answer, str):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with suppress(OSError):  # it had heard enough
                connection.sendall(answer)
        connection.close()

    def close(self) -> None:
        for connection in (*self._held, self.listener):
            connection.close()


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    other = Receivers()
    yield other
    other.close()


def test_sixty_receivers_that_do_wrong_are_asked_again_with_the_same_event(
    receivers: Receivers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "old,new")
    now = 1_000_000.0
    queue = WebhookQueue(Database(None, tmp_path), now=lambda: now, timeout_s=0.5)
    assert len(WRONG) == 60
    events = [
        queue.add(f"{receivers.url}/{number}", f'{{"n": {number}}}', "HOOK", ["127.0.0.1"])
        for number in range(len(WRONG))
    ]
    for attempt in (1, 2):
        assert queue.deliver_due() == 0
        waiting = {each.event_id: each for each in queue.deliveries("waiting")}
        assert list(waiting) == events, "none is given up, none has arrived"
        assert all(each.attempts == attempt and each.seen for each in waiting.values())
        assert queue.next_due_at() == now + RETRY_S[attempt - 1]
        now += RETRY_S[attempt - 1]
    receivers.is_well, queue.timeout_s = True, 20.0
    assert queue.deliver_due() == len(WRONG) and not queue.deliveries("waiting")
    for number, event in enumerate(events):
        requests = receivers.seen[number]
        assert {headers["redline-event-id"] for headers, _ in requests} == {event}
        signed, body = requests[-1][0]["redline-signature"], requests[-1][1]
        assert is_signed(body, signed, "old", now) and is_signed(body, signed, "new", now)
