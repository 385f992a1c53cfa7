"""The archive over HTTP: search, read, export, hear, correct and delete transcripts."""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from redline.errors import DataError
from redline.formats import SUBTITLE_PRESETS, TRANSCRIPT_FORMATS, render_transcript
from redline.serve.api_errors import ApiError
from redline.serve.corrections_export import export_corrections
from redline.serve.jobs_api import seen_by
from redline.serve.store.archive import ArchivedTranscript, ArchiveEntry, labels_of
from redline.serve.store.corrections import Correction
from redline.serve.store.store import Store

_MEDIA_TYPES = {
    "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}


class WordCorrection(BaseModel):
    """`count` words of the machine's text of a segment, from `word` on, are really `text`; counted from 0."""

    model_config = ConfigDict(extra="forbid")

    segment: int = Field(ge=0, le=2**31 - 1)
    word: int = Field(ge=0, le=2**31 - 1)
    count: int = Field(1, ge=1, le=1000)
    text: str = Field(max_length=1000)


class TranscriptChanges(BaseModel):
    """What people know better: the name of the recording, names of speakers by label (null takes one back), words."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=200)
    speakers: dict[str, str | None] = Field(default_factory=dict, max_length=1000)
    corrections: list[WordCorrection] = Field(default_factory=list, max_length=10_000)


def archive_router() -> APIRouter:
    """Routes of the archive; each needs a key of the scope `archive` and sees the transcripts of that key only."""
    router = APIRouter(prefix="/v1", tags=["archive"])

    @router.get("/transcripts")
    def transcripts(
        request: Request,
        q: str | None = Query(None, max_length=500, description='words, and "phrases in quotes"; without: all'),
        before: int | None = Query(None, ge=0, le=2**53, description="the `number` of the last that was listed"),
        offset: int = Query(0, ge=0, le=1_000_000, description="hits of `q` to leave out"),
        limit: int = Query(50, ge=1, le=500),
    ) -> dict[str, Any]:
        """The transcripts, the newest first; or the segments in which all words of `q` are said."""
        server, owner = _asked(request)
        if q is None:
            found = server.store.archive.entries(owner, before=before, limit=limit)
            return {"transcripts": [_entry_dict(entry) for entry in found]}
        hits = server.store.archive.search(q, owner, limit=limit, offset=offset)
        return {"hits": [hit.to_dict() for hit in hits]}

    @router.get("/transcripts/{id}")
    def transcript(request: Request, id: str) -> dict[str, Any]:
        """A transcript: as it reads now, what the machine wrote, and the corrections between the two."""
        server, owner = _asked(request)
        return _dict(_find(server.store, id, owner))

    @router.patch("/transcripts/{id}")
    def change(request: Request, id: str, changes: TranscriptChanges) -> dict[str, Any]:
        """Rename the recording or its speakers, correct words."""
        server, owner = _asked(request)
        corrections = [Correction(each.segment, each.word, each.text, each.count) for each in changes.corrections]
        try:
            found = server.store.archive.change(
                id, owner, name=changes.name, speakers=changes.speakers, corrections=corrections
            )
        except DataError as error:
            raise ApiError(400, str(error), code="invalid") from error
        if found is None:
            raise _missing(id)
        return _dict(found)

    @router.delete("/transcripts/{id}", status_code=204)
    def delete(request: Request, id: str) -> Response:
        """Delete a transcript with its recording, its job and all that was made of them."""
        server, owner = _asked(request)
        if not server.store.delete_transcript(id, owner):
            raise _missing(id)
        return Response(status_code=204)

    @router.get("/transcripts/{id}/export")
    def export(
        request: Request,
        id: str,
        format: str = Query("txt", description=", ".join(TRANSCRIPT_FORMATS)),
        style: str | None = Query(None, description="of subtitles: " + ", ".join(SUBTITLE_PRESETS)),
        edits: bool = Query(False, description="the draft's edits as tracked changes, in docx and md"),
        original: bool = Query(False, description="the machine's text, without corrections and names"),
    ) -> Response:
        """A transcript as a file of any format."""
        server, owner = _asked(request)
        found = _find(server.store, id, owner)
        try:
            rendered = render_transcript(
                found.machine if original else found.transcript,
                format,
                found.entry.name,
                all_edits=edits and format == "json",
                show_edits=edits,
                subtitles=style,
            )
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid", param="format") from error
        named = f"filename=\"{id}.{format}\"; filename*=utf-8''{quote(f'{found.entry.name}.{format}', safe='')}"
        head = {"Content-Disposition": f"attachment; {named}", "X-Content-Type-Options": "nosniff"}
        return Response(rendered, media_type=_MEDIA_TYPES.get(format, "text/plain; charset=utf-8"), headers=head)

    @router.get("/transcripts/{id}/audio", response_class=FileResponse)
    def audio(request: Request, id: str) -> FileResponse:
        """The recording of a transcript, all of it or the part that `Range` asks for."""
        server, owner = _asked(request)
        entry = _find(server.store, id, owner).entry
        path = None if entry.job_id is None else server.store.recordings.audio(entry.job_id)
        if not entry.has_audio or path is None or not path.is_file():
            raise ApiError(404, "the recording of this transcript was not kept", code="no_audio")
        job = None if entry.job_id is None else server.store.jobs.get(entry.job_id)
        uploaded_as = entry.name if job is None else job.name  # the name of a transcript may have changed
        guessed = mimetypes.guess_type(uploaded_as)[0] or ""
        kind = guessed if guessed.startswith(("audio/", "video/")) else "application/octet-stream"
        head = {"X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=kind, headers=head)

    @router.get("/corrections/export", response_class=FileResponse)
    def corrections(request: Request) -> FileResponse:
        """The corrected segments as data for `redline finetune`: a zip of clips and manifest.jsonl."""
        server, owner = _asked(request)
        path = export_corrections(server.store, owner)
        if path is None:
            raise ApiError(404, "nothing was corrected in a transcript whose recording was kept", code="no_corrections")
        remove = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type="application/zip", filename="corrections.zip", background=remove)

    return router


def _asked(request: Request) -> tuple[Any, str | None]:
    """The server, and whose transcripts are seen."""
    server = request.app.state.server
    return server, seen_by(server.keys.check(request, "archive"))


def _find(store: Store, id: str, owner: str | None) -> ArchivedTranscript:
    found = store.archive.get(id, owner)
    if found is None:
        raise _missing(id)
    return found


def _missing(id: str) -> ApiError:
    return ApiError(404, f"there is no transcript {id[:64]!r}", code="no_such_transcript")


def _entry_dict(entry: ArchiveEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "transcript",
        "number": entry.number,
        "name": entry.name,
        "job_id": entry.job_id,
        "created_at": entry.created_at,
        "sha256": entry.sha256,
        "duration_s": entry.duration_s,
        "language": entry.language,
        "model": entry.model,
        "has_audio": entry.has_audio,
    }


def _dict(found: ArchivedTranscript) -> dict[str, Any]:
    names = {label: found.speaker_names.get(label) for label in labels_of(found.machine)}
    return {
        **_entry_dict(found.entry),
        "speakers": names,
        "corrections": [each.to_dict() for each in found.corrections],
        "transcript": found.transcript.to_dict(all_edits=True),
        "machine": found.machine.to_dict(all_edits=True),
    }
