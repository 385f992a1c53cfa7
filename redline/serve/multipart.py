"""Multipart forms: files go to disk as they come, fields stay in memory, both within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from redline.serve.api_errors import ApiError

_MOST_FIELDS = 10_000
_MOST_FIELD_BYTES = 16 << 20  # of all together: four samples of voices, as data URLs, and keywords


class _BoundedParser(MultiPartParser):
    """Starlette's, which bounds each field, with a bound on all fields together."""

    spool_max_size = 64 << 10
    """Bytes of a file that are held in memory before it goes to the folder of temporary files (TMPDIR)."""

    def __init__(self, request: Request, most_files: int) -> None:
        super().__init__(
            request.headers,
            request.stream(),
            max_files=most_files,
            max_fields=_MOST_FIELDS,
            max_part_size=_MOST_FIELD_BYTES,
        )
        self._held = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._held += end - start
            if self._held > _MOST_FIELD_BYTES:
                raise MultiPartException(f"the fields have more than {_MOST_FIELD_BYTES:,} bytes, which is the most")
        super().on_part_data(data, start, end)


@asynccontextmanager
async def multipart_form(request: Request, most_files: int = 8) -> AsyncIterator[FormData]:
    """The form in the body of a request; its files are gone behind it. Raises `ApiError` for what is no form.

    Forms are read here and nowhere else: `Request.form` holds a megabyte of each file and any number of fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        seen = f"the body is {kind[:80] or 'of no named type'}"
        raise ApiError(415, f"{seen}; send multipart/form-data", code="not_multipart")
    try:
        form = await _BoundedParser(request, most_files).parse()
    except MultiPartException as error:
        raise ApiError(400, error.message, code="bad_form") from error
    except ValueError as error:  # python-multipart's own
        raise ApiError(400, f"the body is no multipart/form-data: {error}", code="bad_form") from error
    try:
        yield form
    finally:
        await form.close()


def file_of(form: FormData) -> UploadFile:
    """The recording, which is the part named file; raises `ApiError` where there is none, or several."""
    parts = form.getlist("file")
    if len(parts) != 1 or not isinstance(parts[0], UploadFile):
        what = "no file" if not parts else "a text in place of the file" if len(parts) == 1 else f"{len(parts)} files"
        message = f"{what}; send one recording as the part named file, with a file name"
        raise ApiError(400, message, code="missing", param="file")
    return parts[0]


def field_values(form: FormData, lists: frozenset[str]) -> dict[str, Any]:
    """The fields of a form but for the file, as OpenAI's clients write them.

    `name[]` and `name`, any number of times, is an item of one of `lists`; `name[key]` is a key of an object.
    Raises `ApiError` for a field that comes twice, or is a file.
    """
    values: dict[str, Any] = {}
    for field, value in form.multi_items():
        name, bracket, rest = field.partition("[")
        key = rest.removesuffix("]")
        if field == "file":
            continue
        if isinstance(value, UploadFile):
            raise ApiError(400, f"{field[:80]} is a file; it is a field", code="invalid", param=name)
        if name in lists and not key:
            values.setdefault(name, []).append(value)
            continue
        place, last = (values, name) if not (bracket and key) else (values.setdefault(name, {}), key)
        if not isinstance(place, dict) or last in place:
            raise ApiError(400, f"{field[:80]} is given twice; give it once", code="invalid", param=name)
        place[last] = value
    return values
