"""What a realtime session may be set to, and what that means to a live stream.

Nothing that is set is ignored: what is not done here is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redline import languages
from redline.engine.live import LiveOptions
from redline.serve.api_errors import ApiError
from redline.serve.g711 import G711_RATE, decode_g711
from redline.serve.openai_request import asked_languages, form_error, prompt_keywords
from redline.transcribe_options import StreamOptions
from redline.transcriber import Transcriber
from redline.types import Task

PCM_RATE = 24_000
_LONGEST_S = {"minimal": 3.0, "low": 5.0, "medium": 8.0, "high": 15.0, "xhigh": 30.0}
"""Of speech without a pause, behind which its text is committed while it goes on, by `delay`."""
_WHOLE = ("format", "turn_detection", "noise_reduction")  # are replaced as a whole by an update


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RealtimeFormat(_Strict):
    """How the sound is written."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(default=None, ge=8_000, le=48_000)

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return (self.rate or PCM_RATE) if self.type == "audio/pcm" else G711_RATE

    def decode(self, data: bytes) -> NDArray[np.int16] | bytes:
        """Sound as `LiveStream.push` takes it."""
        return data if self.type == "audio/pcm" else decode_g711(data, "mu" if self.type == "audio/pcmu" else "a")

    def seconds(self, data: bytes) -> float:
        """How long it is."""
        return len(data) / (2 if self.type == "audio/pcm" else 1) / self.sample_rate


class RealtimeTranscription(_Strict):
    """What is asked of the model."""

    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    prompt: str | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] = "medium"


class TurnDetection(_Strict):
    """When speech begins and ends."""

    type: Literal["server_vad", "semantic_vad"]
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5_000)
    silence_duration_ms: int = Field(default=500, ge=50, le=10_000)
    idle_timeout_ms: int | None = Field(default=None, ge=1_000, le=600_000)
    create_response: bool | None = None
    interrupt_response: bool | None = None
    eagerness: str | None = None


class RealtimeInput(_Strict):
    """The sound, and what is done with it."""

    format: RealtimeFormat = RealtimeFormat()
    noise_reduction: Any = None
    transcription: RealtimeTranscription | None = RealtimeTranscription()
    turn_detection: TurnDetection | None = TurnDetection(type="server_vad")


class RealtimeAudio(_Strict):
    """There is no output."""

    input: RealtimeInput = RealtimeInput()


class RealtimeConfig(_Strict):
    """A transcription session."""

    type: Literal["transcription", "realtime"] = "transcription"
    audio: RealtimeAudio = RealtimeAudio()
    include: tuple[Literal["item.input_audio_transcription.logprobs"], ...] = ()

    @property
    def input(self) -> RealtimeInput:
        return self.audio.input

    @property
    def asked(self) -> RealtimeTranscription:
        """What is asked of the model."""
        return self.input.transcription or RealtimeTranscription()

    def updated(self, changes: Any) -> RealtimeConfig:
        """With what an update names; raises `ApiError` for what is wrong or not done here, and changes nothing then."""
        if not isinstance(changes, Mapping):
            raise ApiError(400, "session is no object", code="invalid", param="session")
        try:
            config = RealtimeConfig.model_validate(_merged(self.model_dump(), changes))
        except ValidationError as error:
            wrong = form_error(error)
            raise ApiError(400, f"session.{wrong.message}", code=wrong.code, param=f"session.{wrong.param}") from error
        config._refuse()
        return config

    def _refuse(self) -> None:
        turn, sound = self.input.turn_detection, "session.audio.input"
        refused = {
            "session.type": self.type != "transcription" and "this server answers nobody; the type is transcription",
            f"{sound}.noise_reduction": self.input.noise_reduction is not None
            and "there is no noise reduction, the model has learned from noisy speech; send null",
            f"{sound}.transcription": self.input.transcription is None and "a transcription session transcribes",
            f"{sound}.turn_detection.type": turn is not None
            and turn.type == "semantic_vad"
            and "no model here judges whether a sentence is complete; send server_vad, or null and commit yourself",
        }
        for name in ("create_response", "interrupt_response"):
            refused[f"{sound}.turn_detection.{name}"] = bool(turn and getattr(turn, name)) and "there are no responses"
        if turn is not None and turn.eagerness is not None:
            refused[f"{sound}.turn_detection.eagerness"] = "it belongs to semantic_vad"
        if self.input.format.type != "audio/pcm" and self.input.format.rate not in (None, G711_RATE):
            refused[f"{sound}.format.rate"] = f"{self.input.format.type} has {G711_RATE} Hz"
        for param, why in refused.items():
            if why:
                raise ApiError(400, f"{param}: {why}", code="unsupported", param=param)

    def stream_options(self, model: Transcriber) -> StreamOptions:
        """The same as options of a live stream; raises `ApiError` and `UnsupportedTaskError` for what the model cannot.

        Partial texts may change, which deltas never do, so none are made.
        """
        asked, turn = self.asked, self.input.turn_detection
        live = LiveOptions(partial_s=math.inf, max_s=_LONGEST_S[asked.delay])
        if turn is not None:
            pause_s, pad_s = turn.silence_duration_ms / 1000, turn.prefix_padding_ms / 1000
            live = replace(live, pause_s=pause_s, pad_s=pad_s, onset=turn.threshold)
        spoken = asked_languages(asked.language, asked.languages, model)
        language, several = languages.language_candidates(spoken, model.languages)
        keywords = (*asked.keywords, *prompt_keywords(asked.prompt))
        words, speakers = bool(self.include), self.has_speakers
        model.check(Task(language=language, words=words, speakers=speakers, keywords=keywords, languages=several))
        return {
            "sample_rate": self.input.format.sample_rate,
            "language": language or several,
            "keywords": keywords,
            "words": words,
            "speakers": speakers,
            "live_options": live,
        }

    @property
    def has_speakers(self) -> bool:
        """OpenAI's clients ask for speakers by the name of the model."""
        return (self.asked.model or "").endswith("-diarize")

    def to_dict(self, id: str) -> dict[str, Any]:
        """The whole configuration, as it is effective."""
        values = self.model_dump(mode="json")
        values["audio"]["input"]["format"]["rate"] = self.input.format.sample_rate
        if self.input.format.type != "audio/pcm":
            del values["audio"]["input"]["format"]["rate"]
        if self.input.turn_detection is not None:
            del values["audio"]["input"]["turn_detection"]["eagerness"]
        return {"id": id, "object": "realtime.transcription_session", **values}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Objects key by key, but for those that are replaced as a whole."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        is_merged = isinstance(before, Mapping) and isinstance(value, Mapping) and key not in _WHOLE
        merged[key] = _merged(before, value) if is_merged else value  # type: ignore[arg-type]
    return merged
