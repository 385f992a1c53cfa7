"""OpenAI's realtime client: events in their order and with their keys, texts of each turn, errors that end nothing."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soxr
from numpy.typing import NDArray
from openai.types.realtime import (
    ConversationItemAdded,
    ConversationItemDone,
    ConversationItemInputAudioTranscriptionCompletedEvent,
    ConversationItemInputAudioTranscriptionDeltaEvent,
    ConversationItemInputAudioTranscriptionFailedEvent,
    ConversationItemInputAudioTranscriptionSegment,
    InputAudioBufferClearedEvent,
    InputAudioBufferCommittedEvent,
    InputAudioBufferSpeechStartedEvent,
    InputAudioBufferSpeechStoppedEvent,
    InputAudioBufferTimeoutTriggered,
    RateLimitsUpdatedEvent,
    RealtimeErrorEvent,
    SessionCreatedEvent,
    SessionUpdatedEvent,
)

import redline
from redline import audio
from redline.errors import RecognitionError
from redline.serve.http_protocol import BoundedHeads
from redline.testing import FakeRecognizer

from .conftest import RunningServer, ServerFactory
from .openai_client import Talk, async_openai_of, openai_of
from .recordings import Held, until

ITEM = "conversation.item.input_audio_transcription"
TYPES: dict[str, Any] = {
    "session.created": SessionCreatedEvent,
    "session.updated": SessionUpdatedEvent,
    "conversation.item.added": ConversationItemAdded,
    "conversation.item.done": ConversationItemDone,
    "input_audio_buffer.speech_started": InputAudioBufferSpeechStartedEvent,
    "input_audio_buffer.speech_stopped": InputAudioBufferSpeechStoppedEvent,
    "input_audio_buffer.committed": InputAudioBufferCommittedEvent,
    "input_audio_buffer.cleared": InputAudioBufferClearedEvent,
    "input_audio_buffer.timeout_triggered": InputAudioBufferTimeoutTriggered,
    f"{ITEM}.delta": ConversationItemInputAudioTranscriptionDeltaEvent,
    f"{ITEM}.completed": ConversationItemInputAudioTranscriptionCompletedEvent,
    f"{ITEM}.segment": ConversationItemInputAudioTranscriptionSegment,
    f"{ITEM}.failed": ConversationItemInputAudioTranscriptionFailedEvent,
    "rate_limits.updated": RateLimitsUpdatedEvent,
    "error": RealtimeErrorEvent,
}
DEMO = audio.load(Path(redline.__file__).parent / "assets" / "demo.flac").samples
QUIET = np.zeros(20_000, np.float32)
TURNS = np.concatenate((DEMO[:38_000], QUIET, DEMO[46_000:76_000], QUIET))  # two sentences of about 2 s, 3.6 s apart
FIRST, SECOND = TURNS[:58_000], TURNS[58_000:]


def sound(samples: NDArray[np.float32], rate: int = 24_000) -> str:
    """PCM in base64."""
    resampled = soxr.resample(samples, 16_000, rate)
    return base64.b64encode((resampled * 32767).astype("<i2").tobytes()).decode()


class Client:
    """A connection that checks every event against the client's types."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    def event(self) -> Any:
        event = self.connection.recv()
        TYPES[event.type].model_validate(event.to_dict())
        self.seen.append(event)
        return event

    def until(self, type: str, count: int = 1) -> list[Any]:
        """The events up to this one."""
        events: list[Any] = []
        while sum(event.type == type for event in events) < count:
            events.append(self.event())
        return events

    def update(self, **session: Any) -> Any:
        self.connection.session.update(session={"type": "transcription", **session})
        return self.event()

    def set_input(self, **values: Any) -> Any:
        return self.update(audio={"input": values})

    def append(self, audio: str) -> None:
        self.connection.input_audio_buffer.append(audio=audio)


@contextmanager
def connected(server: RunningServer, **options: Any) -> Iterator[Client]:
    with openai_of(server, **options).realtime.connect(extra_query={"intent": "transcription"}) as connection:
        client = Client(connection)
        assert client.event().type == "session.created"
        yield client


def kinds(events: list[Any]) -> list[str]:
    return [event.type.removeprefix("input_audio_buffer.").removeprefix("conversation.item.") for event in events]


def test_each_turn_is_an_item_whose_events_come_in_order(serve: ServerFactory) -> None:
    with serve(Talk(max_clip_s=30.0)) as server, connected(server) as client:
        for at in range(0, len(TURNS), 1_600):  # 100 ms, as a microphone gives it
            client.append(sound(TURNS[at : at + 1_600], 24_000))
        events = client.until(f"{ITEM}.completed", 2)
    names = [name for name in kinds(events) if not name.startswith("input_audio_transcription")]
    assert names == ["speech_started", "speech_stopped", "committed", "added", "done"] * 2
    started, stopped = (
        [event for event in events if event.type == f"input_audio_buffer.speech_{what}"]
        for what in ("started", "stopped")
    )
    assert started[0].audio_start_ms < 500 and 2_200 < stopped[0].audio_end_ms < 3_000
    assert 3_300 < started[1].audio_start_ms < 4_000 and 5_000 < stopped[1].audio_end_ms < 6_300
    committed = [event for event in events if event.type.endswith(".committed")]
    assert [each.previous_item_id for each in committed] == [None, committed[0].item_id]
    assert [each.item_id for each in started] == [each.item_id for each in committed]
    for item in committed:
        of = [event for event in events if getattr(event, "item_id", None) == item.item_id]
        deltas = [event.delta for event in of if event.type == f"{ITEM}.delta"]
        assert of[-1].type == f"{ITEM}.completed" and "".join(deltas) == of[-1].transcript != ""
        assert of[-1].usage.type == "duration" and 1.5 < of[-1].usage.seconds < 3
        assert [each.code for each in of[-1].languages] == ["de"]
    assert {event.transcript for event in events if event.type.endswith(".completed")} == {"uh, two 1", "uh, two 2"}


def test_without_turn_detection_the_client_commits(serve: ServerFactory) -> None:
    with serve(Talk(max_clip_s=30.0)) as server, connected(server) as client:
        updated = client.set_input(turn_detection=None)
        assert updated.session.audio.input.turn_detection is None
        for _ in range(2):
            client.append(sound(TURNS))
            client.connection.input_audio_buffer.commit()
            events = client.until(f"{ITEM}.completed")
            assert kinds(events)[:3] == ["committed", "added", "done"]
            deltas = [event.delta for event in events if event.type == f"{ITEM}.delta"]
            assert len(deltas) == 2 and "".join(deltas) == events[-1].transcript
        client.append(sound(QUIET))
        client.connection.input_audio_buffer.commit()
        assert client.until(f"{ITEM}.completed")[-1].transcript == ""


@pytest.mark.parametrize(("type", "law"), [("audio/pcmu", "mulaw"), ("audio/pcma", "alaw")])
def test_the_sound_of_telephones_is_heard(serve: ServerFactory, type: str, law: str) -> None:
    from redline.serve.g711 import decode_g711

    table = decode_g711(bytes(range(256)), "mu" if law == "mulaw" else "a").astype(np.int32)
    samples = (soxr.resample(TURNS, 16_000, 8_000) * 32767).astype(np.int32)
    codes = np.concatenate([np.abs(table - part[:, None]).argmin(1) for part in np.array_split(samples, 50)])
    heard: list[float] = []

    def respond(clip: redline.types.Waveform) -> str:
        heard.append(float(np.sqrt(np.mean(clip.samples**2))))
        return "heard"

    with serve(FakeRecognizer(respond)) as server, connected(server) as client:
        assert client.set_input(format={"type": type}).session.audio.input.format.type == type
        client.append(base64.b64encode(codes.astype(np.uint8).tobytes()).decode())
        events = client.until(f"{ITEM}.completed", 2)
    assert kinds(events)[0] == "speech_started"
    loudness = float(np.sqrt(np.mean(DEMO[:76_000] ** 2)))
    assert 0.5 * loudness < np.mean(heard) < 2 * loudness


def test_settings_reach_the_model_and_its_answers_have_what_was_asked(serve: ServerFactory) -> None:
    recognizer = Talk(max_clip_s=30.0)
    with serve(recognizer) as server, connected(server) as client:
        asked = {"model": "gpt-4o-transcribe-diarize", "keywords": ["Priya"], "language": "en", "prompt": "Zorg, Ana"}
        client.update(
            include=[f"{ITEM.removeprefix('conversation.')}.logprobs"], audio={"input": {"transcription": asked}}
        )
        client.append(sound(TURNS))
        events = client.until(f"{ITEM}.completed", 2)
    task = recognizer.asked[0].task
    assert (task.language, task.keywords, task.words, task.speakers) == ("en", ("Priya", "Zorg", "Ana"), True, True)
    segments = [event for event in events if event.type == f"{ITEM}.segment"]
    assert [event.speaker for event in segments] == ["A", "B"] and segments[1].start > 3.3
    completed = [event for event in events if event.type == f"{ITEM}.completed"]
    for event in completed:
        assert "".join(each.token for each in event.logprobs) == event.transcript
    assert completed[0].languages[0].code == "en"


def test_settings_change_between_turns_and_times_go_on(serve: ServerFactory) -> None:
    recognizer = Talk(max_clip_s=30.0)
    with serve(recognizer) as server, connected(server) as client:
        client.append(sound(FIRST))
        client.until(f"{ITEM}.completed")
        client.set_input(transcription={"language": "en"})
        client.append(sound(SECOND))
        events = client.until(f"{ITEM}.completed")
        assert events[0].audio_start_ms > 3_300
    assert [request.task.language for request in recognizer.asked] == [None, "en"]


def test_what_is_cleared_is_not_transcribed(serve: ServerFactory) -> None:
    with serve(Talk(max_clip_s=30.0)) as server, connected(server) as client:
        for turns in (None, {"type": "server_vad"}):
            client.set_input(turn_detection=turns)
            client.append(sound(DEMO[:32_000]))
            client.connection.input_audio_buffer.clear()
            events = client.until("input_audio_buffer.cleared")
            assert not [event for event in events if event.type.endswith((".committed", ".completed"))]
        client.append(sound(SECOND))
        client.until(f"{ITEM}.completed")
    assert sum(event.type == "input_audio_buffer.committed" for event in client.seen) == 1


def test_long_silence_is_told_and_committed_as_nothing(serve: ServerFactory) -> None:
    with serve(Talk()) as server, connected(server) as client:
        client.set_input(turn_detection={"type": "server_vad", "idle_timeout_ms": 1_000})
        client.append(sound(np.zeros(24_000, np.float32)))
        events = client.until(f"{ITEM}.completed")
    assert kinds(events)[:4] == ["timeout_triggered", "committed", "added", "done"]
    assert 1_000 <= events[0].audio_end_ms - events[0].audio_start_ms <= 1_500
    assert events[-1].transcript == "" and events[-1].item_id == events[0].item_id


def test_a_part_that_fails_is_told_and_the_next_is_heard(serve: ServerFactory) -> None:
    texts = iter([RecognitionError("out of memory"), "heard"])

    def respond(_: object) -> str:
        text = next(texts)
        if isinstance(text, RecognitionError):
            raise text
        return text

    with serve(FakeRecognizer(respond)) as server, connected(server) as client:
        client.append(sound(TURNS))
        events = client.until(f"{ITEM}.completed")
    failed = next(event for event in events if event.type == f"{ITEM}.failed")
    assert "out of memory" in failed.error.message and events[-1].transcript == "heard"


REFUSED: list[tuple[str, Callable[[Client], object]]] = [
    ("session.audio.input.noise_reduction", lambda client: client.set_input(noise_reduction={"type": "near_field"})),
    ("session.audio.input.turn_detection.type", lambda client: client.set_input(
        turn_detection={"type": "semantic_vad"})),
    ("session.audio.input.turn_detection.threshold", lambda client: client.set_input(
        turn_detection={"type": "server_vad", "threshold": 3})),
    ("session.audio.input.turn_detection.create_response", lambda client: client.set_input(
        turn_detection={"type": "server_vad", "create_response": True})),
    ("session.audio.input.format.type", lambda client: client.set_input(format={"type": "audio/opus"})),
    ("session.audio.input.transcription.delay", lambda client: client.set_input(transcription={"delay": "none"})),
    ("session.audio.input.transcription", lambda client: client.set_input(transcription=None)),
    ("session.tools", lambda client: client.update(tools=[])),
    ("session.type", lambda client: client.connection.session.update(session={"type": "realtime"}) or client.event()),
    ("language", lambda client: client.set_input(transcription={"language": "fr"})),
    ("prompt", lambda client: client.set_input(transcription={"prompt": "Please write down all that is said"})),
    ("type", lambda client: client.connection.response.create() or client.event()),
    ("audio", lambda client: client.append("no base64!") or client.event()),
]  # fmt: skip


def test_errors_are_events_with_the_id_of_their_cause_and_end_nothing(serve: ServerFactory) -> None:
    with serve(Talk(max_clip_s=30.0)) as server, connected(server) as client:
        for param, ask in REFUSED:
            ask(client)
            assert client.seen[-1].type == "error" and client.seen[-1].error.param == param, client.seen[-1]
        client.connection.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
        assert (
            client.event().error.code == "input_audio_buffer_commit_empty" and client.seen[-1].error.event_id == "mine"
        )
        for raw in ("no json", "[]", '{"type": 3}', "[" * 100_000):
            client.connection.send_raw(raw)
            assert client.event().error.type == "invalid_request_error"
        client.connection.send_raw(b"binary")
        assert client.event().type == "error"
        client.set_input(turn_detection=None)
        client.append(sound(DEMO[:16_000]))
        assert client.set_input(turn_detection={"type": "server_vad"}).error.code == "buffer_not_empty"
        client.connection.input_audio_buffer.commit()
        assert client.until(f"{ITEM}.completed")[-1].transcript == "uh, two 1"


def test_too_many_streams_are_told_in_the_session(serve: ServerFactory) -> None:
    with serve(Talk(), max_streams=1) as server, connected(server) as one, connected(server) as other:
        one.append(sound(QUIET))
        one.connection.input_audio_buffer.clear()
        one.append(sound(QUIET))
        until(lambda: server.app.state.server.service.streams == 1)
        other.append(sound(QUIET))
        assert other.event().error.code == "too_many_streams"


def test_a_session_that_is_left_frees_its_place_within_two_seconds(serve: ServerFactory) -> None:
    recognizer = Held()
    with serve(recognizer) as server:
        service = server.app.state.server.service
        with connected(server) as client:
            client.append(sound(TURNS))
            assert recognizer.begun.wait(20) and service.streams == 1
        recognizer.go_on.set()
        until(lambda: service.streams == 0, 2.0)


def test_keys_are_asked_for_and_secrets_are_lent(serve: ServerFactory, tmp_path: Path) -> None:
    from redline.serve.auth import new_key

    keys = tmp_path / "keys.toml"
    key = new_key(keys, "office")
    keys.write_text(keys.read_text().replace('name = "office"', 'name = "office"\nper_minute = 100'))
    with serve(Talk(max_clip_s=30.0), keys_file=keys) as server:
        with pytest.raises(Exception, match="401"), connected(server, api_key="rl-wrong"):
            pass
        made = openai_of(server, api_key=key).realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "transcription", "audio": {"input": {"transcription": {"language": "en"}}}},
        )
        assert made.value.startswith("ek_") and made.session.type == "transcription"
        with connected(server, api_key=made.value) as client:
            assert client.seen[0].session.audio.input.transcription.language == "en"
            limits = client.event()
            assert limits.type == "rate_limits.updated" and limits.rate_limits[0].limit == 100
            client.append(sound(FIRST))
            assert client.until(f"{ITEM}.completed")[-1].languages[0].code == "en"
        with pytest.raises(openai.PermissionDeniedError, match="lent"):
            openai_of(server, api_key=made.value).realtime.client_secrets.create()


def test_a_browser_gives_its_key_as_a_subprotocol(serve: ServerFactory) -> None:
    from websockets.sync.client import connect

    with serve(Talk()) as server:
        address = server.url.replace("http", "ws") + "/v1/realtime"
        with connect(address, subprotocols=["realtime", "openai-insecure-api-key.k"]) as socket:  # type: ignore[list-item]
            assert socket.subprotocol == "realtime" and "session.created" in str(socket.recv())


def test_a_session_outlives_the_time_in_which_the_head_of_a_request_must_come(
    serve: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_s", 0.5)
    with serve(Talk()) as server, connected(server) as client:
        time.sleep(1.0)
        assert client.set_input(turn_detection=None).type == "session.updated"


def test_the_async_client_is_served(serve: ServerFactory) -> None:
    async def text(server: RunningServer) -> str:
        async with (
            async_openai_of(server) as client,
            client.realtime.connect(model="gpt-realtime-whisper") as connection,
        ):
            await connection.input_audio_buffer.append(audio=sound(FIRST))
            async for event in connection:
                if event.type == f"{ITEM}.completed":
                    return event.transcript  # type: ignore[no-any-return]
        raise AssertionError

    with serve(Talk(max_clip_s=30.0)) as server:
        assert asyncio.run(text(server)) == "uh, two 1"
