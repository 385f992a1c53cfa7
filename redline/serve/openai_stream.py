"""A transcript as server-sent events: its text as it comes, then all of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse

from redline.errors import RedlineError
from redline.serve.api_errors import ApiError, api_error_of, internal_api_error
from redline.serve.openai_formats import (
    SpeakerLetters,
    diarized_segment_dict,
    language_dicts,
    segment_logprobs,
    segment_name,
    segments_logprobs,
    warnings_dict,
)
from redline.serve.openai_request import TranscriptionForm
from redline.transcribe_options import OnSegment
from redline.types import Segment, Transcript

_log = logging.getLogger(__name__)
_HEAD_S = 2.0  # an error that comes this soon is a status of its own
_SIGN_OF_LIFE_S = 10.0


async def streamed_response(
    work: Callable[[OnSegment], Awaitable[Transcript]], form: TranscriptionForm
) -> StreamingResponse:
    """Server-sent events of `work`, which gives segments to its argument as they are ready.

    Raises what `work` raises before the first event; later it is an event with the key `error`. When the client leaves
    `work` is cancelled.
    """
    loop = asyncio.get_running_loop()
    segments: asyncio.Queue[Segment | None] = asyncio.Queue()

    def ready(segment: Segment) -> None:
        loop.call_soon_threadsafe(segments.put_nowait, segment)

    task = asyncio.ensure_future(work(ready))
    task.add_done_callback(lambda _: segments.put_nowait(None))
    begun: list[Segment | None] = []
    try:
        begun.append(await asyncio.wait_for(segments.get(), _HEAD_S))
    except asyncio.TimeoutError:
        pass
    except asyncio.CancelledError:
        task.cancel()
        raise
    if begun == [None] and not task.cancelled() and task.exception() is not None:
        task.result()

    async def lines() -> AsyncIterator[str]:
        reply = _Events(form)
        try:
            while True:
                try:
                    segment = begun.pop() if begun else await asyncio.wait_for(segments.get(), _SIGN_OF_LIFE_S)
                except asyncio.TimeoutError:
                    yield ": in work\n\n"
                    continue
                if segment is None:
                    break
                for event in reply.of_segment(segment):
                    yield _line(event)
            for event in reply.of_transcript(task.result()):
                yield _line(event)
        except ApiError as error:
            yield _line(error.to_dict())
        except RedlineError as error:
            yield _line(api_error_of(error).to_dict())
        except Exception:
            _log.exception("a streamed transcription failed")
            yield _line(internal_api_error().to_dict())
        finally:
            task.cancel()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


class _Events:
    """The events of one transcript."""

    def __init__(self, form: TranscriptionForm) -> None:
        self._is_diarized = form.response_format == "diarized_json"
        self._has_logprobs = bool(form.include)
        self._letters = SpeakerLetters(form.known_speaker_names)
        self._sent = 0

    def of_segment(self, segment: Segment) -> list[dict[str, Any]]:
        """Text that is new; the deltas of all segments together are the text."""
        lead = " " if self._sent else ""
        self._sent += 1
        delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": lead + segment.text}
        if self._has_logprobs:
            delta["logprobs"] = segment_logprobs(segment, lead)
        if not self._is_diarized:
            return [delta]
        return [{**delta, "segment_id": segment_name(segment)}, diarized_segment_dict(segment, self._letters)]

    def of_transcript(self, transcript: Transcript) -> list[dict[str, Any]]:
        """What was not told yet, and all of it. There is no `usage`, which counts tokens there."""
        late = [event for segment in transcript.segments[self._sent :] for event in self.of_segment(segment)]
        done: dict[str, Any] = {
            "type": "transcript.text.done",
            "text": transcript.text,
            "languages": language_dicts(transcript),
        }
        if self._has_logprobs:
            done["logprobs"] = segments_logprobs(transcript.segments)
        return [*late, {**done, **warnings_dict(transcript.warnings)}]
