"""Admission, disconnects, time limits: a client that misbehaves or leaves costs nobody else anything."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from redline import Transcriber
from redline.errors import ConfigError
from redline.longform.session import SessionOptions
from redline.serve.options import ServeOptions
from redline.serve.service import RecognitionService
from redline.testing import tone

from .conftest import ServerFactory
from .recordings import ROUTE, Held, until, wav


def test_many_clients_at_once_get_each_their_own_text(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client, ThreadPoolExecutor(8) as pool:
        lengths = [1 + number / 4 for number in range(16)]
        replies = pool.map(lambda seconds: client.post(ROUTE, files={"file": wav(seconds)}), lengths)
        assert [reply.json()["text"] for reply in replies] == [f"{seconds:.2f} seconds" for seconds in lengths]


def test_a_full_server_refuses_with_retry_after_and_then_serves_who_waited(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer, max_active=1, max_waiting=1) as server, server.client() as client:
        service = server.app.state.server.service
        with ThreadPoolExecutor(2) as pool:
            taken = [pool.submit(client.post, ROUTE, files={"file": wav(1)}) for _ in range(2)]
            until(lambda: service.waiting == 1)
            refused = client.post(ROUTE, files={"file": wav(1)})
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["code"] == "server_full"
            recognizer.go_on.set()
            assert [each.result().status_code for each in taken] == [200, 200]


@pytest.mark.parametrize("steps_between", range(6))
def test_nobody_is_refused_while_there_is_room_however_close_the_arrivals(steps_between: int) -> None:
    recognizer = Held()

    async def both_texts() -> list[str]:
        few = ServeOptions(max_active=1, max_waiting=1, drain_s=0.1)
        service = RecognitionService(Transcriber(recognizer, SessionOptions(vad=None)), few)
        arrivals = []
        for _ in range(2):
            arrivals.append(asyncio.ensure_future(service.transcribe(tone(1), gone=asyncio.Event().wait)))
            for _ in range(steps_between):
                await asyncio.sleep(0)
        recognizer.go_on.set()
        texts = [(await each).text for each in arrivals]
        await service.close()
        return texts

    assert asyncio.run(both_texts()) == ["1.00 seconds"] * 2


def test_a_client_that_leaves_frees_its_place_within_two_seconds(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server, server.client() as client:
        service = server.app.state.server.service
        with pytest.raises(httpx.ReadTimeout):
            client.post(ROUTE, files={"file": wav(1)}, timeout=httpx.Timeout(10.0, read=0.3))
        recognizer.go_on.set()
        until(lambda: service.active == 0, 2.0)
        assert client.post(ROUTE, files={"file": wav(2)}).json()["text"] == "2.00 seconds"


def test_a_client_that_leaves_while_it_waits_stands_in_nobodys_way(serve: ServerFactory) -> None:
    recognizer = Held()
    with (
        serve(recognizer, max_active=1, max_waiting=1) as server,
        server.client() as client,
        ThreadPoolExecutor() as pool,
    ):
        service = server.app.state.server.service
        first = pool.submit(client.post, ROUTE, files={"file": wav(1)})
        until(lambda: service.active == 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post(ROUTE, files={"file": wav(1)}, timeout=httpx.Timeout(10.0, read=0.3))
        until(lambda: service.waiting == 0, 10.0)
        assert service.active == 1, "the place that it waited for is still taken"
        second = pool.submit(client.post, ROUTE, files={"file": wav(2)})
        until(lambda: service.waiting == 1)
        recognizer.go_on.set()
        assert [each.result().status_code for each in (first, second)] == [200, 200]
        until(lambda: service.active == 0)
        assert service._turns._value == 1, "no turn is lost, and none is there twice"


def test_time_that_is_over_is_told(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer, base_timeout_s=0.2, timeout_factor=0.0) as server, server.client() as client:
        threading.Timer(0.6, recognizer.go_on.set).start()
        reply = client.post(ROUTE, files={"file": wav(1)})
        assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"file": b"no sound"}, 400, "audio_unreadable"), ({"other": b"x"}, 400, "missing")],
)
def test_bad_input_is_told_and_harms_only_itself(
    serve: ServerFactory, body: dict[str, bytes], status: int, code: str
) -> None:
    with serve() as server, server.client() as client:
        reply = client.post(ROUTE, files=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert client.post(ROUTE, files={"file": wav(1)}).status_code == 200


def test_what_is_too_large_or_too_slow_is_refused(serve: ServerFactory) -> None:
    with serve(max_upload_bytes=10_000, idle_s=0.3) as server, server.client() as client:
        assert client.post(ROUTE, files={"file": wav(1)}).status_code == 413
        head = {"Content-Type": "multipart/form-data; boundary=b"}
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        chunks = (part if number == 0 else b"x" * 1000 for number in range(20))  # no Content-Length tells
        assert client.post(ROUTE, content=chunks, headers=head).status_code == 413

        def slow():  # type: ignore[no-untyped-def]
            yield b"--b\r\n"
            time.sleep(1.0)
            yield b"rest"

        assert client.post(ROUTE, content=slow(), headers=head).status_code == 408


def test_other_machines_need_keys() -> None:
    with pytest.raises(ConfigError, match="API keys"):
        ServeOptions(host="0.0.0.0")


@pytest.mark.parametrize("why", ["too large", "too many"])
def test_who_is_refused_while_sending_reads_why(serve: ServerFactory, why: str) -> None:
    size = 8 << 20
    few = {"max_active": 1, "max_waiting": 0, "max_streams": 1}
    with serve(max_upload_bytes=size - (why == "too large"), **few) as server, ExitStack() as connections:
        address = urlsplit(server.url)
        form = "Content-Type: multipart/form-data; boundary=x"
        head = f"POST {ROUTE} HTTP/1.1\r\nHost: {address.netloc}\r\n{form}\r\nContent-Length: {size}\r\n\r\n".encode()

        def connect() -> socket.socket:
            return connections.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))

        if why == "too many":
            most = server.app.state.server.options.max_requests
            others = [connect() for _ in range(most)]
            for other in others:
                other.sendall(head)
            until(lambda: server.client().get(ROUTE).status_code == 503)
        connection = connect()
        connection.sendall(head)
        for _ in range(size >> 16):  # most clients send everything before they read anything
            connection.sendall(bytes(1 << 16))
        status = 413 if why == "too large" else 503
        assert connection.recv(1 << 16).startswith(f"HTTP/1.1 {status} ".encode())
