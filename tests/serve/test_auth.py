"""Keys: who may do what, how often, and how much at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from redline.serve.auth import new_key

from .conftest import ServerFactory
from .recordings import ROUTE, Held, until, wav


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_has_no_more_requests_at_once_than_it_may(serve: ServerFactory, keys: Path) -> None:
    few, many = new_key(keys, "few"), new_key(keys, "many")
    keys.write_text(keys.read_text().replace('name = "few"', 'name = "few"\nconcurrent = 1'))
    recognizer = Held()
    with serve(recognizer, keys_file=keys) as server, server.client() as client, ThreadPoolExecutor(2) as pool:

        def post(key: str) -> int:
            return client.post(ROUTE, files={"file": wav(1)}, headers={"Authorization": f"Bearer {key}"}).status_code

        first = pool.submit(post, few)
        until(lambda: server.app.state.server.service.active == 1)
        refused = client.post(ROUTE, files={"file": wav(1)}, headers={"Authorization": f"Bearer {few}"})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_at_once"
        assert int(refused.headers["Retry-After"]) >= 1
        socket = f"{server.url.replace('http', 'ws')}/v1/listen?encoding=linear16&sample_rate=16000"
        with pytest.raises(InvalidStatus, match="429"):
            connect(socket, additional_headers={"Authorization": f"Token {few}"})
        other = pool.submit(post, many)
        recognizer.go_on.set()
        assert (first.result(), other.result(), post(few)) == (200, 200, 200)


def test_a_key_has_no_more_requests_a_minute_than_it_may(serve: ServerFactory, keys: Path) -> None:
    key = new_key(keys, "few")
    keys.write_text(keys.read_text() + "per_minute = 2\n")
    with serve(keys_file=keys) as server, server.client(headers={"Authorization": f"Bearer {key}"}) as client:
        clock = server.app.state.server.keys
        clock.now = lambda: 100.0
        replies = [client.post(ROUTE, files={"file": wav(1)}) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429] and replies[2].headers["Retry-After"] == "60"
        clock.now = lambda: 161.0
        assert client.post(ROUTE, files={"file": wav(1)}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/listen", "/v1/admin/model", "/mcp"])
def test_every_door_asks_for_the_key(serve: ServerFactory, keys: Path, path: str) -> None:
    new_key(keys, "a")
    with serve(keys_file=keys) as server, server.client() as client:
        for header in ({}, {"Authorization": "Bearer rl-wrong"}, {"Authorization": "Basic x"}):
            reply = client.post(path, headers=header, content=b"{}")
            assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_among_the_subprotocols_opens_a_stream(serve: ServerFactory, keys: Path) -> None:
    key = new_key(keys, "page")
    with serve(keys_file=keys) as server:
        socket = f"{server.url.replace('http', 'ws')}/v1/listen?encoding=linear16&sample_rate=16000"
        with connect(socket, subprotocols=["token", key]) as opened:  # type: ignore[list-item]
            assert opened.subprotocol == "token"
