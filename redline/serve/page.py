"""The page for people at `/` and that of the API at `/docs`: static files, served as strictly as a page can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from redline.errors import UnsupportedTaskError
from redline.formats import TRANSCRIPT_FORMATS
from redline.transcriber import Transcriber

PAGE_HEADERS = {
    # Nothing from elsewhere, no inline script or style; texts become elements in no way but as text (Trusted Types).
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time; unchanged files are not sent again
}


def page_router() -> APIRouter:
    """The page and its files; they hold nothing of anybody's, so they need no key."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=Path(__file__).with_name("page"))

    async def static(name: str, request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(PAGE_HEADERS)
        return response

    @router.get("/")
    async def index(request: Request) -> Response:
        return await static("index.html", request)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return await static("docs.html", request)

    @router.get("/page/settings.json")
    async def settings(request: Request) -> dict[str, Any]:
        """What the page offers to choose."""
        server = request.app.state.server
        model = server.service.model
        return {
            "model": model.name,
            "languages": list(model.recognizer.languages),
            "formats": list(TRANSCRIPT_FORMATS),
            "tells_speakers": _tells_speakers(model),
        }

    @router.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        return await static(name, request)

    return router


def _tells_speakers(model: Transcriber) -> bool:
    try:
        model.transcribe_each([], speakers=True)
    except UnsupportedTaskError:
        return False
    return True
