"""Changes to a running server, for keys of the scope `admin`: another model."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from redline.errors import RedlineError
from redline.serve.api_errors import ApiError


class ModelChange(BaseModel):
    """Which model answers from now on: a bundled name, a folder, or a hub id."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=500)


def admin_router() -> APIRouter:
    """Routes under `/v1/admin`."""
    router = APIRouter(prefix="/v1/admin", tags=["operation"], dependencies=[Depends(_needs_key)])

    @router.get("/model")
    async def model(request: Request) -> dict[str, Any]:
        """The model that answers."""
        server = request.app.state.server
        return {"model": server.service.model.name, "languages": list(server.service.model.languages)}

    @router.post("/model")
    async def change_model(request: Request, change: ModelChange) -> dict[str, Any]:
        """Load another model beside the one that answers, try it, and have it answer from then on.

        What is in work ends on the old one. A model that cannot be loaded or fails the trial changes nothing.
        """
        server = request.app.state.server
        if server.swapping.locked():
            raise ApiError(409, "another model is being loaded; try again later", code="swapping", retry_after_s=10)
        async with server.swapping:
            before = server.service.model.name
            try:
                loaded = await asyncio.to_thread(server.load, change.model)
                await server.service.swap(loaded)
            except RedlineError as error:
                message = f"{error}; {before} goes on answering"
                raise ApiError(400, message, code="model_unusable", param="model") from error
        return {"model": server.service.model.name, "before": before}

    return router


async def _needs_key(request: Request) -> None:
    """Before the body is looked at."""
    request.app.state.server.keys.check(request, "admin")
