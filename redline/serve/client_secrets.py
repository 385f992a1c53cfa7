"""Secrets that end soon, for pages that open realtime sessions: `/v1/realtime/client_secrets`."""

from __future__ import annotations

import time
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request

from redline.serve.api_errors import ApiError
from redline.serve.auth import Caller, digest_of
from redline.serve.realtime_beta import beta_dict, settings_of_beta
from redline.serve.realtime_config import RealtimeConfig

_USUAL_S, _SHORTEST_S, _LONGEST_S = 600, 10, 7_200


class ClientSecrets:
    """The settings of sessions by the digest of their secret."""

    def __init__(self) -> None:
        self._configs: dict[str, tuple[RealtimeConfig, float]] = {}

    def keep(self, secret: str, config: RealtimeConfig, seconds: float) -> None:
        """Sessions with this secret begin with these settings, for so long."""
        now = time.monotonic()
        self._configs = {digest: kept for digest, kept in self._configs.items() if kept[1] > now}
        self._configs[digest_of(secret)] = (config, now + seconds)

    def config_of(self, secret: str | None) -> RealtimeConfig:
        """The settings that a session begins with."""
        config, end = self._configs.get(digest_of(secret or ""), (RealtimeConfig(), 0.0))
        return config if end > time.monotonic() else RealtimeConfig()


def client_secrets_router() -> APIRouter:
    """The route that makes them."""
    router = APIRouter(prefix="/v1/realtime", tags=["OpenAI"])

    @router.post("/client_secrets")
    async def client_secrets(request: Request) -> dict[str, Any]:
        """A secret for realtime sessions: `session` has their settings, `expires_after` the seconds."""
        server = request.app.state.server
        caller = server.keys.check(request, "transcribe")
        asked = await _json_object(request)
        if unknown := set(asked) - {"session", "expires_after"}:
            raise ApiError(400, f"{min(unknown)[:80]}: there is no such parameter", code="unknown", param=min(unknown))
        seconds = _seconds_of(asked.get("expires_after"), "expires_after")
        config = RealtimeConfig().updated(asked.get("session") or {})
        secret = _lent(server, caller, config, seconds)
        return {**secret, "session": config.to_dict(f"sess_{token_hex(8)}")}

    @router.post("/transcription_sessions")
    async def transcription_sessions(request: Request) -> dict[str, Any]:
        """The same as OpenAI's beta had it: the body has the settings, and the reply the secret as `client_secret`."""
        server = request.app.state.server
        caller = server.keys.check(request, "transcribe")
        asked = await _json_object(request)
        lasts = asked.pop("client_secret", None) or {}
        after = lasts.get("expires_after", lasts.get("expires_at")) if isinstance(lasts, dict) else lasts
        seconds = _seconds_of(after, "client_secret")
        config = RealtimeConfig().updated(settings_of_beta(asked))
        return {**beta_dict(config, f"sess_{token_hex(8)}"), "client_secret": _lent(server, caller, config, seconds)}

    return router


def _seconds_of(after: Any, param: str) -> int:
    """How long a secret lasts; raises `ApiError` for what is not allowed."""
    seconds = (after or {}).get("seconds", _USUAL_S) if isinstance(after or {}, dict) else None
    if not isinstance(seconds, int) or not _SHORTEST_S <= seconds <= _LONGEST_S:
        message = f"{param} is {str(after)[:80]}; allowed are seconds from {_SHORTEST_S} to {_LONGEST_S}"
        raise ApiError(400, message, code="invalid", param=param)
    return seconds


def _lent(server: Any, caller: Caller, config: RealtimeConfig, seconds: int) -> dict[str, Any]:
    config.stream_options(server.service.model)
    secret = server.keys.lend(caller, seconds)
    server.secrets.keep(secret, config, seconds)
    return {"value": secret, "expires_at": int(time.time()) + seconds}


async def _json_object(request: Request) -> dict[str, Any]:
    """The body of a request; raises `ApiError` for what is no JSON object."""
    body = await request.body()
    try:
        value = await request.json() if body else {}
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the body is no JSON object", code="invalid")
    return value
