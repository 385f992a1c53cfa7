"""`redline evaluate`: how well models hear a data set, their drafts and edited texts side by side."""

from __future__ import annotations

import json
import resource
import sys
import time
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
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock, Result
    from redline.evaluate.score import Report, Score
    from redline.manifest import Utterance
    from redline.types import Recognizer

WIDTH = 150
"""Columns of a table that is not printed to a wider terminal."""


def evaluate(
    data: Annotated[
        Path,
        typer.Option("--data", help="A manifest (one JSON a line), a folder of recordings with texts, or lhotse cuts."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A bundled name (tiny, the default), a folder or a hub id; repeat to compare."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only rows of this split, for example test.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Only rows of this language.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many utterances.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write scores and every text here.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write one HTML page with every error, sound and plots here.")
    ] = None,
    sound_minutes: Annotated[
        float, typer.Option("--sound-minutes", min=0, help="Sound kept in the report, worst utterances first.")
    ] = 15.0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; default: the best there is.")] = None,
) -> None:
    """Word error rates of the draft and of the edited text, per source, for one model or several."""
    from redline import audio
    from redline.evaluate import inputs, score  # scoring needs packages that transcription does not
    from redline.evaluate.report import ReportOptions, write

    notes = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        score.normalizer("en")  # a missing package is told before the work, not after
        utterances, without_text = inputs.read(data, split=split, language=language, limit=limit)
        if without_text:
            notes.print(f"redline: {without_text} rows without text are left out")
        title = f"{data.name}" + (f", {split}" if split else "")
        runs = [_run(name, utterances, device, title, notes) for name in model or ["tiny"]]
        _compare(runs)
        if report is not None:
            options = ReportOptions(audio_minutes=sound_minutes)
            write(report, [run for run, _ in runs], f"Redline on {title}", options, audio.load)
            notes.print(f"redline: report written to {report}")
    except RedlineError as error:
        notes.print(f"redline: {error}", style="red")
        raise typer.Exit(2) from error
    if json_path is not None:
        chosen = {"data": data.name, "split": split, "language": language, "without_text": without_text}
        values = [chosen | summary(run, clock) for run, clock in runs]
        text = json.dumps(values if len(values) > 1 else values[0], indent=1, ensure_ascii=False)
        json_path.write_text(text + "\n", encoding="utf-8")
    failed = any(result.failure for run, _ in runs for result in run.results)
    if failed:
        raise typer.Exit(1 if all(run.reports for run, _ in runs) else 2)


def _run(
    name: str, utterances: list[Utterance], device: str | None, title: str, notes: Console
) -> tuple[SystemRun, Clock]:
    """Let one model hear everything, and print its table."""
    from redline.evaluate import score
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock
    from redline.model import load_model

    started = time.perf_counter()
    recognizer = load_model(name, device=device).recognizer
    loading_s = time.perf_counter() - started
    clock = Clock()
    results = recognize(recognizer, utterances, clock, notes)
    items = [result.item for result in results if result.item is not None]
    reports = score.reports(items)
    for failure in (result.failure for result in results if result.failure is not None):
        notes.print(f"redline: {failure}", style="red")
    told = Counter(notice.code for result in results for notice in result.warnings)
    for code, number in told.most_common():
        notes.print(f"redline: warning: {number} x {code}; --json tells where", style="yellow")
    facts = _facts(recognizer, clock, loading_s)
    if reports:
        width = max(WIDTH, Console().width)  # a table in a pipe is not folded to 80 columns
        console = Console(width=width, highlight=False)
        console.print(table(reports, f"{recognizer.name} on {title}"))
        facts += _opinions(items, reports)
        for key, value in facts:
            console.print(f"  {key}: {value}")
    return SystemRun(name, results, reports, facts), clock


def _facts(recognizer: Recognizer, clock: Clock, loading_s: float) -> list[tuple[str, str]]:
    """Speed and memory, with what they depend on."""
    where = str(getattr(recognizer, "device", "cpu"))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    memory = f"{peak:.0f} MiB"
    if where.startswith("cuda"):
        import torch

        memory += f", and {torch.cuda.max_memory_allocated(where) / 2**20:.0f} MiB on {where}"
    return [
        ("speed", f"{clock.rtfx:.1f} x real time; {clock.rtfx_with_reading:.1f} x with reading and decoding files"),
        ("device", where),
        ("cold start", f"{loading_s:.1f} s to load, {clock.first_s:.1f} s for the first batch (counted in the speed)"),
        ("peak memory", memory),
    ]


def _opinions(items: Sequence[Any], reports: Sequence[Report]) -> list[tuple[str, str]]:
    """What a second scorer says, and how keywords fared."""
    from redline.evaluate import score

    found = []
    references = [score.normalizer(item.language)(item.reference) for item in items]
    edited = [score.normalizer(item.language)(item.edited) for item in items]
    count = sum(report.edited.words.count for report in reports if report.group != score.ALL)
    second = score.second_opinion(references, edited)
    if second is not None:
        same = "agrees" if second.count == count else f"DISAGREES: jiwer counts {count} errors"
        found.append(("second scorer", f"kaldialign counts {second.count} errors in {second.length} words and {same}"))
    if (keys := score.keyword_score(items)) is not None:
        found.append(
            (
                "keywords",
                f"F1 {100 * keys.f1:.1f} %, recall {100 * keys.recall:.1f} %, precision {100 * keys.precision:.1f} % "
                f"({keys.hits} of {keys.hits + keys.misses} heard, {keys.false_alarms} false alarms)",
            )
        )
    return found


def _compare(runs: Sequence[tuple[SystemRun, Clock]]) -> None:
    """Say how each further model compares with the first."""
    from redline.evaluate import report

    first = runs[0][0]
    for run, _ in runs[1:]:
        row = report.comparison(first.name, run.name, first.scored, run.scored)
        Console(highlight=False, soft_wrap=True).print(report.sentence(row))


def recognize(recognizer: Recognizer, utterances: list[Utterance], clock: Clock, notes: Console) -> list[Result]:
    """Let a recognizer hear everything, with a progress bar."""
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


def table(reports: Sequence[Report], title: str) -> Table:
    """One row per group of utterances; rates in per cent, errors of the edited text as ins/del/sub."""
    made = Table(title=title, caption="in brackets the 95 % bootstrap interval")
    made.add_column("source", no_wrap=True)
    for heading in ("utterances", "hours", "WER draft", "WER edited", "reduction", "CER", "ins/del/sub"):
        made.add_column(heading, justify="right")
    for report in reports:
        words, reduction = report.edited.words, report.relative_reduction
        made.add_row(
            report.group,
            str(report.utterances),
            f"{report.seconds / 3600:.2f}",
            percent(report.draft) if report.draft else "-",
            percent(report.edited),
            "-" if reduction is None else f"{100 * reduction:.1f} %",
            f"{100 * report.edited.characters.rate:.2f} %",
            f"{words.insertions}/{words.deletions}/{words.substitutions}",
        )
    return made


def percent(score: Score) -> str:
    """A word error rate with its interval."""
    low, high = score.interval
    return f"{100 * score.words.rate:.2f} % ({100 * low:.1f}-{100 * high:.1f})"


def summary(run: SystemRun, clock: Clock) -> dict[str, Any]:
    """What `--json` writes of a model beside the choices: the scores, and every reference with what was heard."""
    from redline.evaluate import score

    keys = score.keyword_score([result.item for result in run.results if result.item is not None])
    utterances = [
        {
            "audio": str(result.utterance.audio),
            "start": result.utterance.start,
            "source": result.item.source if result.item else result.utterance.source,
            "speaker": result.utterance.speaker,
            "reference": result.utterance.text,
            "draft": result.item.draft if result.item else None,
            "edited": result.item.edited if result.item else None,
            "confidence": result.item.confidence if result.item else None,
            "failure": result.failure,
            "warnings": [notice.to_dict() for notice in result.warnings],
        }
        for result in run.results
    ]
    return {
        "model": run.name,
        "rtfx": round(clock.rtfx, 2),
        "rtfx_with_reading": round(clock.rtfx_with_reading, 2),
        "facts": dict(run.facts),
        "keywords": keys.to_dict() if keys else None,
        "reports": [report.to_dict() for report in run.reports],
        "utterances": utterances,
    }
