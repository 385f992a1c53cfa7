"""JSON of a transcript, as docs/transcript.schema.json describes it, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
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
    arguments = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        hints = _type_hints(kind)
        return kind(**{key: value_of(hints.get(key), each, f"{place}.{key}") for key, each in value.items()})
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(value_of(arguments[0], each, f"{place}[{at}]") for at, each in enumerate(value))
    if type(None) in arguments:
        return None if value is None else value_of(arguments[0], value, place)
    if type(value) is kind or (kind is float and type(value) is int) or value in arguments:
        return value
    raise TypeError(f"{place} is {value!r:.60}")


_type_hints = cache(get_type_hints)
