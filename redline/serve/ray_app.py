"""The application under Ray Serve: replicas on one machine or many, behind its proxies.

A request goes to a replica with room, a WebSocket stays on the one that took it. Jobs, uploads and transcripts are in
the database and in the folder of data, which all replicas share; nothing else is shared.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus
from starlette.types import ASGIApp, Receive, Scope, Send

from redline.errors import ConfigError, RedlineError
from redline.serve.api_errors import ApiError
from redline.serve.app import create_app
from redline.serve.logs import write_logs
from redline.serve.options import ServeOptions
from redline.transcriber import Transcriber

APPLICATION = "redline"
"""Its name in the cluster."""
HERE = "local"
"""As an address: start Ray on this machine."""
_POLL_S = 0.2
_TRIES = 3
_MARK = ".redline-replicas"
_ONE_PROCESS_ONLY = {
    "/v1/realtime/client_secrets": "a client secret would be known to the replica that made it alone",
    "/v1/admin/model": "one replica alone would change its model; deploy the other model with redline serve --ray",
}
"""Doors (POST) whose state is in the memory of one process."""


@dataclass(frozen=True)
class ReplicaOptions:
    """How many copies of the application there are, and what each takes of a machine."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    target_requests: float = 16.0
    """Requests and streams in work on a replica, above which another is started, up to `most`."""
    look_back_s: float = 30.0
    """The requests in work are the mean over so long."""
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    drain_s: float = 3_600.0
    """How long a replica that is replaced may finish what it has, live streams among it."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ConfigError(
                f"replicas are {self.least} to {self.most}; allowed are 1 and above, the lower number first"
            )

    @classmethod
    def parse(cls, text: str, **further: Any) -> ReplicaOptions:
        """`4` or `1-8`; raises `ConfigError`."""
        matched = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if matched is None:
            raise ConfigError(
                f"replicas are {text!r}; give a number, such as 4, or the least and the most, such as 1-8"
            )
        least, most = int(matched[1]), int(matched[2] or matched[1])
        return cls(least, most, **further)


def connect(address: str) -> None:
    """Join a cluster, or start one on this machine (`HERE`); raises `RedlineError` where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to nobody
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    here: dict[str, Any] = {"_node_ip_address": "127.0.0.1", "include_dashboard": False} if address == HERE else {}
    for left in () if ray.is_initialized() else reversed(range(_TRIES)):
        try:
            ray.init(address, namespace=APPLICATION, log_to_driver=False, logging_level=logging.ERROR, **here)
            return
        except Exception as error:  # Ray raises plain ones, too
            if left and "timed out during startup" in str(error):  # it gives a busy machine half a minute
                continue
            what = "cannot be started here" if address == HERE else f"{address} cannot be joined"
            reason = " ".join(str(error).split())
            raise RedlineError(f"Ray: {what} ({reason:.300}); `ray start --head` begins a cluster") from error


def gpus_of_a_replica(device: str | None) -> float:
    """One where the cluster has any and the device does not say otherwise."""
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    return 1.0 if has_gpus and (device or "cuda").startswith("cuda") else 0.0


def deploy(
    load: Callable[[str], Transcriber], model: str, options: ServeOptions, replicas: ReplicaOptions = ReplicaOptions()
) -> None:
    """Serve a model in the cluster that this process has joined, and return when it answers.

    Where the application is there already it is replaced, replica after replica: new ones answer before old ones go,
    and these finish what they have. `load` is called in each replica. Raises `ConfigError` for options that a cluster
    does not allow, `RedlineError` where no replica could start.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if options.database_url is None and len(nodes) > 1:
        raise ConfigError(
            f"the cluster has {len(nodes)} nodes, and the database is a SQLite file, which one machine alone can use; "
            "give --database postgresql://... and a --data folder that all nodes see"
        )
    if options.wyoming_port is not None:
        raise ConfigError("--wyoming is one port of one process; serve Home Assistant with a server without --ray")
    home = ray.get_runtime_context().get_node_id() if options.database_url is None else None
    mark = _marked(options)

    def build() -> FastAPI:
        _check_place(options, mark, home)
        write_logs()
        app = create_app(load(model), options, load)
        if replicas.most > 1:
            app.add_middleware(_OneProcessDoors)
        return app

    replica = serve.deployment(
        name="replica",
        num_replicas=None,
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.target_requests,
            "look_back_period_s": replicas.look_back_s,
            "upscale_delay_s": replicas.upscale_delay_s,
            "downscale_delay_s": replicas.downscale_delay_s,
        },
        max_ongoing_requests=options.max_active + options.max_waiting + options.max_streams,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        graceful_shutdown_timeout_s=replicas.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=_room_percent(replicas),
        max_constructor_retry_count=3,
    )(serve.ingress(build)(_Replica))
    _start_proxies(options)
    target = serve.RunTarget(replica.bind(), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    _wait_for_new_replicas(replicas.least)


def _start_proxies(options: ServeOptions) -> None:
    """One a node. Those that were there before listen where they did: Ray leaves other wishes aside, we refuse them."""
    try:
        serve.start(http_options={"host": options.host, "port": options.port}, proxy_location="EveryNode")
    except Exception as error:  # Ray raises those of its tasks
        if _get_global_client(raise_if_no_controller_running=False) and not serve.status().applications:
            serve.shutdown()
        reason = " ".join(str(error).split())[-200:]
        raise RedlineError(
            f"Ray Serve cannot listen on {options.host}, port {options.port}: {reason}; choose with --host, --port"
        ) from error
    client = _get_global_client()
    assert client is not None  # Serve has been started
    there = client.http_config
    if (there.host, there.port) != (options.host, options.port):
        raise ConfigError(
            f"the cluster's proxies listen on {there.host}:{there.port} and cannot move to {options.host}:"
            f"{options.port}; leave --host and --port as they are, or take the service down first (--replicas 0)"
        )


def _room_percent(replicas: ReplicaOptions) -> int:
    """Of the replicas, how many may be started before old ones go; where there is no room, Ray stops old ones first."""
    free, needs = ray.available_resources(), {"CPU": replicas.cpus, "GPU": replicas.gpus}
    fit = min((int(free.get(name, 0) / need) for name, need in needs.items() if need), default=replicas.least)
    return min(100, 100 * fit // replicas.least)


def _wait_for_new_replicas(least: int) -> None:
    """Until all replicas that run are new ones; Ray itself would wait for old ones too, which may have streams yet."""
    has_begun = False
    while True:
        application = serve.status().applications[APPLICATION]
        states = Counter[str]()
        for deployment in application.deployments.values():
            states.update(
                {str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()}
            )
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            messages = [application.message, *(each.message for each in application.deployments.values())]
            raise RedlineError(f"no replica could be started: {_reason(chr(10).join(messages))}")
        coming = states.total() - states["RUNNING"] - states["STOPPING"]
        has_begun = has_begun or coming > 0
        old_ones_go = has_begun and not coming and states["STOPPING"] and states["RUNNING"] >= least
        if application.status == ApplicationStatus.RUNNING or old_ones_go:
            return
        time.sleep(_POLL_S)


def take_down() -> bool:
    """Remove the application from the cluster, when what is in work is done; without others, the proxies go too.

    Returns whether it was there.
    """
    if _get_global_client(raise_if_no_controller_running=False) is None:
        return False
    was_there = APPLICATION in serve.status().applications
    serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()
    return was_there


class _Replica:
    """One copy; its application is made where it runs."""


class _OneProcessDoors:
    """ASGI middleware: refuses what several replicas cannot do together."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = _ONE_PROCESS_ONLY.get(scope.get("path", ""))
        if reason is not None and scope.get("method") == "POST":
            error = ApiError(501, f"with several replicas this cannot be done: {reason}", code="several_replicas")
            await error.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _marked(options: ServeOptions) -> str:
    """What the mark in the folder of data says, made where it is missing: who reads the same sees the same folder."""
    path = options.data_dir / _MARK
    options.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(token_hex(12))
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii")


def _check_place(options: ServeOptions, mark: str, home: str | None) -> None:
    """In a replica: whether its node sees the folder of data, and may use the database."""
    if home is not None and ray.get_runtime_context().get_node_id() != home:
        raise ConfigError(
            "this node has joined later, and the database is a SQLite file; give --database postgresql://..."
        )
    path = options.data_dir / _MARK
    if not path.is_file() or path.read_text(encoding="ascii") != mark:
        raise ConfigError(f"{options.data_dir} is another folder on this node; give a --data folder that all nodes see")


def _reason(message: str) -> str:
    """Of what Ray says about a replica that did not start: the line of the error itself."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["no reason is told"])[-1]
