"""Ray itself: joined or started on this machine, its pools as they are asked for, and its errors."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from redline.errors import RedlineError, packages_of

_TRIES = 3


@dataclass(frozen=True)
class RayOptions:
    """The pools of a run on Ray; None is what the cluster and the measured rates suggest."""

    address: str | None = None
    """Of a cluster to join; None starts Ray on this machine."""
    workers: int | None = None
    """Processes that recognize."""
    worker_cpus: int | None = None
    """CPUs of each, where it computes on them."""
    decoders: int | None = None
    """Recordings that are read and decoded at once, each by a CPU."""
    on_gpus: bool | None = None
    """Whether each worker takes a GPU; None: where the cluster has some."""
    dashboard: bool | None = None
    """Ray's, where Ray is started here; None: where its packages are installed."""


def start_ray(options: RayOptions, *, shows_output: bool = False) -> str | None:
    """Join a cluster, or start Ray on this machine, for this machine only; returns the dashboard's address.

    With `shows_output` what other processes print appears here too.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with packages_of("cluster", "redline batch without --shard"):
        import ray
    if not ray.is_initialized():
        more: dict[str, Any] = {}
        if options.address is None:
            more = {"_node_ip_address": "127.0.0.1", "include_dashboard": options.dashboard}
        for left in reversed(range(_TRIES)):
            try:
                context = ray.init(
                    options.address or "local", log_to_driver=shows_output, logging_level=logging.ERROR, **more
                )
                break
            except Exception as error:  # Ray raises plain ones, too
                if left and "timed out during startup" in str(error):  # it gives a busy machine half a minute
                    continue
                if "timed out during startup" in str(error):
                    busy = "Ray gives a machine half a minute to start, for which this one is too busy"
                    raise RedlineError(f"{busy}; try again later, or --shard 1/1, which needs no Ray") from error
                what = "cannot be started here" if options.address is None else f"{options.address} cannot be joined"
                raise RedlineError(f"Ray: {what} ({' '.join(str(error).split()):.300})") from error
        url = getattr(context, "dashboard_url", None)
        return f"http://{url}" if url else None
    return None


def ray_package() -> Any:
    """Ray, most of which has no types."""
    import ray

    return ray


def this_node() -> str:
    """Ray's id of the node that this process runs on; empty outside of Ray."""
    ray = ray_package()
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def error_of(ref: Any) -> Exception | None:
    """What came instead of a result, without fetching that; None where it is there."""
    ray = ray_package()
    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:
        found: Exception = error
        return found
    return None


def cause_of(error: Exception) -> Exception:
    """What a task raised; of other errors of Ray the error itself."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
