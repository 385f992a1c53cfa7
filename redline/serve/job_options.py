"""What may be asked of a job: the options of `Transcriber.transcribe` that a program can send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from redline.errors import UnsupportedTaskError
from redline.serve.api_errors import ApiError
from redline.transcriber import Transcriber
from redline.types import listed

_MOST_KEYWORDS, _LONGEST_KEYWORD = 1000, 200


class JobOptions(BaseModel):
    """Options of a transcription, as for the command line; fields of a form are read as JSON's values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    target_language: str | None = None
    words: bool | None = None
    """Times of words; where nobody says, they are asked for if the model can."""
    speakers: bool | int | str = False
    channels: Literal["mix", "split"] = "mix"
    keywords: tuple[str, ...] = ()
    prompt: str | None = None
    vad: bool = True
    digits: bool = False
    pipeline: str | None = None
    """What follows the transcript: a name of `GET /v1/pipelines`."""

    @field_validator("keywords", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return listed(value) if isinstance(value, str) else value

    @field_validator("keywords")
    @classmethod
    def _bounded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > _MOST_KEYWORDS or any(len(each) > _LONGEST_KEYWORD for each in value):
            raise ValueError(f"at most {_MOST_KEYWORDS} keywords of {_LONGEST_KEYWORD} characters")
        return value

    @field_validator("speakers", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, str):
            known: dict[str, Any] = {"true": True, "false": False}
            return known.get(value.lower(), int(value) if value.isdecimal() and len(value) < 4 else value)
        return value

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> JobOptions:
        """Options from JSON or a form; raises `ApiError` naming the first that is not allowed."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            allowed = ", ".join(cls.model_fields)
            hint = f"; allowed are {allowed}" if first["type"] == "extra_forbidden" else ""
            raise ApiError(422, f"{where}: {first['msg']}{hint}", code="invalid", param=where) from None

    def asked(self) -> dict[str, Any]:
        """Those that somebody set, as JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


def transcribe_arguments(options: Mapping[str, Any], model: Transcriber) -> dict[str, Any]:
    """What `model.transcribe` gets for the options of a job; raises `RedlineError` for what the model cannot do."""
    arguments = dict(options)
    arguments.pop("pipeline", None)
    wants_words = arguments.pop("words", None)
    if wants_words is not None:
        arguments["words"] = wants_words
        model.transcribe_each([], **arguments)
        return arguments
    try:
        model.transcribe_each([], **arguments, words=True)
        return arguments | {"words": True}
    except UnsupportedTaskError:
        model.transcribe_each([], **arguments)
        return arguments
