"""The transcription sessions of OpenAI's realtime API as its beta had them, whose settings are flat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redline.serve.api_errors import ApiError
from redline.serve.realtime_config import RealtimeConfig

_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_INPUT = {
    "input_audio_transcription": "transcription",
    "input_audio_noise_reduction": "noise_reduction",
    "turn_detection": "turn_detection",
}


def settings_of_beta(session: Any) -> dict[str, Any]:
    """The same settings as `RealtimeConfig.updated` takes them; raises `ApiError` for what is none."""
    if not isinstance(session, Mapping):
        raise ApiError(400, "session is no object", code="invalid", param="session")
    sound: dict[str, Any] = {}
    settings: dict[str, Any] = {"audio": {"input": sound}}
    for name, value in session.items():
        if name == "input_audio_format":
            if value not in _FORMATS:
                message = f"session.{name} is {str(value)[:40]!r}; allowed are {', '.join(_FORMATS)}"
                raise ApiError(400, message, code="invalid", param=f"session.{name}")
            sound["format"] = {"type": _FORMATS[value]}
        elif name in _INPUT:
            sound[_INPUT[name]] = value
        elif name == "include":
            settings["include"] = value or []
        elif name == "modalities":
            if value not in (["text"], ["audio", "text"], ["text", "audio"]):
                raise ApiError(400, "session.modalities: there is text only", code="unsupported", param="session")
        else:
            message = f"session.{str(name)[:80]}: there is no such parameter; leave it out"
            raise ApiError(400, message, code="unknown", param=f"session.{str(name)[:80]}")
    return settings


def beta_dict(config: RealtimeConfig, id: str) -> dict[str, Any]:
    """The whole configuration as the beta tells it."""
    told = config.to_dict(id)
    sound = told["audio"]["input"]
    formats = {type: name for name, type in _FORMATS.items()}
    return {
        "id": id,
        "object": "realtime.transcription_session",
        "modalities": ["text"],
        "input_audio_format": formats[config.input.format.type],
        **{name: sound[new] for name, new in _INPUT.items()},
        "include": list(config.include),
    }
