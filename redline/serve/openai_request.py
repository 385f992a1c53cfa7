"""What OpenAI's clients may ask of a recording, and what that means to the loaded model.

Nothing that is asked is ignored: what the model cannot do is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from redline import audio, languages
from redline.audio import AudioOptions
from redline.errors import AudioError, UnsupportedTaskError
from redline.longform.session import SessionOptions
from redline.longform.vad import VadOptions
from redline.serve.api_errors import ApiError
from redline.transcribe_options import TranscribeOptions
from redline.transcriber import Transcriber
from redline.types import Task, Waveform

_MOST_VOICES = 4
_VOICE_S = (2.0, 10.0)
_LONGEST_PHRASE = 5  # words of a prompt that are a name or a term, and no sentence
_Form = TypeVar("_Form", bound="TranslationForm")


def _from_json(value: Any) -> Any:
    """An object may come as JSON; no text at all is none."""
    if not isinstance(value, str) or value == "auto":
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        return value


class ServerVad(BaseModel):
    """How speech is detected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["server_vad"]
    prefix_padding_ms: int | None = Field(None, ge=0, le=5_000, description="Sound kept before and behind speech.")
    silence_duration_ms: int | None = Field(None, ge=0, le=60_000, description="A pause that ends a chunk.")
    threshold: float | None = Field(None, gt=0.0, lt=1.0, description="Speech begins at this probability.")

    def session_options(self, usual: SessionOptions) -> SessionOptions:
        """The usual ones with what is given."""
        vad, window = usual.vad or VadOptions(), usual.window
        if self.threshold is not None:
            vad = replace(vad, onset=self.threshold, offset=self.threshold * vad.offset / vad.onset)
        if self.silence_duration_ms is not None:
            pause_s = self.silence_duration_ms / 1000
            vad = replace(vad, min_silence_s=min(vad.min_silence_s, pause_s))
            window = replace(window, join_s=pause_s)
        if self.prefix_padding_ms is not None:
            window = replace(window, pad_s=self.prefix_padding_ms / 1000)
        return replace(usual, vad=vad, window=window)


class TranslationForm(BaseModel):
    """The fields of `/v1/audio/translations` beside the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="A name of the loaded model; none is its own.")
    prompt: str | None = Field(None, description="Names and terms to expect, with commas between: more keywords.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0.0, le=1.0, description="Only 0: the most probable text is what is written.")
    store: bool | None = Field(
        None, description="Whether the archive keeps the transcript; none: as the server is set."
    )


class TranscriptionForm(TranslationForm):
    """The fields of `/v1/audio/transcriptions` beside the file."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"  # type: ignore[assignment]
    chunking_strategy: Annotated[Literal["auto"] | ServerVad | None, BeforeValidator(_from_json)] = Field(
        None, description="How speech is cut; auto and none are the usual way, an object (also as JSON) says how."
    )
    include: tuple[Literal["logprobs"], ...] = Field((), description="logprobs: the log of each word's confidence.")
    keywords: tuple[str, ...] = Field((), description="Names and terms to expect.")
    known_speaker_names: tuple[str, ...] = Field((), max_length=_MOST_VOICES)
    known_speaker_references: tuple[str, ...] = Field(
        (), max_length=_MOST_VOICES, description="Data URLs of samples of their voices, 2 to 10 s each."
    )
    language: str | None = Field(None, description="What is spoken: en, English, en-US.")
    languages: tuple[str, ...] = Field((), description="What may be spoken.")
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = Field((), description="Of verbose_json.")
    stream: Annotated[bool, BeforeValidator(lambda value: value if value != "" else False)] = Field(
        False, description="Server-sent events; with json and diarized_json."
    )


LISTS = frozenset(
    ("include", "keywords", "known_speaker_names", "known_speaker_references", "languages", "timestamp_granularities")
)
"""Fields that are written `name[]`, once for each item."""


def form_schema(form: type[TranslationForm]) -> dict[str, Any]:
    """OpenAPI's description of a request with such a form."""
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    fields = {f"{name}[]" if name in LISTS else name: each for name, each in schema["properties"].items()}
    if "chunking_strategy" in fields:
        fields["chunking_strategy"] = {"type": "string", "description": fields["chunking_strategy"]["description"]}
    file = {"type": "string", "format": "binary", "description": "The recording, in any format that is read here."}
    whole = {"type": "object", "required": ["file"], "properties": {"file": file, **fields}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": whole}}}}


def checked_form(form: type[_Form], values: Mapping[str, Any]) -> _Form:
    """The fields of a request; raises `ApiError` that names the one that is wrong."""
    try:
        read = form.model_validate(dict(values))
    except ValidationError as error:
        raise form_error(error) from error
    if read.temperature:
        message = f"temperature is {read.temperature:g}; nothing is sampled here, so 0 is allowed, or leave it out"
        raise ApiError(400, message, code="unsupported", param="temperature")
    if isinstance(read, TranscriptionForm):
        _check_together(read)
    return read


def form_error(error: ValidationError) -> ApiError:
    """What is wrong; of an object that is no word either, the key."""
    first = max(error.errors(), key=lambda each: len(each["loc"]))
    places = [str(part) for part in first["loc"] if not isinstance(part, int) and part not in ("ServerVad", "str")]
    name = ".".join(part for part in places if not part.startswith("literal["))
    message = f"{name}: {first['msg']}; it is {str(first['input'])[:80]!r}"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{name[:80]}: there is no such parameter; leave it out", code="unknown", param=name[:80])
    return ApiError(400, message, code="invalid", param=name or None)


def _check_together(form: TranscriptionForm) -> None:
    """Raises `ApiError` for what would be without effect."""
    kind = form.response_format

    def refuse(param: str, message: str) -> ApiError:
        return ApiError(400, message, code="invalid", param=param)

    if form.stream and kind not in ("json", "diarized_json"):
        raise refuse("stream", f"response_format is {kind}; json and diarized_json can be streamed")
    if form.include and kind != "json":
        raise refuse("include", f"response_format is {kind}; logprobs come with json only")
    if form.timestamp_granularities and kind != "verbose_json":
        raise refuse("timestamp_granularities", f"response_format is {kind}; they need verbose_json")
    if form.known_speaker_names and kind != "diarized_json":
        raise refuse("known_speaker_names", f"response_format is {kind}; speakers are told with diarized_json only")
    names, samples = form.known_speaker_names, form.known_speaker_references
    if len(names) != len(samples):
        raise refuse("known_speaker_references", f"{len(names)} names and {len(samples)} references; give one for each")
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise refuse("known_speaker_names", "each speaker needs a name of its own")


def transcribe_options(form: TranslationForm, model: Transcriber) -> TranscribeOptions:
    """The same as options of `Transcriber.transcribe`, but for samples of voices; raises `ApiError`."""
    if not isinstance(form, TranscriptionForm):
        return {"task": "translate", "target_language": "en", "keywords": prompt_keywords(form.prompt)}
    options: TranscribeOptions = {
        "language": asked_languages(form.language, form.languages, model),
        "keywords": [*form.keywords, *prompt_keywords(form.prompt)],
        "words": "word" in form.timestamp_granularities or bool(form.include),
        "speakers": form.response_format == "diarized_json",
    }
    if isinstance(form.chunking_strategy, ServerVad):
        options["session_options"] = form.chunking_strategy.session_options(model.options)
    return options


def asked_languages(language: str | None, possible: tuple[str, ...], model: Transcriber) -> list[str]:
    """Codes of the language that is spoken, or of several of which one is; raises `ApiError` for others."""
    known = model.languages

    def codes_of(names: tuple[str, ...], param: str) -> list[str]:
        codes = [code for name in names if (code := languages.code(name, known)) is not None]
        for code in codes:
            if known and code not in known:
                message = f"{model.name} does not know the language {code[:40]!r}; it knows {', '.join(known)}"
                raise ApiError(400, message, code="unsupported_language", param=param)
        return list(dict.fromkeys(codes))

    one = codes_of((language,) if language else (), "language")
    several = codes_of(possible, "languages")
    if one and several and one[0] not in several:
        raise ApiError(400, f"language {one[0]} is not among languages", code="invalid", param="languages")
    spoken, choice = languages.language_candidates(one or several, known)
    try:
        model.check(Task(language=spoken, languages=choice))
    except UnsupportedTaskError as error:
        raise ApiError(400, str(error), code="unsupported", param="languages") from error
    return one or several


def prompt_keywords(prompt: str | None) -> list[str]:
    """The names and terms of a prompt, which are keywords here; raises `ApiError` for sentences."""
    phrases = [part.strip(" \t\r.\"'") for part in re.split(r"[,;\n]|:\s", prompt or "")]
    for phrase in phrases:
        if len(phrase.split()) > _LONGEST_PHRASE:
            message = (
                f"prompt has the sentence {phrase[:60]!r}; it is read as names and terms of up to {_LONGEST_PHRASE} "
                "words with commas between. A recording is transcribed whole, however long, so leave earlier text out"
            )
            raise ApiError(400, message, code="unsupported", param="prompt")
    return [phrase for phrase in phrases if phrase]


def known_voices(form: TranslationForm) -> dict[str, Waveform]:
    """Samples of known speakers' voices by name; reads them, which takes a while. Raises `ApiError`."""
    if not isinstance(form, TranscriptionForm):
        return {}
    samples = enumerate(form.known_speaker_references)
    return {form.known_speaker_names[number]: _voice(number, url) for number, url in samples}


def _voice(number: int, url: str) -> Waveform:
    def refuse(message: str) -> ApiError:
        return ApiError(400, f"reference {number}: {message}", code="invalid", param="known_speaker_references")

    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise refuse(f"it begins with {url[:40]!r}; send a data URL, data:audio/wav;base64,...")
    try:
        wave = audio.load(base64.b64decode(data, validate=True), options=AudioOptions(max_duration_s=60.0))
    except binascii.Error as error:
        raise refuse(f"what is behind the comma is not base64: {error}") from error
    except AudioError as error:
        raise refuse(str(error)) from error
    if not _VOICE_S[0] <= wave.duration <= _VOICE_S[1]:
        raise refuse(f"it has {wave.duration:g} s of sound; allowed are {_VOICE_S[0]:g} to {_VOICE_S[1]:g} s")
    return wave
