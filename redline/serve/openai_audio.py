"""OpenAI's audio API: `/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, UploadFile
from fastapi.responses import JSONResponse

from redline.serve.api_errors import ApiError
from redline.serve.service import gone_of


def openai_audio_router() -> APIRouter:
    """Routes of transcriptions, translations and models."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/audio/transcriptions")
    async def transcriptions(request: Request) -> Any:
        server = request.app.state.server
        caller = server.keys.check(request, "transcribe")
        form = await request.form(max_files=8, max_fields=1000)
        file = form.get("file")
        if not hasattr(file, "file"):
            raise ApiError(400, "no file; send the recording as the part named file", code="missing", param="file")
        assert file is not None and not isinstance(file, str)
        upload: UploadFile = file  # type: ignore[assignment]
        transcript = await server.service.transcribe(upload.file, caller=caller.name, gone=gone_of(request))
        return JSONResponse({"text": transcript.text, "usage": {"type": "duration", "seconds": transcript.duration}})

    return router
