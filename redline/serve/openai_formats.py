"""Transcripts as OpenAI's audio API replies with them.

Keys that its types do not have, `confidence` and `warnings`, are added where there is something to say.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from redline.formats import render_transcript
from redline.languages import NAMES
from redline.serve.openai_request import TranscriptionForm, TranslationForm
from redline.types import Notice, Segment, Transcript, Word

_LEAST_CONFIDENCE = 0.0005  # confidences have three places
_NOBODY = "unknown"  # who says what no speaker was found for


def transcript_response(transcript: Transcript, form: TranslationForm) -> Response:
    """The reply in the format that was asked for."""
    kind: str = form.response_format
    if kind in ("text", "srt", "vtt"):
        rendered = f"{transcript.text}\n" if kind == "text" else render_transcript(transcript, kind)
        codes = ", ".join(dict.fromkeys(notice.code for notice in transcript.warnings))
        headers = {"Redline-Warnings": codes} if codes else {}
        return PlainTextResponse(rendered, headers=headers, media_type="text/vtt" if kind == "vtt" else "text/plain")
    if kind == "verbose_json":
        granularities = form.timestamp_granularities if isinstance(form, TranscriptionForm) else ()
        return JSONResponse(verbose_dict(transcript, granularities or ("segment",)))
    if kind == "diarized_json":
        assert isinstance(form, TranscriptionForm)
        return JSONResponse(diarized_dict(transcript, form.known_speaker_names))
    return JSONResponse(plain_dict(transcript, bool(isinstance(form, TranscriptionForm) and form.include)))


def plain_dict(transcript: Transcript, with_logprobs: bool) -> dict[str, Any]:
    """`Transcription`, response_format json."""
    body: dict[str, Any] = {"text": transcript.text, "languages": language_dicts(transcript)}
    if with_logprobs:
        body["logprobs"] = segments_logprobs(transcript.segments)
    return {**body, "usage": usage_dict(transcript.duration), **warnings_dict(transcript.warnings)}


def verbose_dict(transcript: Transcript, granularities: Sequence[str]) -> dict[str, Any]:
    """`TranscriptionVerbose`, response_format verbose_json."""
    language = transcript.language
    body: dict[str, Any] = {
        "task": transcript.task,
        "language": NAMES.get(language, language).lower() if language else "unknown",
        "duration": transcript.duration,
        "text": transcript.text,
    }
    if "segment" in granularities:
        body["segments"] = [segment_dict(segment) for segment in transcript.segments]
    if "word" in granularities:
        body["words"] = [word_dict(word) for word in transcript.words]
    return {**body, "usage": usage_dict(transcript.duration), **warnings_dict(transcript.warnings)}


def diarized_dict(transcript: Transcript, known: Sequence[str]) -> dict[str, Any]:
    """`TranscriptionDiarized`, response_format diarized_json."""
    letters = SpeakerLetters(known)
    return {
        "task": "transcribe",
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [diarized_segment_dict(segment, letters) for segment in transcript.segments],
        "usage": usage_dict(transcript.duration),
        **warnings_dict(transcript.warnings),
    }


def segment_dict(segment: Segment) -> dict[str, Any]:
    """`TranscriptionSegment`: `avg_logprob` is the log of the segment's confidence, `seek` its start in 10 ms.

    There are no tokens of a vocabulary that clients know. Speech detection has decided that there is speech, and keeps
    no probability, so `no_speech_prob` is 0.
    """
    encoded = segment.text.encode()
    return {
        "id": segment.id,
        "seek": round(100 * segment.start),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": logprob(segment.confidence),
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 3),
        "no_speech_prob": 0.0,
        "confidence": segment.confidence,
    }


def word_dict(word: Word) -> dict[str, Any]:
    """`TranscriptionWord`."""
    return {"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence}


def diarized_segment_dict(segment: Segment, letters: SpeakerLetters) -> dict[str, Any]:
    """`TranscriptionDiarizedSegment`, which is an event of a stream, too."""
    return {
        "type": "transcript.text.segment",
        "id": segment_name(segment),
        "start": segment.start,
        "end": segment.end,
        "speaker": letters.of(segment.speaker),
        "text": segment.text,
        "confidence": segment.confidence,
    }


def segment_name(segment: Segment) -> str:
    """By which events refer to it."""
    return f"seg_{segment.id}"


class SpeakerLetters:
    """Speakers are A, B, ... in the order in which they speak; those that are known keep their names."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._names = {" ".join(name.split()): name for name in known}
        self._letters = 0

    def of(self, label: str | None) -> str:
        """What a speaker of Redline's is called."""
        if not label:
            return _NOBODY
        while label not in self._names:
            name, self._letters = _letters(self._letters), self._letters + 1
            if name not in self._names.values():
                self._names[label] = name
        return self._names[label]


def _letters(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def logprob(confidence: float | None) -> float | None:
    """The natural log of a confidence; None where there is none."""
    return None if confidence is None else round(math.log(max(confidence, _LEAST_CONFIDENCE)), 4)


def segments_logprobs(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Of the whole text."""
    return [each for segment in segments for each in segment_logprobs(segment, " " if segment.id else "")]


def segment_logprobs(segment: Segment, lead: str = "") -> list[dict[str, Any]]:
    """The log of the confidence of each word, with the space in front of it; together they are `lead` and the text.

    Where words have no places in the text it is that of the whole segment; without a confidence `logprob` is left out.
    """
    tokens = _tokens(segment)
    items = []
    for number, (text, confidence) in enumerate(tokens):
        token = text if number else lead + text
        item: dict[str, Any] = {"token": token, "bytes": list(token.encode())}
        items.append(item if confidence is None else {**item, "logprob": logprob(confidence)})
    return items


def _tokens(segment: Segment) -> list[tuple[str, float | None]]:
    tokens: list[tuple[str, float | None]] = []
    at = 0
    for word in segment.words:
        found = segment.text.find(word.text, at)
        if found < 0:
            return [(segment.text, segment.confidence)]
        end = found + len(word.text)
        tokens.append((segment.text[at:end], word.confidence))
        at = end
    if not tokens:
        return [(segment.text, segment.confidence)]
    tokens[-1] = (tokens[-1][0] + segment.text[at:], tokens[-1][1])
    return tokens


def language_dicts(transcript: Transcript) -> list[dict[str, str]]:
    """`TranscriptionLanguage` of what is spoken, the most of it first; none where the model does not tell."""
    spoken = [transcript.language, *(segment.language for segment in transcript.segments)]
    return [{"code": code} for code in dict.fromkeys(spoken) if code]


def usage_dict(seconds: float) -> dict[str, Any]:
    """`UsageDuration`."""
    return {"type": "duration", "seconds": seconds}


def warnings_dict(notices: Sequence[Notice]) -> dict[str, Any]:
    """What there is to know about a result."""
    return {"warnings": [notice.to_dict() for notice in notices]} if notices else {}
