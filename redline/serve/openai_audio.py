"""OpenAI's audio API: `/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/models`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from redline.serve.model_names import check_model_name, known_names, model_dict
from redline.serve.multipart import field_values, file_of, multipart_form
from redline.serve.openai_formats import transcript_response
from redline.serve.openai_request import (
    LISTS,
    TranscriptionForm,
    TranslationForm,
    checked_form,
    form_schema,
    known_voices,
    transcribe_options,
)
from redline.serve.openai_stream import streamed_response
from redline.serve.service import RecognitionService, gone_of
from redline.serve.store.files import new_id, plain_name
from redline.transcribe_options import OnSegment, TranscribeOptions
from redline.types import Task, Transcript


def openai_audio_router() -> APIRouter:
    """Routes of transcriptions, translations and models."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/audio/transcriptions", openapi_extra=form_schema(TranscriptionForm))
    async def transcriptions(request: Request) -> Response:
        """The text of a recording in its own language: JSON, plain text, subtitles or events."""
        return await _answer(request, TranscriptionForm)

    @router.post("/audio/translations", openapi_extra=form_schema(TranslationForm))
    async def translations(request: Request) -> Response:
        """The text of a recording in English, where the model translates."""
        return await _answer(request, TranslationForm)

    @router.get("/models")
    async def models(request: Request) -> dict[str, Any]:
        """The loaded model under each of its names."""
        server = request.app.state.server
        server.keys.check(request, "transcribe")
        return {"object": "list", "data": [model_dict(server, name) for name in known_names(server)]}

    @router.get("/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        """The loaded model, where it is called so."""
        server = request.app.state.server
        server.keys.check(request, "transcribe")
        check_model_name(server, name)
        return model_dict(server, name)

    return router


async def _answer(request: Request, kind: type[TranslationForm]) -> Response:
    """Read a request to the end, and answer it; raises `ApiError` and `RedlineError`."""
    server = request.app.state.server
    service: RecognitionService = server.service
    caller = server.keys.check(request, "transcribe").name
    kept_id = new_id("tr")
    async with AsyncExitStack() as stack:
        fields = await stack.enter_async_context(multipart_form(request))
        file = file_of(fields)
        form = checked_form(kind, field_values(fields, LISTS))
        check_model_name(server, form.model)
        options = transcribe_options(form, service.model)
        is_kept = server.options.archive_requests if form.store is None else form.store
        name = plain_name(file.filename)

        async def work(on_segment: OnSegment | None = None) -> Transcript:
            asked: TranscribeOptions = {**options}
            if voices := await service.in_thread(lambda: known_voices(form)):
                asked["speaker_samples"] = voices
            is_late = options.get("speakers") and (voices or service.model.hears_voices(Task(speakers=True)))
            if not is_late:
                asked["on_segment"] = on_segment
            transcript = await service.transcribe(file.file, caller=caller, gone=gone_of(request), **asked)
            if is_kept:
                await service.in_thread(lambda: server.store.keep(transcript, owner=caller, name=name, id=kept_id))
            return transcript

        if not (isinstance(form, TranscriptionForm) and form.stream):
            return _naming(transcript_response(await work(), form), kept_id if is_kept else None)
        held = stack.pop_all()

        async def streamed(on_segment: OnSegment) -> Transcript:
            async with held:
                return await work(on_segment)

        return _naming(await streamed_response(streamed, form), kept_id if is_kept else None)
    raise AssertionError("the stack of a request swallows nothing")


def _naming(response: Response, transcript_id: str | None) -> Response:
    """With the id of the transcript in the archive, where it is kept."""
    if transcript_id is not None:
        response.headers["Redline-Transcript-Id"] = transcript_id
    return response
