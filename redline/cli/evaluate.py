"""`redline evaluate`: how well models hear a data set, their drafts and edited texts side by side."""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from redline import files
from redline.cli import console
from redline.errors import DataError, RedlineError

if TYPE_CHECKING:
    from redline.evaluate.leaderboard import Mean
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock, Result
    from redline.evaluate.tasks import TaskOptions
    from redline.evaluate.wer import Report, Score
    from redline.manifest import Utterance
    from redline.transcriber import Transcriber
    from redline.types import Recognizer, Task, Waveform

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
    speakers: Annotated[bool, typer.Option("--speakers", help="Ask who speaks; cpWER needs rows with turns.")] = False,
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="Ask when each word is said; scored where rows have words.")
    ] = False,
    keywords: Annotated[bool, typer.Option("--keywords", help="Tell the model the keywords of each row.")] = False,
    distractors: Annotated[
        int,
        typer.Option("--distractors", min=0, help="With keywords: so many of other rows as well, none of them said."),
    ] = 0,
    compare_keywords: Annotated[
        bool,
        typer.Option(
            "--compare-keywords", help="Hear everything without and with keywords, and tell what they change."
        ),
    ] = False,
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
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that compute; default: the CPUs it may use.")
    ] = None,
) -> None:
    """Word error rates of the draft and of the edited text, per source, for one model or several.

    Where the reference names speakers, times words or has keywords, how well the model does that is scored too.
    """
    from redline.evaluate import cpwer
    from redline.evaluate import wer as score  # scoring needs packages that transcription does not
    from redline.evaluate.json_report import summary
    from redline.evaluate.report import ReportOptions, comparisons, write
    from redline.evaluate.tasks import TaskOptions

    notes = console.Notes()
    if distractors and not (keywords or compare_keywords):
        raise typer.BadParameter("needs --keywords or --compare-keywords", param_hint="--distractors")
    plain = TaskOptions(speakers, word_timestamps)
    prompted = replace(plain, keywords=True, distractors=distractors)
    asks = [plain, prompted] if compare_keywords else [prompted if keywords else plain]
    try:
        for path in filter(None, (json_path, report)):
            files.check_writable(path)
            files.sweep(path.parent)
        score.normalizer("en")  # a missing package is told before the work, not after
        found = _read_leaderboard(data, split, language, limit) if leaderboard else _read(data, split, language, limit)
        if found.without_text:
            notes.print(f"redline: {found.without_text} rows without text are left out")
        if any(one.turns for one in found.utterances) and not cpwer.installed():
            notes.print(f"redline: warning: speakers will not be scored; {cpwer.MISSING}", style="yellow")
        for wanted, option, field in (
            (speakers, "--speakers", "turns"),
            (word_timestamps, "--word-timestamps", "words"),
        ):
            if wanted and not any(getattr(one, field) for one in found.utterances):
                message = f"redline: warning: no row has {field}, so what {option} asks for is not scored"
                notes.print(message, style="yellow")
        loading = {"device": device, "draft_lm": draft_lm, "threads": threads}
        runs = [run for name in model or ["tiny"] for run in _run(name, found, asks, loading, notes)]
        rows = comparisons([run for run, _ in runs])
        _tell(rows)
        if report is not None:
            options = ReportOptions(audio_minutes=sound_minutes)
            write(report, [run for run, _ in runs], f"Redline on {found.title}", options, found.load)
            notes.print(f"redline: report written to {report}")
    except RedlineError as error:
        raise console.refused(error) from error
    if json_path is not None:
        chosen = {"data": found.name, "split": split, "language": language, "without_text": found.without_text}
        values = [
            chosen | summary(run, clock) | {"comparison": row}
            for (run, clock), row in zip(runs, [None, *rows], strict=True)
        ]
        text = json.dumps(values if len(values) > 1 else values[0], indent=1, ensure_ascii=False)
        files.write_text(json_path, text + "\n")
    failed = any(result.failure for run, _ in runs for result in run.results)
    if failed:
        raise typer.Exit(1 if all(run.reports for run, _ in runs) else 2)


def _read(data: str | None, split: str | None, language: str | None, limit: int | None) -> Data:
    """What `--data` names."""
    from redline import audio
    from redline.evaluate import datasets, hub

    if data is None:
        raise DataError("nothing to hear; say --data FILE, FOLDER or hf:owner/name, or --leaderboard")
    if data.startswith(hub.PREFIX):
        address = hub.pinned(hub.parse(data, split))
        return Data(str(address), str(address), *hub.read(address, language=language, limit=limit))
    path = Path(data)
    utterances, without_text = datasets.read(path, split=split, language=language, limit=limit)
    return Data(path.name, path.name + (f", {split}" if split else ""), utterances, without_text, audio.load)


def _read_leaderboard(data: str | None, split: str | None, language: str | None, limit: int | None) -> Data:
    """What `--leaderboard` stands for."""
    from redline.evaluate import leaderboard

    if data is not None or split is not None or language is not None:
        raise DataError("--leaderboard has its own data, splits and language; leave out --data, --split and --language")
    mean = functools.partial(leaderboard.mean, limit=limit)
    return Data("leaderboard", leaderboard.TITLE, *leaderboard.read(limit), mean)


def _run(
    name: str, data: Data, asks: Sequence[TaskOptions], loading: dict[str, Any], notes: Console
) -> list[tuple[SystemRun, Clock]]:
    """Let one model hear everything once for each way to ask, and print a table of each."""
    from redline.evaluate import tasks as asking
    from redline.load import load_model

    tasks = [asking.tasks(data.utterances, options) for options in asks]
    started = time.perf_counter()
    transcriber = load_model(name, **loading)
    loading_s = time.perf_counter() - started
    asking.check(transcriber.recognizer, [task for each in tasks for task in each])
    made = []
    for number, (options, each) in enumerate(zip(asks, tasks, strict=True)):
        if (short := asking.short(each, data.utterances, options)) > 0:
            message = f"redline: warning: {short} prompts have fewer than {options.distractors} distractors; "
            notes.print(message + "the other rows have no more keywords", style="yellow")
        made.append(_hear(name, transcriber, data, each, loading_s, notes, baseline=name if number else None))
    return made


def _hear(
    name: str,
    transcriber: Transcriber,
    data: Data,
    tasks: Sequence[Task],
    loading_s: float,
    notes: Console,
    baseline: str | None,
) -> tuple[SystemRun, Clock]:
    """One table: what a model heard when it was asked so; `baseline` is its run without keywords."""
    from redline.evaluate import metrics
    from redline.evaluate import tasks as asking
    from redline.evaluate import wer as score
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock

    clock, suffix = Clock(), " with keywords" if baseline else ""
    results = recognize(transcriber, data.utterances, clock, notes, data.load, tasks)
    reports = score.reports([result.item for result in results if result.item is not None])
    for failure in (result.failure for result in results if result.failure is not None):
        console.complain(failure)
    told = Counter(notice.code for result in results for notice in result.warnings)
    for code, number in told.most_common():
        notes.print(f"redline: warning: {number} x {code}; --json tells where", style="yellow")
    facts, values = _facts(transcriber.recognizer, clock, loading_s), dict[str, Any]()
    if asked := asking.describe(tasks, data.utterances):
        facts.insert(0, ("asked for", asked))
    if reports:
        width = max(WIDTH, Console().width)  # a table in a pipe is not folded to 80 columns
        out = Console(width=width, highlight=False, markup=False, emoji=False)  # names are printed as they are
        out.print(table(reports, f"{transcriber.name}{suffix} on {data.title}"))
        if (second := metrics.second_opinion(results, reports)) is not None:
            facts.append(("second scorer", second))
        for key, fact, scores in (*metrics.scores(results), *_mean(data, reports)):
            facts.append((key, fact))
            values |= scores
        for key, value in facts:
            out.print(f"  {key}: {value}", soft_wrap=True)
    return SystemRun(name + suffix, results, reports, facts, values, baseline), clock


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


def _mean(data: Data, reports: Sequence[Report]) -> list[tuple[str, str, dict[str, Any]]]:
    """The one number of a leaderboard, like a further score."""
    if data.mean is None:
        return []
    try:
        mean = data.mean(reports)
        return [("mean of sets", str(mean), {"mean_of_sets": mean.to_dict()})]
    except RedlineError as error:
        return [("mean of sets", str(error), {"mean_of_sets": None})]


def _tell(rows: Sequence[dict[str, Any]]) -> None:
    """Say how each further run compares with its baseline."""
    from redline.evaluate import report

    out = Console(highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        out.print(report.sentence(row))
        if row["keywords"] is not None:
            out.print(f"{row['second']} against {row['first']}: {row['keywords']['text']}")


def recognize(
    transcriber: Transcriber,
    utterances: list[Utterance],
    clock: Clock,
    notes: Console,
    load: Callable[[Path], Waveform] | None = None,
    tasks: Sequence[Task] | None = None,
) -> list[Result]:
    """Transcribe everything, with a progress bar.

    `load` reads recordings that are no files; `tasks` has what is asked about each utterance, None the text only.
    """
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
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("recognizing", total=len(utterances))
        for result in run.run(transcriber, utterances, clock, load or audio.load, tasks):
            results.append(result)
            bar.update(task, advance=1, description=f"{clock.rtfx:.0f} x real time")
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
