"""The realtime sessions of OpenAI's beta, through its client's `beta.realtime`; and text while speech goes on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import openai
import pytest

from redline.serve.auth import new_key

from .conftest import ServerFactory
from .openai_client import Talk, openai_of
from .test_openai_realtime import DEMO, FIRST, ITEM, QUIET, connected, sound

SETTINGS = {
    "input_audio_format": "pcm16",
    "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": "Priya"},
    "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
}


def test_settings_of_the_beta_reach_the_model(serve: ServerFactory) -> None:
    recognizer = Talk(max_clip_s=30.0)
    with ExitStack() as stack:
        server = stack.enter_context(serve(recognizer))
        client = openai_of(server, websocket_base_url=server.url.replace("http", "ws") + "/v1")
        connection = stack.enter_context(client.beta.realtime.connect(model="gpt-4o-transcribe"))
        assert connection.recv().type == "session.created"
        connection.transcription_session.update(session=SETTINGS)  # type: ignore[arg-type]
        updated = connection.recv()
        assert updated.type == "transcription_session.updated"
        assert updated.session.input_audio_transcription.language == "en"
        assert updated.session.turn_detection.silence_duration_ms == 400
        for wrong in ({"input_audio_format": "mp3"}, {"voice": "alloy"}, {"modalities": ["audio"]}, None):
            connection.send({"type": "transcription_session.update", "session": wrong})  # type: ignore[arg-type,list-item]
            assert connection.recv().type == "error"
        connection.input_audio_buffer.append(audio=sound(FIRST))
        while (event := connection.recv()).type != f"{ITEM}.completed":
            pass
        assert event.transcript == "uh, two 1"
    assert (recognizer.asked[0].task.language, recognizer.asked[0].task.keywords) == ("en", ("Priya",))


def test_secrets_of_the_beta_begin_sessions_with_their_settings(serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "office")
    with serve(Talk(max_clip_s=30.0), keys_file=keys) as server:
        sessions = openai_of(server, api_key=key).beta.realtime.transcription_sessions
        made = sessions.create(**SETTINGS)  # type: ignore[arg-type]
        assert made.client_secret.value.startswith("ek_") and made.input_audio_format == "pcm16"
        with connected(server, api_key=made.client_secret.value) as client:
            assert client.seen[0].session.audio.input.transcription.language == "en"
        with pytest.raises(openai.BadRequestError, match="client_secret"):
            sessions.create(client_secret={"expires_at": {"seconds": 1}})


def test_text_comes_while_speech_goes_on_and_is_never_taken_back(serve: ServerFactory) -> None:
    speech = np.concatenate((DEMO[:38_000], DEMO[:38_000], DEMO[:38_000], QUIET, QUIET))  # of 7 s
    with serve(Talk(max_clip_s=30.0)) as server, connected(server) as client:
        turns = {"type": "server_vad", "silence_duration_ms": 2_000}
        client.set_input(transcription={"delay": "minimal"}, turn_detection=turns)
        for at in range(0, len(speech), 1_600):
            client.append(sound(speech[at : at + 1_600]))
        names = [event.type for event in client.until("input_audio_buffer.speech_stopped")]
        assert names[0] == "input_audio_buffer.speech_started" and names.count(f"{ITEM}.delta") >= 1
        client.until(f"{ITEM}.completed")
        deltas = [event.delta for event in client.seen if event.type == f"{ITEM}.delta"]
        assert client.seen[-1].transcript == "".join(deltas)
