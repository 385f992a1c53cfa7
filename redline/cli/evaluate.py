"""`redline evaluate`: how well a model hears a manifest, its draft and its edited text side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from redline.errors import RedlineError

if TYPE_CHECKING:
    from redline.evaluate.run import Clock, Result, Utterance
    from redline.evaluate.score import Report, Score
    from redline.types import Recognizer

WIDTH = 150
"""Columns of a table that is not printed to a wider terminal."""


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Manifest: one JSON a line with audio and text.")],
    model: Annotated[str, typer.Option("--model", help="A bundled name, a folder or a hub id.")] = "tiny",
    split: Annotated[str | None, typer.Option("--split", help="Only rows of this split, for example test.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Only rows of this language.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many utterances.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write scores and every text here.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; default: the best there is.")] = None,
) -> None:
    """Word error rates of the draft and of the edited text, per source of a manifest."""
    from redline.evaluate import run, score  # scoring needs packages that transcription does not
    from redline.model import load_model

    notes = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        score.normalizer("en")  # a missing package is told before the work, not after
        utterances, without_text = run.read_manifest(data, split=split, language=language, limit=limit)
        if without_text:
            notes.print(f"redline: {without_text} rows without text are left out")
        recognizer = load_model(model, device=device).recognizer
        clock = run.Clock()
        results = _recognize(recognizer, utterances, clock, notes)
        reports = score.reports([result.item for result in results if result.item is not None])
    except RedlineError as error:
        notes.print(f"redline: {error}", style="red")
        raise typer.Exit(2) from error
    failures = [result.failure for result in results if result.failure is not None]
    for failure in failures:
        notes.print(f"redline: {failure}", style="red")
    told = Counter(notice.code for result in results for notice in result.warnings)
    for code, count in told.most_common():
        notes.print(f"redline: warning: {count} x {code}; --json tells where", style="yellow")
    if reports:
        title = f"{recognizer.name} on {data.name}" + (f", {split}" if split else "")
        width = max(WIDTH, Console().width)  # a table in a pipe is not folded to 80 columns
        Console(width=width).print(table(reports, title, clock.rtfx))
    if json_path is not None:
        chosen = {"model": recognizer.name, "data": data.name, "split": split, "language": language}
        values = chosen | summary(results, reports, clock.rtfx, without_text)
        json_path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if failures:
        raise typer.Exit(1 if reports else 2)


def _recognize(recognizer: Recognizer, utterances: list[Utterance], clock: Clock, notes: Console) -> list[Result]:
    from redline.evaluate import run

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} utterances"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    results: list[Result] = []
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("recognizing", total=len(utterances))
        for batch in run.run(recognizer, utterances, clock):
            results += batch
            bar.update(task, advance=len(batch), description=f"{clock.rtfx:.0f} x real time")
    return results


def table(reports: Sequence[Report], title: str, rtfx: float) -> Table:
    """One row per group of utterances; rates in per cent, errors of the edited text as ins/del/sub."""
    made = Table(title=title, caption=f"{rtfx:.1f} x real time; in brackets the 95 % bootstrap interval")
    made.add_column("source", no_wrap=True)
    for heading in ("utterances", "hours", "WER draft", "WER edited", "reduction", "CER", "ins/del/sub"):
        made.add_column(heading, justify="right")
    for report in reports:
        words, reduction = report.edited.words, report.relative_reduction
        made.add_row(
            report.group,
            str(report.utterances),
            f"{report.seconds / 3600:.2f}",
            _wer(report.draft) if report.draft else "-",
            _wer(report.edited),
            "-" if reduction is None else f"{100 * reduction:.1f} %",
            f"{100 * report.edited.characters.rate:.2f} %",
            f"{words.insertions}/{words.deletions}/{words.substitutions}",
        )
    return made


def _wer(score: Score) -> str:
    low, high = score.interval
    return f"{100 * score.words.rate:.2f} % ({100 * low:.1f}-{100 * high:.1f})"


def summary(results: Sequence[Result], reports: Sequence[Report], rtfx: float, without_text: int) -> dict[str, Any]:
    """What `--json` writes beside the choices: the scores, and every reference with what was heard."""
    utterances = [
        {
            "audio": str(result.utterance.path),
            "start": result.utterance.start,
            "source": result.utterance.source,
            "reference": result.utterance.text,
            "draft": result.item.draft if result.item else None,
            "edited": result.item.edited if result.item else None,
            "failure": result.failure,
            "warnings": [notice.to_dict() for notice in result.warnings],
        }
        for result in results
    ]
    return {
        "rtfx": round(rtfx, 2),
        "without_text": without_text,
        "reports": [report.to_dict() for report in reports],
        "utterances": utterances,
    }
