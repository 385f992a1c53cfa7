"""Hostile clients: slow ones, ones that leave, ones that send too much of everything. Nobody else notices."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from redline.audio.isolation import end_idle
from redline.errors import RedlineError
from redline.serve.http_protocol import BoundedHeads
from redline.testing import FakeRecognizer
from redline.types import Hypothesis, Request

from .conftest import RunningServer, ServerFactory
from .recordings import ROUTE, finished, until, wav
from .watched import MB, memory_bytes, open_files

pytestmark = pytest.mark.battery


def connected(server: RunningServer) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def form(body: bytes, boundary: str = "b") -> bytes:
    """A multipart body with one recording."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + body + f"\r\n--{boundary}--\r\n".encode()


def post(body: bytes, *headers: str, route: str = ROUTE, length: int | None = None) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {route} HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=b", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %s HTTP/1.1" % path, b"Host: localhost", *headers, b"", b""])


def head(route: str, rest: bytes) -> bytes:
    """The beginning of a request that does not end."""
    return f"GET {route} HTTP/1.1\r\nHost: localhost\r\nX: ".encode() + rest


def status(connection: socket.socket) -> int | None:
    """The status of the reply; None where the connection was closed without one."""
    reply = b""
    try:
        while b"\r\n" not in reply and (piece := connection.recv(4096)):
            reply += piece
    except ConnectionResetError:
        return None
    return int(reply.split()[1]) if reply else None


@pytest.fixture
def quick_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHeads, "head_s", 0.4)


@pytest.mark.usefixtures("quick_heads")
def test_slow_clients_are_closed_and_others_served_meanwhile(serve: ServerFactory) -> None:
    def drip(connection: socket.socket, sent: bytes) -> float:
        began = time.monotonic()
        try:
            for at in range(len(sent)):
                connection.sendall(sent[at : at + 1])
                time.sleep(0.1)
                if time.monotonic() - began > 15:
                    break
        except OSError:
            pass
        return time.monotonic() - began

    whole = post(form(wav(1)))
    routes = ("/health", "/nowhere", ROUTE)
    with serve(idle_s=0.4) as server, server.client() as client, ThreadPoolExecutor(48) as pool:
        heads = [pool.submit(drip, connected(server), head(route, b"y" * 200))
                 for route in routes for _ in range(5)]  # fmt: skip
        silent = [connected(server) for _ in range(5)]
        bodies = [connected(server) for _ in range(15)]
        for connection in bodies:
            connection.sendall(whole[:-20_000])
        for _ in range(10):
            assert client.post(ROUTE, files={"file": wav(1)}).json()["text"] == "1.00 seconds"
        assert all(each.result(20) < 5 for each in heads)
        assert [status(connection) for connection in bodies] == [408] * 15
        assert [status(connection) for connection in silent] == [None] * 5
        for connection in (*silent, *bodies):
            connection.close()


class Unhurried(FakeRecognizer):
    """Takes 20 ms for each window, so that many long recordings are in work for a while, and each batch is short."""

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        time.sleep(0.02 * len(requests))
        return super().recognize(requests)


LONG = wav(100)


def drop_in_an_upload(server: RunningServer, rng: random.Random) -> Callable[[], None]:
    connection = connected(server)
    whole = post(form(wav(1)))
    connection.sendall(whole[: rng.choice([20, 100, rng.randrange(len(whole))])])
    return connection.close


def drop_in_work(server: RunningServer, rng: random.Random) -> Callable[[], None]:
    """Or while it waits for its turn."""
    connection = connected(server)
    connection.sendall(post(form(LONG)))
    return connection.close


def drop_in_events(server: RunningServer, rng: random.Random) -> Callable[[], None]:
    connection = connected(server)
    field = b'--b\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
    connection.sendall(post(field + form(LONG)))
    if rng.random() < 0.3:
        connection.recv(100)
    return connection.close


def drop_while_speaking(server: RunningServer, rng: random.Random) -> Callable[[], None]:
    path = rng.choice(["/v1/live", "/v1/listen", "/v1/realtime"])
    stream = connect(server.url.replace("http", "ws") + path, legacy=True)
    if rng.random() < 0.7:
        with suppress(ConnectionClosed):
            stream.send(b"\0\1" * 20_000)

    def drop() -> None:
        with suppress(OSError):  # there were too many streams, and it was refused
            stream.socket.shutdown(socket.SHUT_RDWR)

    return drop


@pytest.mark.parametrize(("clients", "most_s"), [(30, 30.0), pytest.param(300, 2.0, marks=pytest.mark.laws)])
def test_clients_that_drop_anywhere_leave_nothing_behind(serve: ServerFactory, clients: int, most_s: float) -> None:
    """In the head, in the body, waiting, in work, between events: work stops within two seconds; jobs go on."""
    rng = random.Random(clients)
    kinds = (drop_in_an_upload, drop_in_work, drop_in_events, drop_while_speaking)
    recognizer = Unhurried(max_clip_s=5.0)
    with serve(recognizer, max_active=8, max_waiting=400, job_slots=1) as server, server.client() as client:
        service = server.app.state.server.service
        assert client.post(ROUTE, files={"file": wav(2)}).json()["text"] == "2.00 seconds"
        end_idle()  # of decoding processes, each a socket, there may be more afterwards than the one so far
        before = open_files(os.getpid())
        jobs = [client.post("/v1/jobs", files={"file": wav(3)}).json()["id"] for _ in range(5)]
        drops = [rng.choice(kinds)(server, rng) for _ in range(clients)]
        until(lambda: service.active > 0)
        rng.shuffle(drops)
        for drop in drops:
            drop()
            if rng.random() < 0.1:
                time.sleep(0.01)
        began = time.monotonic()
        until(lambda: service.active == service.waiting == service.streams == 0)
        print(f"nobody is served {time.monotonic() - began:.2f} s after the last one left")
        assert time.monotonic() - began < most_s
        assert all(finished(client, id)["state"] == "done" for id in jobs)
        end_idle()
        until(lambda: open_files(os.getpid()) <= before + 2)  # temporary files have no names, and are open
        assert client.post(ROUTE, files={"file": wav(2)}).json()["text"] == "2.00 seconds"


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


GOOD = form(wav(1))
FIELD = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        pytest.param(post(GOOD), {200}, id="as it should be"),
        pytest.param(post(chunked(GOOD), "Transfer-Encoding: chunked"), {200}, id="chunked, no length"),
        pytest.param(post(GOOD, "Expect: 100-continue"), {100, 200}, id="expects to go on"),
        pytest.param(post(GOOD, length=100_000), {413}, id="one byte over, by its length"),
        pytest.param(post(form(wav(3))), {413}, id="over"),
        pytest.param(post(chunked(form(wav(3))), "Transfer-Encoding: chunked"), {413}, id="over, chunked"),
        pytest.param(post(GOOD, "Content-Length: -1"), {400}, id="negative length"),
        pytest.param(post(GOOD, "Content-Length: many"), {400}, id="length in words"),
        pytest.param(post(GOOD, "Content-Length: 10", "Content-Length: 20"), {400}, id="two lengths"),
        pytest.param(post(GOOD, f"Content-Length: {'9' * 30}"), {400, 413}, id="length beyond reason"),
        pytest.param(post(GOOD, "Content-Length: 10"), {400}, id="length too short"),
        pytest.param(post(GOOD, "Content-Length: 0"), {400}, id="no length"),
        pytest.param(post(GOOD, "Content-Length: 0x10"), {400}, id="length in hex"),
        pytest.param(post(GOOD, "Content-Length: +10"), {400}, id="length with a sign"),
        pytest.param(post(GOOD, "Content-Length: "), {400}, id="an empty length"),
        pytest.param(post(chunked(GOOD), "Content-Length: 5", "Transfer-Encoding: chunked"), {200, 400},
                     id="both a length and chunks"),
        pytest.param(post(GOOD, "Transfer-Encoding: gzip"), {400, 501}, id="a transfer that is gzip"),
        pytest.param(post(GOOD, "Transfer-Encoding: xchunked"), {400, 501}, id="a transfer that is none"),
        pytest.param(post(b"zz\r\n" + GOOD, "Transfer-Encoding: chunked"), {400}, id="a chunk that is not hex"),
        pytest.param(post(b"%x\r\n" % 2**80 + GOOD, "Transfer-Encoding: chunked"), {400}, id="a chunk beyond reason"),
        pytest.param(post(b"4;" + b"x" * 70_000, "Transfer-Encoding: chunked"), {400}, id="a chunk that says much"),
        pytest.param(post(GOOD, "Expect: the-moon"), {100, 200, 417}, id="expects what is none"),
        pytest.param(post(GOOD, *(f"X-{n}: y" for n in range(1000))), {431}, id="a thousand headers"),
        pytest.param(post(GOOD, "X: a\x00b"), {400}, id="NUL in a header"),
        pytest.param(post(GOOD, " folded: header"), {200, 400}, id="a folded header"),
        pytest.param(post(GOOD).replace(b"Host: localhost\r\n", b""), {200, 400}, id="no host"),
        pytest.param(post(GOOD, "Host: other.example"), {400, 403}, id="two hosts"),
        pytest.param(get(b"http://other.example/health"), {200, 400, 403, 404}, id="a URL as the path"),
        pytest.param(get(b"*").replace(b"GET", b"OPTIONS"), {400, 404, 405}, id="OPTIONS *"),
        pytest.param(get(b"other.example:443").replace(b"GET", b"CONNECT"), {400, 404, 405}, id="a proxy is asked for"),
        pytest.param(get(b"/../../etc/passwd"), {400, 404}, id="a path that goes up"),
        pytest.param(get(b"/page/%2e%2e%2f%2e%2e%2fapp.py"), {400, 404}, id="a path that goes up, encoded"),
        pytest.param(get(b"/health").replace(b"\r\n", b"\n"), {200, 400}, id="lines that end otherwise"),
        pytest.param(b"GET /health\r\n\r\n", {400}, id="no version"),
        pytest.param(post(GOOD, "Content-Encoding: gzip"), {415}, id="gzip"),
        pytest.param(post(FIELD % b"1" * 1001 + GOOD), {400, 413}, id="a thousand and one fields"),
        pytest.param(post(FIELD % (b"x" * 50_000) + GOOD), {200, 400, 413}, id="a long field"),
        pytest.param(post(GOOD, *(f"X-{n}: y" for n in range(200))), {431}, id="two hundred headers"),
        pytest.param(post(GOOD, "X-Long: " + "y" * 100_000), {400, 431}, id="a header of 100 kB"),
        pytest.param(post(b"", "Content-Type: text/plain"), {400, 415}, id="no form"),
        pytest.param(post(b"--b"), {400}, id="a form that breaks off"),
        pytest.param(post(GOOD.replace(b'name="file"', b'name="file\x00"')), {400}, id="NUL in a name"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", {200, 400, 505}, id="a version that is none"),
        pytest.param(b"\x16\x03\x01\x02\x00" * 50, {400, None}, id="TLS"),
        pytest.param(get(b"/a" * 40_000), {400, 404, 414, 431, None}, id="a long path"),
        pytest.param(get(ROUTE.encode()).replace(b"GET", b"POST").replace(b"1.1", b"1.0"), {400, 415}, id="HTTP/1.0"),
        pytest.param(b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 405}, id="a method that is none"),
        pytest.param(get(b"/health", b"Range: bytes=" + b"0-1," * 10_000), {200, 400, 431}, id="ranges"),
    ],
)  # fmt: skip
def test_odd_requests_get_a_typed_answer_and_harm_nobody(
    odd_server: RunningServer, request_bytes: bytes, expected: set[int | None]
) -> None:
    with connected(odd_server) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):  # the answer is there before all was sent
            connection.sendall(request_bytes)
        assert status(connection) in expected
    with odd_server.client() as client:
        assert client.get("/health").status_code == 200


@pytest.fixture
def odd_server(serve: ServerFactory) -> Iterator[RunningServer]:
    with serve(max_upload_bytes=60_000) as server:
        yield server


@pytest.mark.parametrize("route", [ROUTE, "/v1/jobs"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(FIELD % b"1" * 10_001 + GOOD, id="10,001 fields"),
        pytest.param(FIELD % (b"x" * 1_000_000) * 100 + GOOD, id="a hundred fields of 1 MB"),
        pytest.param(FIELD % (b"x" * 100_000_000) + GOOD, id="a field of 100 MB"),
        pytest.param(GOOD.replace(b'name="file"', b'name="%s"' % (b"x" * 100_000_000)), id="a name of 100 MB"),
        pytest.param(GOOD.removesuffix(b"--b--\r\n") * 10, id="ten files"),
    ],
)
def test_forms_beyond_all_bounds_are_refused_before_they_are_held(
    serve: ServerFactory, body: bytes, route: str
) -> None:
    with serve() as server, server.client() as client:
        client.get("/health")
        request = post(body, route=route)
        base = memory_bytes(os.getpid())
        with connected(server) as connection:
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(request)
            assert status(connection) == 400
        assert memory_bytes(os.getpid()) < base + 64 * MB
        assert client.get("/health").status_code == 200


def test_requests_behind_each_other_are_all_answered(serve: ServerFactory) -> None:
    with serve() as server, connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        reply = b""
        while reply.count(b'"ok"') < 5:
            piece = connection.recv(4096)
            assert piece, "the connection was closed"
            reply += piece
