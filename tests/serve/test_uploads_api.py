"""Resumable uploads: whatever is cut, torn or sent twice, the job gets the bytes that the client has."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from .conftest import RunningServer, ServerFactory
from .recordings import finished, until, wav

RECORDING = wav(1)
SHA256 = hashlib.sha256(RECORDING).hexdigest()


def begin(client: httpx.Client, **body: object) -> str:
    reply = client.post("/v1/uploads", json={"length": len(RECORDING), "sha256": SHA256, "name": "a.wav", **body})
    assert reply.status_code == 201 and reply.headers["Upload-Offset"] == "0", reply.text
    return str(reply.headers["Location"])


def send(client: httpx.Client, place: str, offset: int, data: bytes | Iterator[bytes], **head: str) -> httpx.Response:
    return client.patch(place, content=data, headers={"Upload-Offset": str(offset), **head})


def received(client: httpx.Client, place: str) -> int:
    return int(client.head(place).headers["Upload-Offset"])


def submit(client: httpx.Client, place: str, **head: str) -> httpx.Response:
    return client.post("/v1/jobs", json={"upload": place.rsplit("/", 1)[-1]}, headers=head)


def test_an_upload_in_pieces_is_the_recording(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        for piece in (1, 1000, len(RECORDING) // 3, len(RECORDING)):
            place = begin(client)
            for at in range(0, len(RECORDING), piece if piece > 1 else 16_000):
                reply = send(client, place, at, RECORDING[at : at + (piece if piece > 1 else 16_000)])
                assert reply.status_code == 204, reply.text
            job = submit(client, place, **{"Idempotency-Key": f"key {piece}"}).json()
            assert job["sha256"] == SHA256
            assert submit(client, place, **{"Idempotency-Key": f"key {piece}"}).json()["id"] == job["id"]
            assert client.get(place).status_code == 404, "it is a job now"
            assert finished(client, job["id"])["state"] == "done"


def cut(server: RunningServer, place: str, at: int, offset: int) -> None:
    """Send up to an offset, announce all of it, and hang up."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as link:
        rest = len(RECORDING) - offset
        head = f"PATCH {place} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {rest}\r\nUpload-Offset: {offset}\r\n"
        link.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        if b" 100 " in link.recv(4096):  # it reads now
            link.sendall(RECORDING[offset:at])


@pytest.mark.parametrize("pieces", [20, pytest.param(100, marks=pytest.mark.laws)])
def test_an_upload_that_is_cut_anywhere_goes_on_where_it_was(serve: ServerFactory, pieces: int) -> None:
    with serve() as server, server.client() as client:
        place, store = begin(client), server.app.state.server.store
        for number in range(1, pieces):
            before, to = received(client, place), len(RECORDING) * number // pieces

            def goes_on(before: int = before, to: int = to) -> bool:
                cut(server, place, to, before)  # again, where the connection before is just being ended
                return received(client, place) > before

            until(goes_on)

        def last() -> bool:
            at = received(client, place)
            return send(client, place, at, RECORDING[at:]).status_code == 204

        until(last)
        assert store.recordings.upload(place.rsplit("/", 1)[-1]).read_bytes() == RECORDING


def test_a_wrong_offset_changes_nothing(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        place = begin(client)
        send(client, place, 0, RECORDING[:1000])
        for offset in (0, 999, 1001):
            reply = send(client, place, offset, b"x" * 10)
            assert (reply.status_code, reply.json()["error"]["code"]) == (409, "wrong_offset")
        assert client.patch(place, content=b"x").status_code == 400
        assert submit(client, place).json()["error"]["code"] == "upload_incomplete"
        assert send(client, place, 1000, RECORDING[1000:] + b"x").status_code == 413
        assert send(client, place, received(client, place), RECORDING[received(client, place) :]).status_code == 204


def test_a_wrong_checksum_is_told_with_460(serve: ServerFactory) -> None:
    def checksum(data: bytes) -> str:
        return "sha256 " + base64.b64encode(hashlib.sha256(data).digest()).decode()

    with serve() as server, server.client() as client:
        place = begin(client)
        wrong = {"Upload-Checksum": checksum(b"other")}
        assert send(client, place, 0, RECORDING[:1000], **wrong).status_code == 460
        assert received(client, place) == 0, "a piece that is torn is not taken"
        right = {"Upload-Checksum": checksum(RECORDING[:1000])}
        assert send(client, place, 0, RECORDING[:1000], **right).status_code == 204
        assert send(client, place, 1000, b"x", **{"Upload-Checksum": "crc32 AAAA"}).status_code == 400
        assert send(client, place, 1000, bytes(len(RECORDING) - 1000)).status_code == 460
        assert client.head(place).status_code == 404, "the whole is not what was announced"


def test_an_expired_upload_is_gone(serve: ServerFactory) -> None:
    with serve(upload_keep_s=100.0) as server, server.client() as client:
        place, store = begin(client), server.app.state.server.store
        now = store.uploads.now
        store.uploads.now = lambda: now() + 101
        assert send(client, place, 0, b"x").status_code == 410 and client.get(place).status_code == 410
        assert submit(client, place).status_code == 410
        store.uploads.now = lambda: now() + 100_000
        store.tidy()
        assert client.get(place).status_code == 404
        assert not list((store.data_dir / "uploads").iterdir())


def test_two_writers_do_not_mix(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client, server.client() as other:
        place, goes_on = begin(client), threading.Event()
        sends = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield RECORDING[:1000]
            sends.set()
            assert goes_on.wait(10)
            yield RECORDING[1000:]

        replies: list[int] = []
        thread = threading.Thread(target=lambda: replies.append(send(client, place, 0, slowly()).status_code))
        thread.start()
        assert sends.wait(10)
        until(lambda: send(other, place, 0, b"x" * 500).status_code == 423)
        goes_on.set()
        thread.join(10)
        assert replies == [204] and finished(client, submit(client, place).json()["id"])["state"] == "done"


@pytest.mark.parametrize("body", [{"length": 0}, {"length": -1}, {"sha256": "x"}, {"length": 9, "more": 1}])
def test_what_can_be_no_upload_is_refused(serve: ServerFactory, body: dict[str, object]) -> None:
    with serve() as server, server.client() as client:
        assert client.post("/v1/uploads", json={"length": 9, **body}).status_code == 422
        assert client.post("/v1/uploads", json={"length": (2 << 30) + 1}).status_code == 413
