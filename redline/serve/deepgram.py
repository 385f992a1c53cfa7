"""Deepgram's speech-to-text API: `/v1/listen` for recordings (REST) and streams (WebSocket)."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import uuid
from typing import IO, Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import JSONResponse

from redline.audio.channels import count_channels
from redline.audio.options import AudioOptions
from redline.errors import RedlineError
from redline.serve.api_errors import ApiError, api_error_of
from redline.serve.deepgram_options import ENCODINGS, ListenOptions, read_listen_options
from redline.serve.deepgram_results import listen_reply
from redline.serve.deepgram_stream import ListenStream
from redline.serve.service import gone_of

_WAV_TAGS = {"linear16": 1, "linear32": 3, "alaw": 6, "mulaw": 7}


def deepgram_router() -> APIRouter:
    """Routes of `/v1/listen`."""
    router = APIRouter(prefix="/v1", tags=["Deepgram"])

    @router.post("/listen", summary="Transcribe a recording: the body is its bytes")
    async def listen(request: Request) -> JSONResponse:
        request_id = str(uuid.uuid4())
        try:
            reply = await _recording(request, request_id)
        except (ApiError, RedlineError) as error:
            return _error_reply(error if isinstance(error, ApiError) else api_error_of(error), request_id)
        return JSONResponse(reply, headers={"dg-request-id": request_id})

    @router.websocket("/listen")
    async def listen_stream(websocket: WebSocket) -> None:
        request_id = str(uuid.uuid4())
        try:
            server = websocket.app.state.server
            server.keys.check(websocket, "transcribe")
            options = read_listen_options(websocket.query_params.multi_items(), streams=True)
            stream = ListenStream(websocket, server, options, request_id)
            await stream.run()
        except (ApiError, RedlineError) as error:  # before it was accepted
            reply = _error_reply(error if isinstance(error, ApiError) else api_error_of(error), request_id)
            await websocket.send_denial_response(reply)

    return router


async def _recording(request: Request, request_id: str) -> dict[str, Any]:
    server = request.app.state.server
    caller = server.keys.check(request, "transcribe")
    options = read_listen_options(request.query_params.multi_items(), streams=False)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        message = "this server fetches no URLs; send the bytes of the recording as the body"
        raise ApiError(400, message, code="Bad Request", param="url")
    digest, size, service = hashlib.sha256(), 0, server.service
    with (
        tempfile.TemporaryFile() as file,
        os.fdopen(os.dup(file.fileno()), "rb") as recording,
    ):  # read as it is, not copied
        header = b"" if options.encoding is None else _wav_header(options, 0)
        file.write(header)
        async for piece in request.stream():
            digest.update(piece)
            size += file.write(piece)
        if options.encoding is not None:
            file.seek(0)
            file.write(_wav_header(options, size))
        file.flush()
        recording.seek(0)
        channels = await service.in_thread(lambda: _channels(recording)) if options.multichannel else 1
        transcript = await service.transcribe(
            recording, caller=caller.name, gone=gone_of(request), **options.transcribe_options()
        )
    if server.options.archive_requests:
        await service.in_thread(lambda: server.store.keep(transcript, owner=caller.name, name="recording"))
    return listen_reply(transcript, options, request_id=request_id, sha256=digest.hexdigest(), channels=channels)


def _channels(file: IO[bytes]) -> int:
    count = count_channels(file, None, AudioOptions())
    file.seek(0)
    return count


def _wav_header(options: ListenOptions, size: int) -> bytes:
    """In front of so many bytes of samples that have no container."""
    assert options.encoding is not None and options.sample_rate is not None
    width, rate = ENCODINGS[options.encoding], options.sample_rate
    if not 4_000 <= rate <= 384_000 or not 1 <= options.channels <= 32:
        message = f"sample_rate is {rate}, channels {options.channels}; allowed are 4000 to 384000, and 1 to 32"
        raise ApiError(400, message, code="Bad Request", param="sample_rate")
    frame = width * options.channels
    form = struct.pack("<HHIIHH", _WAV_TAGS[options.encoding], options.channels, rate, rate * frame, frame, 8 * width)
    head = struct.pack("<4sI4s4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", len(form))
    return head + form + struct.pack("<4sI", b"data", size)


def _error_reply(error: ApiError, request_id: str) -> JSONResponse:
    """An error as Deepgram's clients read it."""
    body = {"err_code": error.code or error.type, "err_msg": error.message, "request_id": request_id}
    response = error.response()
    headers = {name: value for name, value in response.headers.items() if name in ("retry-after", "www-authenticate")}
    return JSONResponse(body, error.status, {**headers, "dg-request-id": request_id})
