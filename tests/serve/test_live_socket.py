"""`/v1/live`: what is said comes back as events; clients that leave, sleep or misbehave cost nobody anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from redline.engine.live import LiveStream
from redline.serve import live_socket
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer, tone

from .conftest import RunningServer, ServerFactory
from .recordings import Held, until

START = {"kind": "start", "vad": False}
END = json.dumps({"kind": "end"})


@cache
def pcm(seconds: float, rate: int = 16_000) -> bytes:
    samples = tone(seconds * rate / 16_000).samples
    return (samples * 32767).astype("<i2").tobytes()


@contextmanager
def live(server: RunningServer, start: dict[str, Any] | None = START, **options: Any) -> Iterator[ClientConnection]:
    with connect(server.url.replace("http", "ws") + "/v1/live", **options) as socket:
        if start is not None:
            say(socket, json.dumps(start))
        yield socket


def say(socket: ClientConnection, message: str | bytes) -> None:
    """Send, unless the server has closed already."""
    with suppress(ConnectionClosed):
        socket.send(message)


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """What comes until the server closes."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(timeout=20)))
    except ConnectionClosed:
        return messages


def streams(server: RunningServer) -> int:
    return int(server.app.state.server.service.streams)


def test_committed_texts_are_those_of_the_transcript(serve: ServerFactory) -> None:
    with serve() as server, live(server) as socket:
        for _ in range(20):
            socket.send(pcm(1.0))
        socket.send(END)
        *events, last = rest(socket)
        assert last["kind"] == "transcript"
        transcript = last["transcript"]
        assert transcript["duration"] == 20.0 and len(transcript["segments"]) > 1
        committed = [event["text"] for event in events if event["kind"] == "committed"]
        assert committed == [segment["text"] for segment in transcript["segments"]]
        until(lambda: streams(server) == 0)


def test_sound_of_another_rate_has_its_own_duration(serve: ServerFactory) -> None:
    with serve() as server, live(server, START | {"sample_rate": 48_000}) as socket:
        socket.send(pcm(2.0, 48_000))
        socket.send(END)
        assert rest(socket)[-1]["transcript"]["duration"] == pytest.approx(2.0, abs=0.01)


def test_without_a_start_the_sound_is_16_khz(serve: ServerFactory) -> None:
    with serve() as server, live(server, start=None) as socket:
        socket.send(pcm(2.0))
        socket.send(END)
        assert rest(socket)[-1]["transcript"]["duration"] == 2.0


def test_without_partials_no_text_is_taken_back(serve: ServerFactory) -> None:
    with serve() as server, live(server, START | {"partials": False}) as socket:
        socket.send(pcm(12.0))
        socket.send(END)
        assert {event["kind"] for event in rest(socket)} == {"committed", "transcript"}


def test_who_leaves_frees_the_stream(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server:
        with live(server) as socket:
            socket.send(pcm(10.0))
            until(recognizer.begun.is_set)
            assert streams(server) == 1
        until(lambda: streams(server) == 0, 2.0)
        recognizer.go_on.set()


def test_who_does_not_read_is_cut_off(serve: ServerFactory) -> None:
    recognizer = FakeRecognizer(lambda clip: "word " * 400_000)
    with serve(recognizer, idle_s=0.5) as server, live(server, max_queue=1) as socket:

        def send() -> None:
            try:
                for _ in range(100):
                    socket.send(pcm(8.0))
            except ConnectionClosed:
                pass

        sender = threading.Thread(target=send)
        sender.start()
        until(lambda: streams(server) == 1)
        until(lambda: streams(server) == 0)
        rest(socket)
        sender.join(20)
        assert not sender.is_alive()


def test_who_sends_nothing_is_told_and_cut_off(serve: ServerFactory) -> None:
    with serve(idle_s=0.3) as server, live(server) as socket:
        (error,) = rest(socket)
        assert error["error"]["code"] == "slow_client" and socket.close_code == 1008


def test_who_is_ahead_waits(serve: ServerFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    push = LiveStream.push

    def noted(stream: LiveStream, sound: Any) -> None:
        waiting.append(stream.waiting)
        push(stream, sound)

    monkeypatch.setattr(LiveStream, "push", noted)
    monkeypatch.setattr(live_socket, "MAX_WINDOWS_WAITING", 2)
    recognizer = Held()
    with serve(recognizer) as server, live(server) as socket:
        for _ in range(60):
            socket.send(pcm(1.0))
        socket.send(END)
        until(lambda: waiting and waiting[-1] == 2)
        recognizer.go_on.set()
        assert rest(socket)[-1]["transcript"]["duration"] == 60.0
        assert max(waiting) == 2


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"kind": "begin"}, "kind"),
        ({"kind": "start", "langauge": "en"}, "langauge"),
        ({"kind": "start", "sample_rate": "16000"}, "sample_rate"),
        ({"kind": "start", "sample_rate": 3}, "sample rate"),
    ],
)
def test_a_bad_start_is_refused_by_name(serve: ServerFactory, start: dict[str, Any], said: str) -> None:
    with serve() as server, live(server, start) as socket:
        (error,) = rest(socket)
        assert error["kind"] == "error" and said in error["error"]["message"]
        assert streams(server) == 0


@pytest.mark.parametrize("message", ["[]", "end", '{"kind": "stop"}', ""])
def test_what_is_neither_sound_nor_end_is_refused(serve: ServerFactory, message: str) -> None:
    with serve() as server, live(server) as socket:
        socket.send(message)
        (error,) = rest(socket)
        assert "allowed are sound" in error["error"]["message"]


def test_sound_behind_the_end_is_not_dropped_silently(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server, live(server) as socket:
        socket.send(pcm(1.0))
        socket.send(END)
        say(socket, pcm(1.0))
        assert "behind the end" in rest(socket)[-1]["error"]["message"]
        recognizer.go_on.set()


def test_a_message_is_bounded(serve: ServerFactory) -> None:
    with serve() as server, live(server) as socket:
        socket.send(bytes(live_socket.MAX_MESSAGE_BYTES + 2))
        assert "allowed are 1,048,576" in rest(socket)[-1]["error"]["message"]


def test_pages_of_other_hosts_may_not_listen(serve: ServerFactory) -> None:
    with serve(cors_origins=("https://friend.example",)) as server:
        for origin in ("https://friend.example", server.url):
            with live(server, origin=origin) as socket:
                socket.send(END)
                assert "error" not in rest(socket)[-1], origin
        with pytest.raises(InvalidStatus, match="403"), live(server, origin="https://evil.example"):
            pass


def test_a_browser_sends_its_key_as_a_subprotocol(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "ana")
    with serve(keys_file=keys) as server:
        with live(server, subprotocols=["redline-live"]) as socket:
            assert rest(socket)[-1]["error"]["code"] == "missing_api_key"
        with live(server, subprotocols=["redline-live", f"openai-insecure-api-key.{key}"]) as socket:
            assert socket.subprotocol == "redline-live"
            socket.send(END)
            assert rest(socket)[-1]["kind"] == "transcript"
