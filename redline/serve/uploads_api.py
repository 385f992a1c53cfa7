"""Resumable uploads over HTTP: a recording comes in pieces, each at its offset, over any number of connections."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from redline.files import sha256_of
from redline.serve.api_errors import ApiError
from redline.serve.store.store import Store
from redline.serve.store.uploads import Upload

_PIECE = 1 << 20
_LINKED = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("get_upload", "continue_upload", "drop_upload")
}


class NewUpload(BaseModel):
    """What a client says of a recording before it sends it."""

    model_config = ConfigDict(extra="forbid")

    length: int = Field(ge=1, description="bytes of the whole recording")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of the whole recording, in hex")
    name: str = Field("recording", min_length=1, max_length=200)


def uploads_router() -> APIRouter:
    """Routes of uploads; each needs a key of the scope `jobs`."""
    router = APIRouter(prefix="/v1", tags=["jobs"])

    @router.post("/uploads", status_code=201, openapi_extra={"responses": {"201": {"links": _LINKED}}})
    def begin(request: Request, body: NewUpload) -> JSONResponse:
        """Announce a recording; its bytes follow by PATCH."""
        server = request.app.state.server
        caller = server.keys.check(request, "jobs")
        most = server.options.max_upload_bytes
        if body.length > most:
            raise ApiError(
                413, f"length is {body.length:,}; allowed are {most:,} bytes", code="too_large", param="length"
            )
        store: Store = server.store
        upload = store.uploads.begin(
            caller.name, body.name.replace("\\", "/").rsplit("/", 1)[-1], body.length, body.sha256
        )
        with disk_errors():
            store.recordings.upload(upload.id).touch(0o600)
        return JSONResponse(_dict(upload), 201, {"Location": f"/v1/uploads/{upload.id}", "Upload-Offset": "0"})

    @router.head("/uploads/{id}")
    @router.get("/uploads/{id}", operation_id="get_upload")
    def offset(request: Request, id: str) -> JSONResponse:
        """How much has come: `Upload-Offset` is where the next piece begins."""
        server = request.app.state.server
        upload = find_upload(server.store, id, server.keys.check(request, "jobs").name)
        return JSONResponse(_dict(upload), headers=_head(upload) | {"Cache-Control": "no-store"})

    @router.patch("/uploads/{id}", operation_id="continue_upload", status_code=204)
    async def piece(request: Request, id: str) -> Response:
        """The bytes from `Upload-Offset` on; a piece that fails its `Upload-Checksum: sha256 BASE64` is not taken."""
        server = request.app.state.server
        caller = server.keys.check(request, "jobs")
        store: Store = server.store
        upload = await asyncio.to_thread(find_upload, store, id, caller.name)
        offset, checksum = request.headers.get("upload-offset", ""), _checksum(request)
        if not offset.isdecimal() or len(offset) > 18:
            message = f"Upload-Offset is {offset[:40]!r}; it is where the piece begins, in bytes"
            raise ApiError(400, message, code="invalid", param="Upload-Offset")
        with disk_errors(), store.recordings.upload(upload.id).open("r+b") as file:
            _lock(file)
            upload = await asyncio.to_thread(find_upload, store, id, caller.name)  # as the one before left it
            if int(offset) != upload.received:
                message = f"the piece begins at {int(offset):,}, and {upload.received:,} bytes have come; go on there"
                raise ApiError(409, message, code="wrong_offset", param="Upload-Offset")
            upload = await _received(request, store, upload, file, checksum)
            if upload.received == upload.length and upload.sha256 is not None:
                await asyncio.to_thread(_check_whole, store, upload)
        return Response(status_code=204, headers=_head(upload))

    @router.delete("/uploads/{id}", operation_id="drop_upload", status_code=204)
    def forget(request: Request, id: str) -> Response:
        """Forget an upload."""
        server = request.app.state.server
        upload = find_upload(server.store, id, server.keys.check(request, "jobs").name)
        _forget(server.store, upload)
        return Response(status_code=204)

    return router


def find_upload(store: Store, id: str, owner: str) -> Upload:
    """An upload of a caller; raises `ApiError` for one that is not there, or has expired."""
    upload = store.uploads.get(id, owner)
    if upload is None:
        raise ApiError(404, f"there is no upload {id[:64]!r}", code="no_such_upload")
    if store.uploads.has_expired(upload):
        raise ApiError(410, "the upload has expired; begin a new one", code="upload_expired")
    return upload


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raises `ApiError` where the disk takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ApiError(
                507, "the server's disk is full; try again later", code="disk_full", retry_after_s=60
            ) from error
        if error.errno == errno.ENOENT:  # deleted meanwhile
            raise ApiError(404, "the upload is gone; begin a new one", code="no_such_upload") from error
        raise


async def _received(request: Request, store: Store, upload: Upload, file: BinaryIO, checksum: bytes | None) -> Upload:
    """Take a piece; what has come when a client leaves stays, unless a checksum was to be met."""
    at, digest, pending = upload.received, hashlib.sha256(), b""
    file.seek(at)
    is_whole = False

    def write(data: bytes) -> None:
        nonlocal at
        file.write(data)
        digest.update(data)
        at += len(data)

    def settled() -> Upload:
        nonlocal at
        write(pending)
        if checksum is not None and not (is_whole and digest.digest() == checksum):
            at = upload.received
        file.flush()
        file.truncate(at)
        os.fsync(file.fileno())
        return store.uploads.advance(upload, at)

    try:
        async for data in request.stream():
            pending += data
            if at + len(pending) > upload.length:
                pending = b""
                message = f"the piece goes beyond the {upload.length:,} bytes that were announced"
                raise ApiError(413, message, code="too_large")
            if len(pending) >= _PIECE:
                ready, pending = pending, b""
                await asyncio.to_thread(write, ready)
        is_whole = True
    except ClientDisconnect:
        raise ApiError(499, "the client has left", code="client_left") from None
    finally:
        result = await asyncio.shield(asyncio.to_thread(settled))
    if checksum is not None and digest.digest() != checksum:
        message = "the piece does not have the checksum that was sent with it; send it again"
        raise ApiError(460, message, code="checksum_mismatch", param="Upload-Checksum")
    return result


def _check_whole(store: Store, upload: Upload) -> None:
    if sha256_of(store.recordings.upload(upload.id)) != upload.sha256:
        _forget(store, upload)
        message = "the whole recording does not have the SHA-256 that was announced; upload it again"
        raise ApiError(460, message, code="checksum_mismatch", param="sha256")


def _forget(store: Store, upload: Upload) -> None:
    store.uploads.forget(upload.id)
    store.recordings.upload(upload.id).unlink(missing_ok=True)


def _lock(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "another connection is sending to this upload; wait for it"
        raise ApiError(423, message, code="upload_busy", retry_after_s=1) from None


def _checksum(request: Request) -> bytes | None:
    given = request.headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, value = given.strip().partition(" ")
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if algorithm.lower() != "sha256" or len(digest) != 32:
        message = "Upload-Checksum is sha256, a space, and the checksum in base64"
        raise ApiError(400, message, code="invalid", param="Upload-Checksum")
    return digest


def _head(upload: Upload) -> dict[str, str]:
    return {"Upload-Offset": str(upload.received), "Upload-Length": str(upload.length)}


def _dict(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "upload",
        "name": upload.name,
        "length": upload.length,
        "received": upload.received,
        "sha256": upload.sha256,
        "expires_at": upload.expires_at,
    }
