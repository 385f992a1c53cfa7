"""Uploads lie on disk, whatever their size."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from redline.serve.multipart import file_of, multipart_form


async def _is_on_disk(size: int) -> bool:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunks = [head, *(bytes(64 << 10) for _ in range(size // (64 << 10))), b"\r\n--b--\r\n"]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    async with multipart_form(Request({"type": "http", "method": "POST", "headers": headers}, receive)) as form:
        file = file_of(form)
        assert file.size == size
        rolled = bool(file.file._rolled)  # type: ignore[attr-defined]
    assert file.file.closed
    return rolled


def test_a_file_of_more_than_64_kib_is_on_disk_and_gone_behind_the_request() -> None:
    assert asyncio.run(_is_on_disk(128 << 10))
    assert not asyncio.run(_is_on_disk(64 << 10))
