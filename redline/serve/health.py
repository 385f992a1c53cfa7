"""`/health`: the process answers; `/ready`: it takes requests."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request

from redline.serve.api_errors import ApiError

VERSION = version("redline")


def health_router() -> APIRouter:
    """Routes for whoever watches the server; they need no key."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": VERSION}

    @router.get("/ready")
    async def ready(request: Request) -> dict[str, Any]:
        service = request.app.state.server.service
        if service.is_draining:
            raise ApiError(503, "the server stops", code="stopping", retry_after_s=10)
        return {"status": "ready", "model": service.model.name, "active": service.active, "waiting": service.waiting}

    return router
