"""`redline pipeline`: the steps of a pipeline over a transcript that is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from redline.cli import console
from redline.errors import RedlineError, packages_of


def pipeline(
    steps: Annotated[Path, typer.Argument(help="The pipeline, a TOML file.", metavar="PIPELINE")],
    transcript: Annotated[
        Path | None, typer.Argument(help="A transcript in JSON; without it PIPELINE is checked.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the webhooks that wait; default: the server's.")] = None,
) -> None:
    """Run a pipeline (summary, action items, messages) over a transcript, and print what came of it as JSON.

    Exit status: 0, 1 when a step failed, 2 when the pipeline or the transcript cannot be read.
    """
    with packages_of("serve", "redline pipeline"):
        from redline.serve.options import default_data_dir
        from redline.serve.pipelines.pipeline import read_pipeline
        from redline.serve.pipelines.run import PipelineRunner
        from redline.serve.pipelines.webhooks import WebhookQueue
        from redline.serve.store.database import Database
    read = read_pipeline(steps)
    missing = read.missing_secrets()
    if transcript is None:
        console.complain(f"{steps}: {len(read.steps)} steps: {', '.join(step.name for step in read.steps)}")
        if missing:
            raise RedlineError(f"environment variables that are not set: {', '.join(missing)}")
        return
    from redline.types import Transcript

    queue = WebhookQueue(Database(None, data or default_data_dir()))
    about = {"source": transcript.stem, "id": None, "job_id": None, "url": None}
    outcome = PipelineRunner(queue).run(read, Transcript.load(transcript), about)
    queue.deliver_due()
    typer.echo(json.dumps(outcome.to_dict(), ensure_ascii=False, indent=2))
    for waiting in queue.deliveries("waiting"):
        console.complain(
            f"webhook {waiting.event_id} has not arrived ({waiting.seen}); a running server tries it again"
        )
    for name, message in outcome.errors.items():
        console.complain(f"step {name}: {message}")
    if outcome.failed:
        raise typer.Exit(1)
