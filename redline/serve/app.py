"""The application: doors of every protocol on one recognition service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from redline.load import load_model
from redline.serve import (
    admin,
    archive_api,
    client_secrets,
    deepgram,
    health,
    jobs_api,
    live_socket,
    metrics,
    openai_audio,
    page,
    pipelines_api,
    realtime,
    uploads_api,
    wyoming_door,
)
from redline.serve.access import Access
from redline.serve.api_errors import install_error_handlers
from redline.serve.auth import ApiKeys
from redline.serve.bounds import BoundedBodies
from redline.serve.client_secrets import ClientSecrets
from redline.serve.job_worker import JobWorkers, job_workers
from redline.serve.mcp_door import McpDoor
from redline.serve.memory import memory_returned
from redline.serve.metrics import ServerMetrics
from redline.serve.options import ServeOptions
from redline.serve.origins import OwnPagesOnly
from redline.serve.pipelines.workers import PipelineWorkers, pipeline_workers
from redline.serve.service import RecognitionService
from redline.serve.store.store import Store
from redline.serve.tracing import ServerTracer
from redline.transcriber import Transcriber


@dataclass
class ServerState:
    """What the doors of a server share: `app.state.server`."""

    options: ServeOptions
    keys: ApiKeys
    service: RecognitionService = field(init=False)
    secrets: ClientSecrets = field(default_factory=ClientSecrets)
    began_at: float = field(default_factory=time.time)
    """In seconds since 1970."""
    store: Store = field(init=False)
    jobs: JobWorkers = field(init=False)
    pipelines: PipelineWorkers = field(init=False)
    ports: dict[str, int] = field(default_factory=dict)
    """TCP ports of other protocols than HTTP that are open, by the name of the protocol."""
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    tracer: ServerTracer = field(default_factory=ServerTracer)
    load: Callable[[str], Transcriber] = load_model
    """Loads another model by its name."""
    requests: int = 0
    """That were answered, but for those of who watches the server."""
    swapping: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while another model is loaded."""


def create_app(
    model: Transcriber,
    options: ServeOptions = ServeOptions(),  # noqa: B008
    load: Callable[[str], Transcriber] = load_model,
) -> FastAPI:
    """The ASGI application of a server for a loaded model; `load` gives another one, by its name.

    Raises `ConfigError` for keys that cannot be read, and `RedlineError` for tracing that cannot be done.
    """
    keys = ApiKeys.read(options.keys_file) if options.keys_file else ApiKeys()
    state = ServerState(options, keys, load=load)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(state.tracer.close)
            state.service = RecognitionService(model, options, state.metrics, state.tracer)
            state.metrics.watch(state.service)
            stack.push_async_callback(state.service.close)
            for begin in BACKGROUND:
                await stack.enter_async_context(begin(state))
            await stack.enter_async_context(tools.opened())
            yield

    app = FastAPI(title="Redline", version=health.VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = state
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router())
    tools = McpDoor(app)
    app.router.routes.append(Route("/mcp", tools, methods=["GET", "POST", "DELETE"], include_in_schema=False))
    app.add_middleware(BoundedBodies, options=options)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(OwnPagesOnly, options=options, asks_for_keys=keys.are_asked_for)
    app.add_middleware(Access, state=state)  # the outermost
    return app


ROUTERS: tuple[Callable[[], Any], ...] = (
    health.health_router,
    metrics.metrics_router,
    admin.admin_router,
    openai_audio.openai_audio_router,
    deepgram.deepgram_router,
    jobs_api.jobs_router,
    uploads_api.uploads_router,
    archive_api.archive_router,
    pipelines_api.pipelines_router,
    live_socket.live_router,
    page.page_router,
    realtime.realtime_router,
    client_secrets.client_secrets_router,
)
"""One for each protocol or page."""
BACKGROUND: tuple[Callable[[ServerState], Any], ...] = (
    job_workers,
    pipeline_workers,
    wyoming_door.wyoming_door,
    memory_returned,
)
"""Async context managers of what runs beside requests: job workers, TCP doors, what tidies."""
