"""Parameters of Deepgram's `/v1/listen`: what is asked for, and what cannot be done, told by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from redline.serve.api_errors import ApiError
from redline.transcribe_options import TranscribeOptions

ENCODINGS = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}
"""Encodings of samples without a container, and their bytes a sample; linear32 is float."""
_IN_CONTAINERS = {"flac", "ogg-opus"}  # what they are is seen in the bytes
_WEIGHTED = re.compile(r"^(?P<term>.*\S):(?P<weight>[+-]?\d+(\.\d+)?)$")
_COMMON = frozenset(
    {"model", "version", "language", "language_hint", "punctuate", "smart_format", "numerals", "diarize"}
    | {"diarize_model", "keywords", "keyterm", "multichannel", "encoding", "sample_rate", "channels", "tag", "extra"}
    | {"mip_opt_out", "filler_words"}
)
_OF_FILES = ["utterances", "utt_split", "detect_language"]
_OF_STREAMS = ["interim_results", "endpointing", "utterance_end_ms", "vad_events", "no_delay"]
_NOT_DONE = frozenset(
    {"callback", "callback_method", "redact", "replace", "search", "summarize", "sentiment", "topics", "custom_topic"}
    | {"custom_topic_mode", "intents", "custom_intent", "custom_intent_mode", "detect_entities", "dictation"}
    | {"measurements", "profanity_filter", "paragraphs"}
)
"""What Deepgram can do and this server cannot: refused where it is asked for, since the text would be another."""


@dataclass(frozen=True)
class ListenOptions:
    """One request or stream, as its query says; the defaults are Deepgram's."""

    model: str = ""
    language: str | tuple[str, ...] | None = None
    """None: the model decides; of several it decides which."""
    detect_language: bool = False
    punctuate: bool = False
    numerals: bool = False
    diarize: bool = False
    multichannel: bool = False
    utterances: bool = False
    utt_split: float = 0.8
    """Seconds of a pause between two utterances."""
    keywords: tuple[str, ...] = ()
    """As Redline writes them: with ` :2` for a weight."""
    encoding: str | None = None
    """Of samples without a container."""
    sample_rate: int | None = None
    channels: int = 1
    interim_results: bool = False
    endpointing_s: float | None = None
    """Seconds of a pause behind which text is final; None is the server's own."""
    tells_ends: bool = True
    """Whether `speech_final` is told (`endpointing` is not false)."""
    utterance_end_s: float | None = None
    vad_events: bool = False
    tags: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    warnings: tuple[dict[str, str], ...] = ()
    """Parameters that change nothing here, and why."""

    def transcribe_options(self) -> TranscribeOptions:
        """The same for a recording."""
        options: TranscribeOptions = {"words": True, "keywords": self.keywords, "digits": self.numerals}
        if self.language is not None:
            options["language"] = self.language
        if self.multichannel:
            options["channels"] = "split"
        elif self.diarize:
            options["speakers"] = True
        return options


def read_listen_options(query: Iterable[tuple[str, str]], *, streams: bool) -> ListenOptions:
    """The options of a query; raises `ApiError` for a parameter that is unknown, wrong, or cannot be done."""
    given: dict[str, list[str]] = {}
    for name, value in query:
        given.setdefault(name, []).append(value)
    known = {*_COMMON, *(_OF_STREAMS if streams else _OF_FILES)}
    for name, values in given.items():
        if name in _NOT_DONE:
            if values != ["false"]:
                raise _refused(name, f"{name} is not available on this server; leave it out")
        elif name not in known:
            where = "in a stream" if streams else "for a recording"
            raise _refused(name, f"{name} is no parameter {where}; allowed are {', '.join(sorted(known))}")
    query_of = _Query(given)
    formats = query_of.flag("smart_format")
    language = query_of.one("language", str)
    detected = given.get("detect_language", [])
    several = () if set(detected) <= {"true", "false"} else tuple(detected)
    detects = bool(several) or query_of.flag("detect_language")
    diarize_model = query_of.one("diarize_model", str)
    options = ListenOptions(
        model=query_of.one("model", str) or "",
        language=several or (None if language == "multi" or detects else language),
        detect_language=detects,
        punctuate=formats or query_of.flag("punctuate"),
        numerals=formats or query_of.flag("numerals"),
        diarize=query_of.flag("diarize") or diarize_model is not None,
        multichannel=query_of.flag("multichannel"),
        utterances=query_of.flag("utterances"),
        utt_split=query_of.one("utt_split", float, 0.8),
        keywords=(*map(_weighted, given.get("keywords", [])), *given.get("keyterm", [])),
        encoding=_encoding(query_of.one("encoding", str), streams),
        sample_rate=query_of.one("sample_rate", int),
        channels=query_of.one("channels", int, 1),
        interim_results=query_of.flag("interim_results"),
        endpointing_s=_milliseconds(query_of, "endpointing"),
        tells_ends=given.get("endpointing") != ["false"],
        utterance_end_s=_milliseconds(query_of, "utterance_end_ms"),
        vad_events=query_of.flag("vad_events"),
        tags=tuple(given.get("tag", [])),
        extra=tuple(given.get("extra", [])),
        warnings=tuple(_warnings(given, query_of)),
    )
    if options.encoding is not None and options.sample_rate is None:
        message = f"encoding is {options.encoding}, which does not tell its rate; give sample_rate"
        raise _refused("sample_rate", message)
    if options.multichannel and options.diarize:
        message = "multichannel and diarize together: each channel is one speaker; leave one of them out"
        raise _refused("diarize", message)
    return options


class _Query:
    """Values by the names of parameters."""

    def __init__(self, given: dict[str, list[str]]) -> None:
        self._given = given

    def one(self, name: str, kind: Callable[[str], Any], default: Any = None) -> Any:
        """The value of a parameter that may be given once."""
        values = self._given.get(name, [])
        if len(values) > 1:
            raise _refused(name, f"{name} is given {len(values)} times; once is allowed")
        if not values:
            return default
        try:
            value = kind(values[0])
        except ValueError:
            value = -1
        if kind is not str and not 0 < value < 1e9:
            whole = "whole numbers" if kind is int else "numbers"
            raise _refused(name, f"{name} is {values[0]!r:.40}; allowed are {whole} above 0")
        return value

    def flag(self, name: str) -> bool:
        """The value of a parameter that is true or false."""
        value = self.one(name, str, "false")
        if value not in ("true", "false"):
            raise _refused(name, f"{name} is {value!r:.40}; allowed are true and false")
        return bool(value == "true")


def _warnings(given: dict[str, list[str]], query: _Query) -> Iterable[dict[str, str]]:
    reasons = {
        "version": "there is one version of the loaded model",
        "language_hint": "the model takes no hints; give language",
        "diarize_model": "there is one diarizer",
    }
    if query.flag("filler_words"):
        reasons["filler_words"] = "the model decides which of them it writes"
    if query.flag("no_delay"):
        reasons["no_delay"] = "text is never kept back"
    query.flag("mip_opt_out")  # nothing of a request is kept or trained on, whatever it says
    for name in given:
        if name in reasons:
            yield {"parameter": name, "type": "unused_parameter", "message": f"{name} changes nothing: {reasons[name]}"}


def _encoding(value: str | None, streams: bool) -> str | None:
    if value is None or value in ENCODINGS or (value in _IN_CONTAINERS and not streams):
        return value if value in ENCODINGS else None
    allowed = [*ENCODINGS, *(() if streams else _IN_CONTAINERS)]
    raise _refused("encoding", f"encoding is {value!r:.40}; allowed are {', '.join(sorted(allowed))}")


def _milliseconds(query: _Query, name: str) -> float | None:
    value = query.one(name, str)
    if name == "endpointing" and value in ("true", "false"):
        return None
    return None if value is None else query.one(name, int) / 1000.0


def _weighted(keyword: str) -> str:
    """`term:2` -> `term :2`."""
    match = _WEIGHTED.match(keyword)
    return f"{match['term']} :{match['weight']}" if match else keyword


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="Bad Request", param=param)
