"""`redline evaluate`: how well models hear a data set, their drafts and edited texts side by side."""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from redline.errors import DataError, RedlineError

if TYPE_CHECKING:
    from redline.evaluate.leaderboard import Mean
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock, Result
    from redline.evaluate.score import Report, Score
    from redline.manifest import Utterance
    from redline.types import Recognizer, Waveform

WIDTH = 150
"""Columns of a table that is not printed to a wider terminal."""


@dataclass(frozen=True)
class Data:
    """What is to be heard."""

    name: str
    title: str
    utterances: list[Utterance]
    without_text: int
    load: Callable[[Path], Waveform]
    mean: Callable[[Sequence[Report]], Mean] | None = None
    """How the sets of a leaderboard become one number."""


def evaluate(
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A manifest (one JSON a line), a folder of recordings with texts, lhotse cuts, or a data set of the "
            "Hugging Face hub: hf:owner/name, with :config and :split where it has them.",
        ),
    ] = None,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", help="Instead of --data: the eight English sets of the Open ASR leaderboard."),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A bundled name (tiny, the default), a folder or a hub id; repeat to compare."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only rows of this split, for example test.")] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="Only rows of this language; of a folder or the hub: what is spoken."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most this many utterances; with --leaderboard, of each set."),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write scores and every text here.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write one HTML page with every error, sound and plots here.")
    ] = None,
    sound_minutes: Annotated[
        float, typer.Option("--sound-minutes", min=0, help="Sound kept in the report, worst utterances first.")
    ] = 15.0,
    draft_lm: Annotated[
        str, typer.Option("--draft-lm", help="n-grams for the drafts: own (the model's), none, or a safetensors file.")
    ] = "own",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; default: the best there is.")] = None,
) -> None:
    """Word error rates of the draft and of the edited text, per source, for one model or several.

    Where the reference names speakers or times words, how well the model does that is scored too.
    """
    from redline.evaluate import score, turns  # scoring needs packages that transcription does not
    from redline.evaluate.report import ReportOptions, write

    notes = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
    try:
        score.normalizer("en")  # a missing package is told before the work, not after
        found = _read_leaderboard(data, split, language, limit) if leaderboard else _read(data, split, language, limit)
        if found.without_text:
            notes.print(f"redline: {found.without_text} rows without text are left out")
        if any(one.turns for one in found.utterances) and not turns.installed():
            notes.print(f"redline: warning: speakers will not be scored; {turns.MISSING}", style="yellow")
        runs = [_run(name, found, {"device": device, "draft_lm": draft_lm}, notes) for name in model or ["tiny"]]
        _compare(runs)
        if report is not None:
            options = ReportOptions(audio_minutes=sound_minutes)
            write(report, [run for run, _ in runs], f"Redline on {found.title}", options, found.load)
            notes.print(f"redline: report written to {report}")
    except RedlineError as error:
        notes.print(f"redline: {error}", style="red")
        raise typer.Exit(2) from error
    if json_path is not None:
        chosen = {"data": found.name, "split": split, "language": language, "without_text": found.without_text}
        values = [chosen | summary(run, clock) for run, clock in runs]
        text = json.dumps(values if len(values) > 1 else values[0], indent=1, ensure_ascii=False)
        json_path.write_text(text + "\n", encoding="utf-8")
    failed = any(result.failure for run, _ in runs for result in run.results)
    if failed:
        raise typer.Exit(1 if all(run.reports for run, _ in runs) else 2)


def _read(data: str | None, split: str | None, language: str | None, limit: int | None) -> Data:
    """What `--data` names."""
    from redline import audio
    from redline.evaluate import hub, inputs

    if data is None:
        raise DataError("nothing to hear; say --data FILE, FOLDER or hf:owner/name, or --leaderboard")
    if data.startswith(hub.PREFIX):
        address = hub.parse(data, split)
        return Data(str(address), str(address), *hub.read(address, language=language, limit=limit))
    path = Path(data)
    utterances, without_text = inputs.read(path, split=split, language=language, limit=limit)
    return Data(path.name, path.name + (f", {split}" if split else ""), utterances, without_text, audio.load)


def _read_leaderboard(data: str | None, split: str | None, language: str | None, limit: int | None) -> Data:
    """What `--leaderboard` stands for."""
    from redline.evaluate import leaderboard

    if data is not None or split is not None or language is not None:
        raise DataError("--leaderboard has its own data, splits and language; leave out --data, --split and --language")
    mean = functools.partial(leaderboard.mean, limit=limit)
    return Data("leaderboard", leaderboard.TITLE, *leaderboard.read(limit), mean)


def _run(name: str, data: Data, loading: dict[str, Any], notes: Console) -> tuple[SystemRun, Clock]:
    """Let one model hear everything, and print its table."""
    from redline.evaluate import score
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock
    from redline.model import load_model

    started = time.perf_counter()
    recognizer = load_model(name, **loading).recognizer
    loading_s = time.perf_counter() - started
    clock = Clock()
    results = recognize(recognizer, data.utterances, clock, notes, data.load)
    items = [result.item for result in results if result.item is not None]
    reports = score.reports(items)
    for failure in (result.failure for result in results if result.failure is not None):
        notes.print(f"redline: {failure}", style="red")
    told = Counter(notice.code for result in results for notice in result.warnings)
    for code, number in told.most_common():
        notes.print(f"redline: warning: {number} x {code}; --json tells where", style="yellow")
    facts, values = _facts(recognizer, clock, loading_s), dict[str, Any]()
    if reports:
        width = max(WIDTH, Console().width)  # a table in a pipe is not folded to 80 columns
        console = Console(width=width, highlight=False, markup=False, emoji=False)  # names are printed as they are
        console.print(table(reports, f"{recognizer.name} on {data.title}"))
        facts += _opinions(items, reports)
        for key, fact, scores in _further_scores(results, reports, data):
            facts.append((key, fact))
            values |= scores
        for key, value in facts:
            console.print(f"  {key}: {value}")
    return SystemRun(name, results, reports, facts, values), clock


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


def _further_scores(
    results: Sequence[Result], reports: Sequence[Report], data: Data
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Scores that only some references or models have: name, line and numbers for `--json`."""
    from redline.evaluate import languages, score, times, turns, written

    for kind in ("", f", {score.SYNTHETIC}"):  # never mixed with human voices
        mine = [one for one in results if one.item is not None and (one.item.source == score.SYNTHETIC) == bool(kind)]
        key = kind.replace(", ", "_")
        try:
            if (speakers := turns.score(mine)) is not None:
                yield f"cpWER{kind}", str(speakers), {f"speakers{key}": speakers.to_dict()}
        except RedlineError as error:  # after hours of work, what could be counted is not thrown away
            yield f"cpWER{kind}", str(error), {f"speakers{key}": None}
        if (timed := times.score(mine)) is not None:
            yield f"word times{kind}", str(timed), {f"word_times{key}": timed.to_dict()}
        if (forms := written.score([one.item for one in mine if one.item is not None])) is not None:
            yield f"written form{kind}", str(forms), {f"written{key}": forms.to_dict()}
        if (found := languages.score(mine)) is not None:
            yield f"languages{kind}", str(found), {f"languages{key}": found.to_dict()}
    if data.mean is not None:
        try:
            mean = data.mean(reports)
            yield "mean of sets", str(mean), {"mean_of_sets": mean.to_dict()}
        except RedlineError as error:
            yield "mean of sets", str(error), {"mean_of_sets": None}


def _compare(runs: Sequence[tuple[SystemRun, Clock]]) -> None:
    """Say how each further model compares with the first."""
    from redline.evaluate import report

    first = runs[0][0]
    for run, _ in runs[1:]:
        row = report.comparison(first.name, run.name, first.scored, run.scored)
        Console(highlight=False, soft_wrap=True).print(report.sentence(row))


def recognize(
    recognizer: Recognizer,
    utterances: list[Utterance],
    clock: Clock,
    notes: Console,
    load: Callable[[Path], Waveform] | None = None,
) -> list[Result]:
    """Let a recognizer hear everything, with a progress bar; `load` reads recordings that are no files."""
    from redline import audio
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
        for batch in run.run(recognizer, utterances, clock, load or audio.load):
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
            "id": result.utterance.id,
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
        **dict.fromkeys(("speakers", "word_times", "mean_of_sets")),
        **run.values,
        "reports": [report.to_dict() for report in run.reports],
        "utterances": utterances,
    }
