"""`redline mcp`: tools for agents over standard input and output (Model Context Protocol)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redline.cli.train import Device, DraftLm, EncoderEngine, ModelEffort, ModelName, Precision, Punctuate, Threads
from redline.cli.transcribe import arguments_of
from redline.engine import start
from redline.errors import packages_of

_FOLDER_HELP = "The only folder whose recordings may be read; default: whatever you may read."
_DATA_HELP = "Folder of a server's archive, which is searched; default: as for redline serve."


def mcp(
    context: typer.Context,
    model: ModelName = "tiny",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    folder: Annotated[Path | None, typer.Option(help=_FOLDER_HELP)] = None,
    data: Annotated[Path | None, typer.Option(help=_DATA_HELP)] = None,
    effort: ModelEffort = "full",
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    punctuate: Punctuate = True,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Give agents tools: transcribe recordings on this machine, search what was transcribed.

    Agents start it themselves: the command of the MCP server is `redline mcp`.
    """
    start.open_libraries()
    with start.recognizing_only(), packages_of("serve", "redline mcp"):
        import anyio

        import redline
        from redline.serve.app import create_app
        from redline.serve.mcp_tools import tool_server
        from redline.serve.options import ServeOptions, default_data_dir

    with start.recognizing_only():
        loaded = redline.load_model(model, **arguments_of(redline.load_model, context))
    app = create_app(loaded, ServeOptions(data_dir=data or default_data_dir(), job_slots=0))

    async def run() -> None:
        async with app.router.lifespan_context(app):
            await tool_server(app, folder=folder, reads_paths=True).run_stdio_async()

    anyio.run(run)
