"""A fault of the program, where no error is foreseen, is told on every protocol: nobody waits for ever."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import redline
from redline import audio
from redline.testing import FakeRecognizer
from redline.types import Waveform

from .conftest import RunningServer, ServerFactory
from .recordings import finished, wav
from .test_mcp_tools import talk as ask_tools
from .test_wyoming_door import ask, spoken

DEMO = audio.load(Path(redline.__file__).parent / "assets" / "demo.flac").samples[:38_000]
PCM = (DEMO * 32767).astype("<i2").tobytes()


def respond(clip: Waveform) -> Any:
    """What cannot be stitched, for clips above a second and a half."""
    return None if clip.duration > 1.5 else "fine"


def talk(server: RunningServer, path: str, *messages: str | bytes, last: str | None = None) -> list[dict[str, Any]]:
    """What a WebSocket gives until the server closes, or until an event of the type `last`."""
    told: list[dict[str, Any]] = []
    with connect(server.url.replace("http", "ws") + path) as socket:
        with suppress(ConnectionClosed):  # what the server said before it closed is still to be read
            for message in messages:
                socket.send(message)
        with suppress(ConnectionClosed):
            while last is None or not told or told[-1]["type"] != last:
                told.append(json.loads(socket.recv(timeout=20)))
    return told


def live(server: RunningServer) -> None:
    told = talk(server, "/v1/live", json.dumps({"kind": "start", "vad": False}), PCM, json.dumps({"kind": "end"}))
    assert told[-1]["kind"] == "error" and told[-1]["error"]["code"] == "internal_error"


def realtime(server: RunningServer) -> None:
    settings = {"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
    settings["audio"]["input"]["turn_detection"] = None  # type: ignore[index]
    events = [
        {"type": "session.update", "session": settings},
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(PCM).decode()},
        {"type": "input_audio_buffer.commit"},
    ]
    told = talk(server, "/v1/realtime?model=any", *map(json.dumps, events), last="error")
    assert told[-1]["error"]["code"] == "internal_error"
    ids = {
        name: [each["item_id"] for each in told if each["type"].endswith(name)]
        for name in ("buffer.committed", "transcription.failed")
    }
    assert ids["buffer.committed"] == ids["transcription.failed"]


def deepgram_stream(server: RunningServer) -> None:
    path = "/v1/listen?encoding=linear16&sample_rate=16000"
    told = talk(server, path, PCM, json.dumps({"type": "CloseStream"}))
    assert told[-1]["type"] == "Error" and "internal error" in told[-1]["description"]


def wyoming(server: RunningServer) -> None:
    told = ask(server, spoken(PCM), "transcript")
    assert told[-1].type == "error" and told[-1].data["code"] == "internal_error"


def transcription(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post("/v1/audio/transcriptions", files={"file": wav(2)}, data={"model": "any"})
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "internal_error"


def transcription_events(server: RunningServer) -> None:
    with server.client() as client:
        form = {"model": "any", "stream": "true"}
        reply = client.post("/v1/audio/transcriptions", files={"file": wav(2)}, data=form)
    assert reply.status_code == 500 or "internal_error" in reply.text


def deepgram_recording(server: RunningServer) -> None:
    with server.client() as client:
        assert client.post("/v1/listen", content=wav(2)).status_code == 500


def agent(server: RunningServer) -> None:
    async def use(client: Any) -> Any:
        return await client.call_tool("transcribe", {"audio_base64": base64.b64encode(wav(2)).decode()})

    result = ask_tools(server, use)
    assert result.is_error and "internal error" in result.content[0].text


def job(server: RunningServer) -> None:
    with server.client() as client:
        done = finished(client, client.post("/v1/jobs", files={"file": wav(2)}).json()["id"])
    assert done["state"] == "failed" and done["error"]["code"] == "internal_error"  # type: ignore[index]


@pytest.mark.parametrize(
    "meet",
    [live, realtime, deepgram_stream, wyoming, transcription, transcription_events, deepgram_recording, agent, job],
    ids=lambda meet: meet.__name__,
)
def test_a_fault_of_the_program_is_told_and_harms_nobody_else(
    serve: ServerFactory, meet: Callable[[RunningServer], None]
) -> None:
    with serve(FakeRecognizer(respond), wyoming_port=0) as server, server.client() as client:
        meet(server)
        reply = client.post("/v1/audio/transcriptions", files={"file": wav(1)}, data={"model": "any"})
        assert reply.json()["text"] == "fine"
        assert server.app.state.server.service.streams == 0
