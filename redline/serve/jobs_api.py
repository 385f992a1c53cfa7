"""Jobs over HTTP: `/v1/jobs` takes a recording now and has its transcript later, whatever happens in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData

from redline.files import sha256_of
from redline.serve.api_errors import ApiError
from redline.serve.auth import Caller
from redline.serve.job_options import JobOptions, transcribe_arguments
from redline.serve.job_worker import check_url, name_of_url
from redline.serve.multipart import file_of, multipart_form
from redline.serve.store.files import copy_hashed, new_id, plain_name
from redline.serve.store.jobs import JOB_STATES, KeyReusedError, NewJob, QueueFullError, TranscriptionJob
from redline.serve.store.store import Store
from redline.serve.uploads_api import disk_errors, find_upload

_EVENT_S = 0.5  # between two looks at a job that somebody watches
_KEEP_ALIVE_S = 15.0
_LONGEST_KEY = 255
_MOST_JSON = 1 << 20


def jobs_router() -> APIRouter:
    """Routes of jobs; each needs a key of the scope `jobs` and sees the jobs of that key only."""
    router = APIRouter(prefix="/v1", tags=["jobs"])

    @router.post("/jobs", status_code=202, openapi_extra=_BODY)
    async def submit(request: Request) -> Response:
        """Transcribe a recording: a file as a form's `file`, or JSON with its `url` or the id of an `upload`."""
        server = request.app.state.server
        caller = server.keys.check(request, "jobs")
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= _LONGEST_KEY:
            message = f"Idempotency-Key has {len(key)} characters; allowed are 1 to {_LONGEST_KEY}"
            raise ApiError(400, message, code="invalid", param="Idempotency-Key")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with multipart_form(request, most_files=1) as form:
                job, is_new = await _of_form(server, caller, key, form)
        elif kind == "application/json":
            job, is_new = await _of_json(server, caller, key, await _json(request))
        else:
            message = f"the body is {kind or 'of no type'}; send multipart/form-data or application/json"
            raise ApiError(415, message, code="unsupported_body")
        if is_new:
            server.jobs.call()
        head = {"Location": f"/v1/jobs/{job.id}"}
        return JSONResponse(await asyncio.to_thread(job_dict, server.store, job), 202, head)

    @router.get("/jobs")
    def jobs(
        request: Request,
        state: str | None = Query(None, description="only jobs in this state: " + ", ".join(JOB_STATES)),
        before: int | None = Query(None, ge=0, le=2**53, description="the `number` of the last job that was listed"),
        limit: int = Query(50, ge=1, le=500),
    ) -> dict[str, Any]:
        """The jobs of the key, the newest first."""
        server = request.app.state.server
        owner = seen_by(server.keys.check(request, "jobs"))
        if state is not None and state not in JOB_STATES:
            message = f"state is {state[:40]!r}; allowed are {', '.join(JOB_STATES)}"
            raise ApiError(400, message, code="invalid", param="state")
        found = server.store.jobs.recent(owner, state=state, before=before, limit=limit)
        return {"jobs": [job_dict(server.store, job) for job in found]}

    @router.get("/jobs/{id}", operation_id="get_job")
    def job(request: Request, id: str) -> dict[str, Any]:
        """A job: its state, how far it is, and where its transcript is."""
        server = request.app.state.server
        return job_dict(server.store, _find(server.store, id, server.keys.check(request, "jobs")))

    @router.delete("/jobs/{id}", operation_id="cancel_job")
    def cancel(request: Request, id: str) -> dict[str, Any]:
        """Cancel a job that is not over; its recording is deleted."""
        server = request.app.state.server
        _find(server.store, id, server.keys.check(request, "jobs"))
        ended = server.store.cancel(id)
        if ended is None:
            raise _missing(id)
        if ended.state not in ("cancelled", "queued", "running"):
            message = f"the job is {ended.state} already; DELETE its transcript to have nothing left of it"
            raise ApiError(409, message, code="job_is_over")
        return job_dict(server.store, ended)

    @router.get("/jobs/{id}/events", operation_id="watch_job", response_class=StreamingResponse)
    async def events(request: Request, id: str) -> StreamingResponse:
        """The job whenever something changes, as server-sent events `progress`, and at the end its state."""
        server = request.app.state.server
        caller = server.keys.check(request, "jobs")
        await asyncio.to_thread(_find, server.store, id, caller)
        return StreamingResponse(
            _events(server, id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return router


def seen_by(caller: Caller) -> str | None:
    """Whose rows a caller sees: its own, or with the scope `admin` those of all (None)."""
    return None if "admin" in caller.scopes else caller.name


def job_dict(store: Store, job: TranscriptionJob) -> dict[str, Any]:
    """A job as JSON."""
    error = None if job.error_code is None else {"code": job.error_code, "message": job.error_message}
    transcript_id = store.archive.id_of_job(job.id) if job.state == "done" else None
    return {
        "id": job.id,
        "object": "job",
        "number": job.number,
        "state": job.state,
        "name": job.name,
        "sha256": job.sha256,
        "url": job.url,
        "options": job.options,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempts": job.attempts,
        "progress": {"done_s": job.done_s, "known_s": job.known_s},
        "error": error,
        "transcript_id": transcript_id,
        "pipeline": store.pipeline_runs.about(job.id) if "pipeline" in job.options else None,
    }


async def _of_form(server: Any, caller: Caller, key: str | None, form: FormData) -> tuple[TranscriptionJob, bool]:
    upload = file_of(form)
    fields: dict[str, Any] = {}
    for name in form:
        if name == "file":
            continue
        values = [str(each) for each in form.getlist(name)]
        plain = name.removesuffix("[]")
        fields[plain] = values if name.endswith("[]") or len(values) > 1 else values[0]
    options = JobOptions.read(fields).asked()

    def submit() -> tuple[TranscriptionJob, bool]:
        server.pipelines.check(options.get("pipeline"))
        transcribe_arguments(options, server.service.model)
        name = plain_name(upload.filename)
        store: Store = server.store
        with disk_errors(), store.recordings.incoming() as path:
            sha256 = copy_hashed(upload.file, path)
            if not path.stat().st_size:
                raise ApiError(400, "the file is empty", code="audio_unreadable", param="file")
            id = new_id("job")
            store.recordings.keep(path, id)
        new = NewJob(caller.name, name, options, sha256=sha256, id=id)
        return _submit(store, new, key, {"sha256": sha256, "name": name, "options": options})

    return await asyncio.to_thread(submit)


async def _of_json(server: Any, caller: Caller, key: str | None, body: dict[str, Any]) -> tuple[TranscriptionJob, bool]:
    store: Store = server.store
    source: dict[str, Any] = {name: body.pop(name) for name in ("url", "upload") if name in body}
    if len(source) != 1 or not isinstance(next(iter(source.values())), str):
        raise ApiError(400, "JSON of a job has either url or upload, a text", code="missing", param="url")
    options = JobOptions.read(body).asked()
    digest: dict[str, Any] = {**source, "options": options}

    def submit() -> tuple[TranscriptionJob, bool]:
        server.pipelines.check(options.get("pipeline"))
        transcribe_arguments(options, server.service.model)
        if "url" in source:
            check_url(source["url"], server.options)
            new = NewJob(caller.name, name_of_url(source["url"])[:200], options, url=source["url"])
            return _submit(store, new, key, digest)
        try:  # a request that comes again finds the job, and the upload no more
            known = None if key is None else store.jobs.known(caller.name, key, _digest(digest))
        except KeyReusedError:
            raise _reused() from None
        if known is not None:
            return known, False
        upload = find_upload(store, source["upload"], caller.name)
        if upload.received < upload.length or not upload.length:
            message = f"{upload.received:,} of {upload.length:,} bytes have come; send the rest first"
            raise ApiError(409, message, code="upload_incomplete", param="upload")
        id = new_id("job")
        with disk_errors():
            store.recordings.keep_upload(upload.id, id)
            sha256 = upload.sha256 or sha256_of(store.recordings.audio(id))
        job, is_new = _submit(store, NewJob(caller.name, upload.name, options, sha256=sha256, id=id), key, digest)
        store.uploads.forget(upload.id)
        store.recordings.upload(upload.id).unlink(missing_ok=True)
        return job, is_new

    return await asyncio.to_thread(submit)


def _submit(store: Store, new: NewJob, key: str | None, request: Mapping[str, Any]) -> tuple[TranscriptionJob, bool]:
    """Add a job whose recording is in place; where there is none more, the recording goes again."""
    is_new = False
    try:
        job, is_new = store.jobs.submit(new, key, _digest(request))
        return job, is_new
    except KeyReusedError:
        raise _reused() from None
    except QueueFullError:
        message = f"{store.jobs.options.max_queued:,} jobs wait, which is the most; try again later"
        raise ApiError(429, message, code="queue_full", retry_after_s=60) from None
    finally:
        if not is_new and new.id is not None:
            store.recordings.drop_audio(new.id)


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


async def _json(request: Request) -> dict[str, Any]:
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _MOST_JSON:
            raise ApiError(413, f"JSON of a job has at most {_MOST_JSON:,} bytes", code="too_large")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is no JSON object", code="invalid")
    return body


async def _events(server: Any, id: str) -> AsyncIterator[str]:
    sent, silent_s = "", 0.0
    while True:
        job = await asyncio.to_thread(server.store.jobs.get, id)
        if job is None:
            return
        data = json.dumps(await asyncio.to_thread(job_dict, server.store, job))
        if job.is_over:
            yield f"event: {job.state}\ndata: {data}\n\n"
            return
        if data != sent:
            sent, silent_s = data, 0.0
            yield f"event: progress\ndata: {data}\n\n"
        elif silent_s >= _KEEP_ALIVE_S:
            silent_s = 0.0
            yield ": still here\n\n"
        if server.service.is_draining:
            return
        await asyncio.sleep(_EVENT_S)
        silent_s += _EVENT_S


def _find(store: Store, id: str, caller: Caller) -> TranscriptionJob:
    job: TranscriptionJob | None = store.jobs.get(id, seen_by(caller))
    if job is None:
        raise _missing(id)
    return job


def _missing(id: str) -> ApiError:
    return ApiError(404, f"there is no job {id[:64]!r}", code="no_such_job")


def _reused() -> ApiError:
    message = "this Idempotency-Key came with another request before; take a new key for a new job"
    return ApiError(409, message, code="idempotency_key_reused", param="Idempotency-Key")


_LINKED = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("get_job", "watch_job", "cancel_job")
}
_OPTIONS = JobOptions.model_json_schema()["properties"]
_BODY = {
    "responses": {"202": {"description": "The job.", "links": _LINKED}},
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, **_OPTIONS},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"url": {"type": "string"}, "upload": {"type": "string"}, **_OPTIONS},
                }
            },
        },
    },
}
