"""Names of models: which of them mean the loaded one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redline.serve.api_errors import ApiError

if TYPE_CHECKING:
    from redline.serve.app import ServerState


def check_model_name(server: ServerState, name: str | None) -> None:
    """Raises `ApiError` for a name that is not of the loaded model; none at all is its own."""
    loaded, options = server.service.model.name, server.options
    if not name or name == loaded or name in options.model_names or options.any_model_name:
        return
    message = f"there is no model {name[:80]!r}; here is {', '.join(known_names(server))}"
    raise ApiError(404, message, code="model_not_found", param="model")


def known_names(server: ServerState) -> list[str]:
    """The name of the loaded model, and what else it is called."""
    loaded = server.service.model.name
    return list(dict.fromkeys((loaded, *server.options.model_names)))


def model_dict(server: ServerState, name: str) -> dict[str, Any]:
    """OpenAI's description of a model."""
    return {"id": name, "object": "model", "created": int(server.began_at), "owned_by": "redline"}
