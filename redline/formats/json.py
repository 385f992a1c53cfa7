"""JSON of a transcript, as docs/transcript.schema.json describes it, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints

from redline.errors import DataError
from redline.formats.format import RenderOptions
from redline.types import Transcript


def render_json(transcript: Transcript, options: RenderOptions) -> str:
    return json.dumps(transcript.to_dict(options.all_edits), ensure_ascii=False, indent=2) + "\n"


def parse_transcript_json(text: str) -> Transcript:
    return transcript_from_dict(json.loads(text))


def transcript_from_dict(values: Mapping[str, Any]) -> Transcript:
    """Inverse of `Transcript.to_dict`; raises `DataError` naming the first value that does not fit."""
    try:
        transcript: Transcript = value_of(Transcript, values, "transcript")
    except TypeError as error:
        raise DataError(f"{error}; docs/transcript.schema.json says what is allowed") from error
    return transcript


def value_of(kind: Any, value: Any, place: str) -> Any:
    """A JSON value as a type: a dataclass, tuple[X, ...], X | None, Literal, str, float or int.

    Raises `TypeError` naming the first that does not fit, `place` in front of its name.
    """
    try:
        return _reader_of(kind)(value)
    except _MisfitError as misfit:
        raise TypeError(f"{place}{misfit.place} is {misfit.value!r:.60}") from None


class _MisfitError(Exception):
    """A value that does not fit, and where it is."""

    def __init__(self, value: Any, place: str = "") -> None:
        self.value, self.place = value, place


@cache
def _reader_of(kind: Any) -> Callable[[Any], Any]:
    """What takes a JSON value for a type, worked out once: manifests have millions of values."""
    arguments = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass_reader(kind)
    if get_origin(kind) is tuple:
        return partial(_read_list, _reader_of(arguments[0]))
    if type(None) in arguments:
        inner = _reader_of(arguments[0])
        return lambda value: None if value is None else inner(value)

    def read(value: Any) -> Any:
        if type(value) is kind or (kind is float and type(value) is int) or value in arguments:
            return value
        raise _MisfitError(value)

    return read


def _read_list(read: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _MisfitError(value)
    items = []
    for at, each in enumerate(value):
        try:
            items.append(read(each))
        except _MisfitError as misfit:
            misfit.place = f"[{at}]{misfit.place}"
            raise
    return tuple(items)


def _dataclass_reader(kind: type) -> Callable[[Any], Any]:
    readers = {name: _reader_of(hint) for name, hint in get_type_hints(kind).items()}

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _MisfitError(value)
        fields = {}
        for key, each in value.items():
            try:
                fields[key] = readers.get(key, _refuse)(each)
            except _MisfitError as misfit:
                misfit.place = f".{key}{misfit.place}"
                raise
        return kind(**fields)

    return read


def _refuse(value: Any) -> Any:
    raise _MisfitError(value)
