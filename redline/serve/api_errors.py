"""Errors over HTTP: what is wrong with a request, as the JSON that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from redline.errors import AudioError, ConfigError, RedlineError, UnsupportedTaskError


class ApiError(Exception):
    """A request that cannot be served: the HTTP status, a message for people, a code and a parameter for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """The kind of error in OpenAI's words."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def to_dict(self) -> dict[str, Any]:
        """The body of the reply."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_dict(), self.status, headers)


def api_error_of(error: RedlineError) -> ApiError:
    """A recording or an option that the library refuses."""
    if isinstance(error, UnsupportedTaskError | ConfigError):
        return ApiError(400, str(error), code="unsupported")
    if isinstance(error, AudioError):
        return ApiError(400, str(error), code="audio_unreadable", param="file")
    return ApiError(500, str(error), code="recognition_failed")


def internal_api_error() -> ApiError:
    """A fault of the program, of which nothing is told but that; the log has the rest."""
    return ApiError(500, "an internal error; the server's log has it", code="internal_error")


def stopping() -> ApiError:
    """The server takes nothing any more."""
    return ApiError(503, "the server stops; try another one, or later", code="stopping", retry_after_s=10)


def install_error_handlers(app: FastAPI) -> None:
    """Have every error leave as JSON; nothing of the program's inside is told."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RedlineError)
        return api_error_of(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        try:
            request.app.state.server.keys.known(request)  # strangers are told nothing of what is wrong
        except ApiError as stranger:
            return stranger.response()
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return ApiError(
            422, f"{where or 'the request'}: {first['msg']}", code="invalid", param=where or None
        ).response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    async def internal(_: Request, error: Exception) -> JSONResponse:
        return internal_api_error().response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RedlineError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, internal)
