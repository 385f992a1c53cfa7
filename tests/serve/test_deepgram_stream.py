"""Deepgram's `/v1/listen` for streams, through its own client: results as people speak, each message as documented."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

import redline
from redline import audio
from redline.serve.deepgram_options import read_listen_options
from redline.testing import silence, tone

from .conftest import ServerFactory
from .recordings import pcm, wav_of
from .test_deepgram import deepgram

QUIET = np.zeros(16_000 * 2, np.int16)


@pytest.fixture(scope="module")
def speech(jfk: Path) -> NDArray[np.int16]:
    """Three seconds and a half of speech, with a second of silence in front and two behind."""
    samples = (audio.load(jfk).samples[: 16_000 * 7 // 2] * 32767).astype(np.int16)
    return np.concatenate((QUIET[:16_000], samples, QUIET))


def test_a_stream_through_the_client(serve: ServerFactory, tiny: redline.Model, speech: NDArray[np.int16]) -> None:
    with tiny.live() as stream:
        stream.feed(speech)
        stream.close()
        expected = stream.transcript().text
    with serve(tiny.recognizer) as server:
        asked: dict[str, Any] = {"encoding": "linear16", "sample_rate": 16_000, "interim_results": True}
        asked |= {"vad_events": True, "utterance_end_ms": 1000, "punctuate": True, "channels": 1}
        with deepgram(server).listen.v1.connect(model="nova-3", **asked) as connection:
            data = speech.tobytes()
            for at in range(0, len(data), 6_401):  # cut within samples, too
                connection.send_media(data[at : at + 6_401])
            connection.send_keep_alive()
            connection.send_finalize()
            connection.send_media(data)
            connection.send_close_stream()
            messages = list(connection)
    kinds = [message.type for message in messages]
    results = [message for message in messages if message.type == "Results"]
    final = [message for message in results if message.is_final]
    half = len(speech) / 16_000
    texts = [
        " ".join(each.channel.alternatives[0].transcript for each in final if (each.start >= half) == is_second)
        for is_second in (False, True)
    ]
    assert texts == [expected, expected] and expected
    words = [word for each in final for word in each.channel.alternatives[0].words]
    assert [word.punctuated_word for word in words] == f"{expected} {expected}".split()
    assert all(word.start < word.end for word in words) and words == sorted(words, key=lambda word: word.start)
    assert all(0 < word.confidence <= 1 for word in words)
    assert any(each.speech_final for each in final) and all(not each.is_final for each in results if each not in final)
    assert kinds[0] == "SpeechStarted" and kinds.count("SpeechStarted") >= 2
    ends = [message.last_word_end for message in messages if message.type == "UtteranceEnd"]
    assert ends and all(any(abs(end - word.end) < 1e-6 for word in words) for end in ends)
    assert kinds[-1] == "Metadata" and messages[-1].duration == pytest.approx(2 * half, abs=0.01)


def listen(url: str, query: str, *messages: bytes | str) -> list[dict[str, Any]]:
    """What a stream answers to messages."""
    with connect(f"{url.replace('http', 'ws')}/v1/listen?{query}") as socket:
        with suppress(ConnectionClosedError):  # the server may close with an error before all is sent
            for message in messages:
                socket.send(message)
        answers: list[dict[str, Any]] = []
        with suppress(ConnectionClosedError):
            for message in socket:
                answers.append(json.loads(message))
        return answers


def test_channels_of_a_wav_stream_are_heard_apart(serve: ServerFactory) -> None:
    data = wav_of(pcm(tone(1), silence(1)))
    with serve() as server:
        messages = listen(server.url, "multichannel=true", data[:20], data[20:], '{"type": "CloseStream"}')
    assert messages[-1]["type"] == "Metadata" and messages[-1]["channels"] == 2 and messages[-1]["duration"] == 1.0


def test_what_is_no_message_is_told_and_the_stream_goes_on(serve: ServerFactory) -> None:
    with serve() as server:
        query = "encoding=mulaw&sample_rate=8000&version=1"
        messages = listen(server.url, query, "no json", '{"type": "Fly"}', '{"type": "Configure"}', b"")
    assert [each["type"] for each in messages] == ["Error", "Error", "ConfigureFailure", "Metadata"]
    assert messages[0]["variant"] == "SchemaError"
    assert [each["type"] for each in messages[-1]["warnings"]] == ["unused_parameter", "too-short"]


def test_a_stream_that_tells_no_encoding_must_be_a_wav(serve: ServerFactory) -> None:
    with serve() as server:
        (message,) = listen(server.url, "model=any", b"\x00\x01" * 500)
    assert message["type"] == "Error" and "encoding" in message["description"]


def test_a_stream_that_cannot_be_is_refused_before_it_opens(serve: ServerFactory) -> None:
    with serve() as server, pytest.raises(InvalidStatus) as refused:
        deepgram(server).listen.v1.connect(model="a", redact="pci").__enter__()
    assert refused.value.response.status_code == 400 and b"redact" in refused.value.response.body
    options = read_listen_options([("endpointing", "false")], streams=True)
    assert not options.tells_ends and options.endpointing_s is None
