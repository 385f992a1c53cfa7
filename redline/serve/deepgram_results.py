"""Transcripts as the JSON of Deepgram's `/v1/listen`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from redline.serve.deepgram_options import ListenOptions
from redline.types import Segment, Transcript, Word

_EDGES = re.compile(r"^\W+|\W+$")


class SpeakerNumbers:
    """Numbers of speakers from 0, in the order in which they are first heard."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, speaker: str | None) -> int | None:
        return None if speaker is None else self._numbers.setdefault(speaker, len(self._numbers))


def listen_alternative(segments: Sequence[Segment], options: ListenOptions, numbers: SpeakerNumbers) -> dict[str, Any]:
    """What is said in segments: transcript, confidence and words.

    A confidence is the mean of those of the words, and null where the model gives none.
    """
    words = [
        listen_word(word, options, numbers, fallback=segment.confidence)
        for segment in segments
        for word in segment.words
    ]
    text = " ".join(segment.text for segment in segments if segment.text)
    known = [word["confidence"] for word in words if word["confidence"] is not None]
    known = known or [segment.confidence for segment in segments if segment.confidence is not None]
    confidence = round(sum(known) / len(known), 6) if known else None
    return {"transcript": listen_text(text, options), "confidence": confidence, "words": words}


def listen_text(text: str, options: ListenOptions) -> str:
    """As the model writes it with `punctuate`, else in lower case without marks, as Deepgram's clients expect."""
    return text if options.punctuate else " ".join(bare for word in text.split() if (bare := _bare(word)))


def listen_word(
    word: Word, options: ListenOptions, numbers: SpeakerNumbers, fallback: float | None = None
) -> dict[str, Any]:
    """A word; its confidence is that of its segment where it has none itself."""
    confidence = word.confidence if word.confidence is not None else fallback
    values: dict[str, Any] = {
        "word": _bare(word.text) or word.text,
        "start": word.start,
        "end": word.end,
        "confidence": confidence,
    }
    if options.diarize:
        values["speaker"] = numbers.of(word.speaker)
    if options.punctuate:
        values["punctuated_word"] = word.text
    return values


def listen_reply(
    transcript: Transcript, options: ListenOptions, *, request_id: str, sha256: str, channels: int
) -> dict[str, Any]:
    """The reply for a recording of as many channels."""
    numbers = SpeakerNumbers()
    results: list[dict[str, Any]] = []
    utterances: list[dict[str, Any]] = []
    for channel in range(channels):
        speaker = str(channel + 1)
        own = [each for each in transcript.segments if not options.multichannel or each.speaker == speaker]
        result: dict[str, Any] = {"alternatives": [listen_alternative(own, options, numbers)]}
        if options.detect_language:
            result["detected_language"] = transcript.language
        results.append(result)
        if options.utterances:
            utterances += _utterances(own, options, numbers, channel)
    content: dict[str, Any] = {"channels": results}
    if options.utterances:
        content["utterances"] = sorted(utterances, key=lambda each: (each["start"], each["channel"]))
        for number, each in enumerate(content["utterances"]):
            each["id"] = f"{request_id}-{number}"
    notices = [{"type": notice.code, "message": notice.message} for notice in transcript.warnings]
    metadata = {
        **listen_metadata(transcript.model, options, request_id=request_id, sha256=sha256, channels=channels),
        "duration": transcript.duration,
        "warnings": [*options.warnings, *notices],
    }
    return {"metadata": metadata, "results": content}


def listen_metadata(
    model: str, options: ListenOptions, *, request_id: str, sha256: str, channels: int
) -> dict[str, Any]:
    """What a reply says of its request."""
    values: dict[str, Any] = {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
        "channels": channels,
        "models": [model],
        "model_info": {model: {"name": model, "version": "1", "arch": model}},
    }
    if options.tags:
        values["tags"] = list(options.tags)
    if options.extra:
        values["extra"] = dict(each.partition(":")[::2] for each in options.extra)
    return values


def _utterances(
    segments: Iterable[Segment], options: ListenOptions, numbers: SpeakerNumbers, channel: int
) -> Iterable[dict[str, Any]]:
    """What is said between two pauses of `utt_split` seconds, or two changes of speaker."""
    groups: list[list[tuple[Word, float | None]]] = []
    for segment in segments:
        for word in segment.words:
            last = groups[-1][-1][0] if groups else None
            is_new = last is None or word.start - last.end >= options.utt_split
            if is_new or (options.diarize and last is not None and word.speaker != last.speaker):
                groups.append([])
            groups[-1].append((word, segment.confidence))
    for group in groups:
        words = [listen_word(word, options, numbers, fallback) for word, fallback in group]
        known = [word["confidence"] for word in words if word["confidence"] is not None]
        yield {
            "start": words[0]["start"],
            "end": words[-1]["end"],
            "confidence": round(sum(known) / len(known), 6) if known else None,
            "channel": channel,
            "transcript": listen_text(" ".join(word.text for word, _ in group), options),
            "words": words,
            **({"speaker": words[0]["speaker"]} if options.diarize else {}),
        }


def _bare(word: str) -> str:
    """In lower case, without the marks around it."""
    return _EDGES.sub("", word).lower()
