"""`redline serve`: the model behind HTTP, WebSocket and TCP, for programs and people."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redline.cli import console
from redline.cli.stopping import Stopper
from redline.cli.train import Device, DraftLm, EncoderEngine, ModelEffort, ModelName, Precision, Punctuate, Threads
from redline.cli.transcribe import arguments_of
from redline.engine import start
from redline.errors import RedlineError, packages_of
from redline.serve.memory import share_arenas

if TYPE_CHECKING:
    from redline.serve.options import ServeOptions
    from redline.transcriber import Transcriber

_KEYS_HELP = "API keys (TOML); needed where other machines reach the server."
_DATABASE_HELP = "postgresql://... in place of SQLite in --data."
_URL_HELP = "Host from which jobs may fetch recordings; * is any with a public address."
_WYOMING_HELP = "Port of the Wyoming protocol, for Home Assistant; 10300 is usual."
_NAMES_HELP = "Name by which clients may ask for the model, such as whisper-1; others are then refused. Repeatable."
_ARCHIVE_HELP = "Keep transcripts of requests in the archive, not only those of jobs."
_RAY_HELP = (
    "Serve under Ray: on this machine, or in the cluster at auto or HOST:PORT; there already: replaced, rolling."
)
_REPLICAS_HELP = "With --ray: how many, or the least and the most, such as 1-8; 0 takes the service down."
_NEW_KEY_HELP = "Make an API key of this name, add it to --keys, print it, and end."


def serve(
    context: typer.Context,
    model: ModelName = "tiny",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all, and needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8020,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and of uploads.")] = None,
    database: Annotated[str | None, typer.Option(help=_DATABASE_HELP, envvar="REDLINE_DATABASE")] = None,
    pipelines: Annotated[Path | None, typer.Option(help="Folder of pipelines (TOML) that jobs may ask for.")] = None,
    keys: Annotated[Path | None, typer.Option(help=_KEYS_HELP)] = None,
    new_key: Annotated[str | None, typer.Option(help=_NEW_KEY_HELP)] = None,
    cors: Annotated[list[str] | None, typer.Option(help="Web origin that may call, such as https://a.example.")] = None,
    job_slots: Annotated[int, typer.Option(min=0, help="Jobs at once; 0 leaves them to other servers.")] = 4,
    allow_url: Annotated[list[str] | None, typer.Option(help=_URL_HELP)] = None,
    keep_audio: Annotated[bool, typer.Option(help="Keep recordings with their transcripts.")] = True,
    archive_requests: Annotated[bool, typer.Option("--archive-requests", help=_ARCHIVE_HELP)] = False,
    retention_days: Annotated[float | None, typer.Option(help="Delete what is over for so long.")] = None,
    model_name: Annotated[list[str] | None, typer.Option(help=_NAMES_HELP)] = None,
    wyoming: Annotated[int | None, typer.Option(min=0, max=65535, help=_WYOMING_HELP)] = None,
    wyoming_host: Annotated[str, typer.Option(help="Address of --wyoming; the protocol has no keys.")] = "127.0.0.1",
    ray: Annotated[str | None, typer.Option("--ray", metavar="[ADDRESS]", help=_RAY_HELP)] = None,
    replicas: Annotated[str, typer.Option(help=_REPLICAS_HELP)] = "1",
    effort: ModelEffort = "full",
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    punctuate: Punctuate = True,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Serve the model: OpenAI's audio API, live streams, jobs, and a page for people.

    Ctrl-C or SIGTERM finishes what is being recognized, then ends. With --ray ADDRESS the service stays in the cluster
    and the command ends. Exit status: 0, or 2 when it cannot start.
    """
    from redline.serve.auth import new_key as make_key

    if new_key is not None:
        if keys is None:
            raise typer.BadParameter("name the file that the key is added to", param_hint="--keys")
        typer.echo(make_key(keys, new_key))
        console.complain(f"added to {keys}; the key is shown only now")
        return
    share_arenas()
    start.open_libraries()
    with start.recognizing_only(), packages_of("serve", "redline serve"):
        import uvicorn

        import redline
        from redline.serve.app import create_app
        from redline.serve.http_protocol import open_many_files, uvicorn_config
        from redline.serve.logs import write_logs
        from redline.serve.options import ServeOptions, default_data_dir
        from redline.serve.store.store import Store

    options = ServeOptions(
        host=host,
        port=port,
        data_dir=data or default_data_dir(),
        database_url=database,
        pipelines_dir=pipelines,
        keys_file=keys,
        model_names=tuple(model_name or ()),
        any_model_name=not model_name,
        cors_origins=tuple(cors or ()),
        job_slots=job_slots,
        allow_url_hosts=tuple(allow_url or ()),
        keep_audio=keep_audio,
        archive_requests=archive_requests,
        retention_days=retention_days,
        wyoming_port=wyoming,
        wyoming_host=wyoming_host,
    )
    Store(options).close()  # a database that cannot be used is told at once
    arguments = arguments_of(redline.load_model, context)
    if ray is not None:
        with packages_of("cluster", "redline serve --ray"):
            from redline.serve import ray_app
        _serve_in_cluster(ray_app, ray, replicas, model, options, arguments)
        return
    with start.recognizing_only():
        loaded = redline.load_model(model, **arguments)
    app = create_app(loaded, options, lambda name: redline.load_model(name, **{**arguments, "revision": None}))
    write_logs()
    open_many_files()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                console.complain(f"serving {loaded.name} on {address} (API: {address}/docs); Ctrl-C ends it")

    with listening(host, port) as opened:
        bound = opened.getsockname()[1]
        address = f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
        Server(uvicorn_config(app, options, log_config=None)).run([opened])


def _serve_in_cluster(
    ray_app: Any, address: str, replicas: str, model: str, options: ServeOptions, arguments: dict[str, Any]
) -> None:
    from redline.load import load_model

    if address == ray_app.HERE and replicas != "0":
        listening(options.host, options.port).close()  # told before Ray has started
    ray_app.connect(address)
    if replicas == "0":
        console.complain("the service is taken down" if ray_app.take_down() else f"no service is in {address}")
        return
    gpus = ray_app.gpus_of_a_replica(arguments.get("device"))
    chosen = ray_app.ReplicaOptions.parse(replicas, cpus=arguments.get("threads") or 1, gpus=gpus)

    def load(name: str) -> Transcriber:
        return load_model(name, **{**arguments, "revision": arguments.get("revision") if name == model else None})

    where = f"http://{options.host}:{options.port}"
    with Stopper():
        try:
            ray_app.deploy(load, model, options, chosen)
            console.complain(f"serving {model} on {where}, {replicas} replicas (API: {where}/docs)")
            if address == ray_app.HERE:
                console.complain("Ctrl-C ends it")
                threading.Event().wait()
        except KeyboardInterrupt:
            ray_app.take_down()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `RedlineError` where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(1024)
    except OSError as error:
        opened.close()
        raise RedlineError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose with --host, --port"
        ) from error
    return opened
