"""A streamed transcription: text as it comes, the same as without a stream; who leaves frees the place."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent, TranscriptionTextSegmentEvent

from redline.errors import RedlineError
from redline.types import Hypothesis, Request

from .conftest import ServerFactory
from .openai_client import Talk, async_openai_of, openai_of
from .recordings import until, wav
from .test_openai_transcriptions import FIVE_S, TEXT

TYPES = {
    "transcript.text.delta": TranscriptionTextDeltaEvent,
    "transcript.text.segment": TranscriptionTextSegmentEvent,
    "transcript.text.done": TranscriptionTextDoneEvent,
}


class Stepwise(Talk):
    """Answers one clip for each time that it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Semaphore(0)

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        assert self.turn.acquire(timeout=20)
        return super().recognize(requests)


def events_of(stream: Any) -> list[Any]:
    events = list(stream)
    for event in events:
        TYPES[event.type].model_validate(event.to_dict())  # the client itself checks nothing
    return events


def test_deltas_are_the_text_and_done_has_all_of_it(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        stream = openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="gpt-transcribe", stream=True, include=["logprobs"]
        )
        *deltas, done = events_of(stream)
    assert "".join(event.delta for event in deltas) == done.text == TEXT
    assert len(deltas) == 3 and all(event.segment_id is None for event in deltas)
    assert "".join(each.token for event in deltas for each in event.logprobs) == TEXT
    assert [each.to_dict() for event in deltas for each in event.logprobs] == [each.to_dict() for each in done.logprobs]
    assert [each.code for each in done.languages] == ["de"]


def test_deltas_come_while_the_rest_is_not_recognized(serve: ServerFactory) -> None:
    recognizer = Stepwise()
    with serve(recognizer) as server:
        recognizer.turn.release()
        long = ("long.wav", wav(400))  # more than is read before the first text is there
        with openai_of(server).audio.transcriptions.create(file=long, model="m", stream=True) as stream:
            first = next(stream)
            assert first.type == "transcript.text.delta" and first.delta == "uh, two 1"
            recognizer.turn.release(500)
            *_, done = stream
    assert done.type == "transcript.text.done" and done.text.startswith(f"{TEXT} uh, two 4")


def test_diarized_segments_come_with_their_deltas(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        stream = openai_of(server).audio.transcriptions.create(
            file=FIVE_S, model="gpt-4o-transcribe-diarize", stream=True, response_format="diarized_json"
        )
        *events, done = events_of(stream)
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.segment"] * 3
    assert [event.segment_id for event in events[::2]] == [event.id for event in events[1::2]]
    assert [event.speaker for event in events[1::2]] == ["A", "B", "A"]
    assert "".join(event.delta for event in events[::2]) == done.text == TEXT


def test_the_async_client_streams(serve: ServerFactory) -> None:
    async def text(server: Any) -> str:
        async with async_openai_of(server) as client:
            stream = await client.audio.transcriptions.create(file=FIVE_S, model="m", stream=True)
            return [event async for event in stream][-1].text  # type: ignore[union-attr]

    with serve(Talk()) as server:
        assert asyncio.run(text(server)) == TEXT


def test_streaming_responses_give_the_bytes(serve: ServerFactory) -> None:
    with serve(Talk()) as server:
        create = openai_of(server).audio.transcriptions.with_streaming_response.create
        with create(file=FIVE_S, model="m", stream=True) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert [json.loads(line.removeprefix("data: "))["type"] for line in lines][-1] == "transcript.text.done"
        with create(file=FIVE_S, model="m", response_format="srt") as response:
            assert b"".join(response.iter_bytes()).startswith(b"1\n00:00:00,000")


def test_an_error_before_the_first_event_is_a_status(serve: ServerFactory) -> None:
    with serve(Talk()) as server, pytest.raises(openai.BadRequestError) as refused:
        openai_of(server).audio.transcriptions.create(file=("a.wav", b"no sound"), model="m", stream=True)
    assert refused.value.code == "audio_unreadable"


def test_an_error_behind_the_first_event_is_told_in_the_stream(serve: ServerFactory) -> None:
    recognizer = Stepwise()
    with serve(recognizer, base_timeout_s=1.0, timeout_factor=0.0) as server:
        recognizer.turn.release()
        stream = openai_of(server).audio.transcriptions.create(file=("long.wav", wav(400)), model="m", stream=True)
        assert next(stream).type == "transcript.text.delta"
        threading.Timer(1.5, recognizer.turn.release, [500]).start()
        with pytest.raises(openai.APIError, match="no text within"):
            list(stream)


def test_a_client_that_leaves_the_stream_frees_its_place_within_two_seconds(serve: ServerFactory) -> None:
    recognizer = Stepwise()
    with serve(recognizer) as server:
        service = server.app.state.server.service
        recognizer.turn.release()
        stream = openai_of(server).audio.transcriptions.create(file=("long.wav", wav(400)), model="m", stream=True)
        assert next(stream).type == "transcript.text.delta"
        stream.close()
        recognizer.turn.release()
        until(lambda: service.active == 0, 2.0)
        recognizer.turn.release(100)
        assert openai_of(server).audio.transcriptions.create(file=FIVE_S, model="m").text
