"""The application: doors of every protocol on one recognition service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from redline.serve import health, openai_audio
from redline.serve.api_errors import install_error_handlers
from redline.serve.auth import ApiKeys
from redline.serve.bounds import BoundedBodies
from redline.serve.options import ServeOptions
from redline.serve.service import RecognitionService
from redline.transcriber import Transcriber


@dataclass
class ServerState:
    """What the doors of a server share: `app.state.server`."""

    options: ServeOptions
    keys: ApiKeys
    service: RecognitionService = field(init=False)


def create_app(model: Transcriber, options: ServeOptions = ServeOptions()) -> FastAPI:  # noqa: B008
    """The ASGI application of a server for a loaded model. Raises `ConfigError` for keys that cannot be read."""
    keys = ApiKeys.read(options.keys_file) if options.keys_file else ApiKeys()
    state = ServerState(options, keys)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            state.service = RecognitionService(model, options)
            stack.push_async_callback(state.service.close)
            for begin in BACKGROUND:
                await stack.enter_async_context(begin(state))
            yield

    app = FastAPI(title="Redline", version=health.VERSION, lifespan=lifespan, redoc_url=None)
    app.state.server = state
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router())
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(BoundedBodies, options=options)
    return app


ROUTERS: tuple[Callable[[], Any], ...] = (health.health_router, openai_audio.openai_audio_router)
"""One for each protocol or page."""
BACKGROUND: tuple[Callable[[ServerState], Any], ...] = ()
"""Async context managers of what runs beside requests: job workers, TCP doors."""
