"""`redline check`: what a manifest holds and what in it will not train, before hours are spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, TimeRemainingColumn
from rich.table import Table

from redline.cli import console
from redline.errors import packages_of

if TYPE_CHECKING:
    from redline.prepare.inspection import Inspection


def check(
    manifest: Annotated[Path, typer.Argument(help="The manifest (.jsonl) that is to train a model.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Also look for what this model's tokenizer and encoder do not know.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with the lines of each finding.")
    ] = False,
) -> None:
    """Look through a manifest without training: hours, speakers, languages, and what is wrong with it.

    Found are lines that cannot be read, missing files, durations that are not those of the files, ids and sounds that
    come twice, speakers and texts in several splits, texts too long for their sound, and with --model characters that
    it does not know. Exit status 1 where something cannot be trained on, 2 for a file that is no manifest.
    """
    from redline.prepare.inspection import inspect, recording_length, vocabulary_of

    vocabulary = vocabulary_of(model) if model is not None else None
    columns = ("looking at recordings", BarColumn(), TimeRemainingColumn())
    with packages_of("train", "check"), console.progress(console.Notes(), *columns) as bar:
        task = bar.add_task("")
        inspection = inspect(
            manifest, recording_length, vocabulary, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), ensure_ascii=False))
    else:
        _print(inspection)
    if not inspection.ok:
        raise typer.Exit(1)


def _print(inspection: Inspection) -> None:
    out = console.results()
    table = Table("split", "utterances", "hours", "speakers", "languages (hours)", box=None, pad_edge=False)
    for name, split in inspection.splits.items():
        languages = ", ".join(f"{key or 'not said'} {value:.2f}" for key, value in split["hours_by_language"].items())
        speakers = str(split["speakers"] or "not said")
        table.add_row(name or "(none)", str(split["utterances"]), f"{split['hours']:.2f}", speakers, languages)
    out.print(table)
    for finding in inspection.findings:
        shown = ", ".join(map(str, finding.lines[:8])) + (", ..." if len(finding.lines) > 8 else "")
        where = f" (line {shown})" if finding.lines else ""
        style = "red" if finding.level == "error" else "yellow"
        out.print(console.printable(f"{finding.level}: {finding.message}{where}"), style=style)
    if not inspection.findings:
        out.print("nothing is wrong with it")
