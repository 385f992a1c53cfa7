"""Routes of pipelines and their webhooks: what is offered, what has not arrived."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from redline.serve.api_errors import ApiError
from redline.serve.pipelines.workers import PipelineWorkers

_STATES = ("waiting", "delivered", "dead")


def pipelines_router() -> APIRouter:
    """Routes of pipelines and deliveries."""
    router = APIRouter(prefix="/v1", tags=["pipelines"])

    @router.get("/pipelines")
    async def offered(request: Request) -> dict[str, Any]:
        """The pipelines that a job may ask for."""
        server = request.app.state.server
        server.keys.check(request, "jobs")
        workers: PipelineWorkers = server.pipelines
        rows = [
            {
                "name": name,
                "steps": [{"name": step.name, "kind": step.kind} for step in pipeline.steps],
                "missing_secrets": pipeline.missing_secrets(),
            }
            for name, pipeline in workers.pipelines.items()
        ]
        return {"object": "list", "data": rows}

    @router.get("/webhooks")
    async def deliveries(request: Request, state: str | None = None) -> dict[str, Any]:
        """Deliveries of webhooks; with state=dead those that were given up."""
        server = request.app.state.server
        server.keys.check(request, "admin")
        if state is not None and state not in _STATES:
            message = f"state is {state[:40]!r}; allowed are {', '.join(_STATES)}"
            raise ApiError(422, message, code="invalid", param="state")
        found = await asyncio.to_thread(server.pipelines.webhooks.deliveries, state)
        return {"object": "list", "data": [asdict(each) for each in found]}

    @router.post("/webhooks/{event_id}/retry", status_code=202)
    async def retry(request: Request, event_id: str) -> dict[str, str]:
        """Try a delivery that was given up from the beginning."""
        server = request.app.state.server
        server.keys.check(request, "admin")
        if not await asyncio.to_thread(server.pipelines.webhooks.revive, event_id):
            raise ApiError(404, "there is no delivery of this id that was given up", code="not_found")
        return {"event_id": event_id, "state": "waiting"}

    return router
