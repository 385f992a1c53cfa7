"""Wyoming through its own client: text while it is spoken and whole, any rate and width, nothing that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

import redline
from redline import audio
from redline.testing import FakeRecognizer

from .conftest import RunningServer, ServerFactory


def spoken(data: bytes, *, rate: int = 16_000, width: int = 2, channels: int = 1, chunk: int = 4096) -> list[Any]:
    """The events of one utterance."""
    form = {"rate": rate, "width": width, "channels": channels}
    chunks = [AudioChunk(audio=data[at : at + chunk], **form) for at in range(0, len(data), chunk)]
    return [AudioStart(**form), *chunks, AudioStop()]


def ask(server: RunningServer, events: Sequence[Any], last: str) -> list[Event]:
    """What a client gets for events, up to the last event of a type."""

    async def talk() -> list[Event]:
        port = server.app.state.server.ports["wyoming"]
        answers: list[Event] = []
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=30) as client:
            for event in events:
                await client.write_event(event.event())
            while not answers or answers[-1].type not in (last, "error"):
                answer = await client.read_event()
                if answer is None:
                    break
                answers.append(answer)
        return answers

    return asyncio.run(talk())


def test_home_assistant_gets_text_while_it_is_spoken_and_whole(
    serve: ServerFactory, tiny: redline.Model, jfk: Path
) -> None:
    samples = (audio.load(jfk).samples[: 16_000 * 7 // 2] * 32767).astype(np.int16)
    sound = np.concatenate((samples, np.zeros(16_000, np.int16)))
    with tiny.live() as stream:
        stream.feed(sound)
        stream.close()
        expected = stream.transcript().text
    asked = Transcribe(language="en", transcript_names=["Kennedy"], transcript_terms=["stove"])
    with serve(tiny.recognizer, wyoming_port=0) as server:
        stereo = np.stack((sound, sound), axis=1).astype(np.int32) << 16
        for events in (spoken(sound.tobytes()), spoken(stereo.tobytes(), width=4, channels=2)):
            answers = ask(server, [asked, *events], "transcript-stop")
            kinds = [answer.type for answer in answers]
            assert kinds[0] == "transcript-start" and kinds[-2:] == ["transcript", "transcript-stop"]
            assert answers[-2].data == {"text": expected, "language": "en"} and expected
            assert "".join(each.data["text"] for each in answers if each.type == "transcript-chunk") == expected


def test_describe_tells_the_model_and_ping_is_answered(serve: ServerFactory) -> None:
    with serve(FakeRecognizer(languages=("en", "de")), wyoming_port=0) as server:
        info, pong = ask(server, [Describe(), Ping(text="a")], "pong")
    (program,) = Info.from_event(info).asr
    assert program.supports_transcript_streaming and program.models[0].languages == ["en", "de"]
    assert program.models[0].name == "fake" and pong.data["text"] == "a"


def test_one_connection_says_one_thing_after_the_other(serve: ServerFactory) -> None:
    quiet = bytes(8000)  # a quarter of a second
    with serve(wyoming_port=0) as server:
        answers = ask(server, [*spoken(quiet), *spoken(quiet, rate=8000), Ping()], "pong")
    assert [each.type for each in answers] == ["transcript-start", "transcript", "transcript-stop"] * 2 + ["pong"]
    assert {each.data["text"] for each in answers if each.type == "transcript"} == {""}


@pytest.mark.parametrize(
    "events",
    [
        [AudioStop()],
        [AudioStart(16_000, 3, 1)],
        [AudioStart(1, 2, 1)],
        [AudioStart(16_000, 2, 1), AudioStart(16_000, 2, 1)],
        [AudioStart(16_000, 2, 1), AudioChunk(8_000, 2, 1, bytes(20))],
        [AudioChunk(16_000, 2, 2, bytes(3))],
        [Transcribe(language="klingon"), AudioStart(16_000, 2, 1)],
    ],
)
def test_what_cannot_be_is_told_and_harms_only_itself(serve: ServerFactory, events: list[Any]) -> None:
    with serve(wyoming_port=0) as server:
        assert ask(server, events, "none")[-1].type == "error"
        assert ask(server, [Ping()], "pong")[-1].type == "pong"
        assert server.app.state.server.service.streams == 0


@pytest.mark.parametrize(
    "data",
    [b"no json\n", b'{"type": 1, "data_length": 99999999}\n', b'{"data": {}}\n', b"x" * 600_000, b'{"type": "ping"'],
)
def test_a_client_that_sends_garbage_or_nothing_is_sent_away(serve: ServerFactory, data: bytes) -> None:
    async def talk(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            return b"error"
        finally:
            writer.close()

    with serve(wyoming_port=0, idle_s=0.3) as server:
        assert b"error" in asyncio.run(talk(server.app.state.server.ports["wyoming"]))


def test_connections_are_counted_and_a_stop_ends_those_that_say_nothing(serve: ServerFactory) -> None:
    async def talk(port: int) -> Event | None:
        async with AsyncTcpClient("127.0.0.1", port), AsyncTcpClient("127.0.0.1", port) as second:
            return await second.read_event()

    with serve(wyoming_port=0, max_streams=1) as server:
        answer = asyncio.run(talk(server.app.state.server.ports["wyoming"]))
        assert answer is not None and answer.data["code"] == "busy"
        began = time.monotonic()
    assert time.monotonic() - began < 5
