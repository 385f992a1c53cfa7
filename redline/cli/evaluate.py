"""`redline evaluate`: error rates of models on a data set, their drafts and edited texts side by side."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from redline import files
from redline.cli import console
from redline.cli.stopping import Stopper
from redline.cli.train import Device, DraftLm, EncoderEngine, ModelEffort, Precision, Punctuate, Threads
from redline.errors import DataError

if TYPE_CHECKING:
    from redline.evaluate.datasets.dataset import Dataset
    from redline.evaluate.result import Result
    from redline.evaluate.run import Clock
    from redline.evaluate.systems import SystemRun
    from redline.evaluate.tasks import EvaluationOptions
    from redline.transcriber import Transcriber
    from redline.types import Task

TABLE_WIDTH = 150
"""Columns of a table that is not printed to a wider terminal."""
_DATA_HELP = """A manifest (one JSON a line), a folder of recordings with texts, lhotse cuts, or a data set of the
Hugging Face hub: hf:owner/name, with :config and :split where it has them."""


def evaluate(
    data: Annotated[str | None, typer.Option(help=_DATA_HELP)] = None,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="The eight sets of the Open ASR leaderboard.")
    ] = False,
    model: Annotated[list[str] | None, typer.Option(help="tiny, a folder or a hub id; repeat to compare.")] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this split, for example test.")] = None,
    language: Annotated[str | None, typer.Option(help="Only its rows; of a folder or hub: the spoken one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many utterances, of each set.")] = None,
    speakers: Annotated[bool, typer.Option("--speakers", help="Ask who speaks; cpWER needs rows with turns.")] = False,
    word_times: Annotated[bool, typer.Option("--word-timestamps", help="Ask when each word is said.")] = False,
    keywords: Annotated[bool, typer.Option("--keywords", help="Tell the model the keywords of each row.")] = False,
    distractors: Annotated[int, typer.Option(min=0, help="With keywords: so many that are not said as well.")] = 0,
    compare: Annotated[bool, typer.Option("--compare-keywords", help="Run without and with keywords.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write scores and every text here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with all errors, sound and plots here.")] = None,
    sound_minutes: Annotated[float, typer.Option(min=0, help="Sound in the page, worst utterances first.")] = 15.0,
    effort: ModelEffort = "full",
    punctuate: Punctuate = True,
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Word error rates of the draft and of the edited text, per source, for one model or several.

    Where the reference names speakers, times words or has keywords, how well the model does that is scored too. Ctrl-C
    scores what is done, and writes it to FILE.partial beside the file of --json.
    """
    # Scoring needs packages that transcription does not.
    from redline.evaluate.report import write_report
    from redline.evaluate.systems import comparisons
    from redline.evaluate.tasks import EvaluationOptions
    from redline.normalize import normalizer

    notes = console.Notes()
    if distractors and not (keywords or compare):
        raise typer.BadParameter("needs --keywords or --compare-keywords", param_hint="--distractors")
    plain = EvaluationOptions(speakers, word_times)
    prompted = replace(plain, keywords=True, distractors=distractors)
    asks = [plain, prompted] if compare else [prompted if keywords else plain]
    normalizer("en")  # a missing package is reported before the work, not after
    dataset = _read(data, leaderboard, split, language, limit)
    read = [Path(data or ""), Path(draft_lm), *(row.audio for row in dataset.utterances)]
    console.check_outputs([path for path in (json_path, report) if path is not None], read)
    _tell_what_is_not_scored(dataset, plain, notes)
    loading = {"device": device, "dtype": dtype, "engine": engine, "draft_lm": draft_lm, "threads": threads}
    loading |= {"effort": effort, "punctuate": punctuate}
    chosen = {"data": dataset.name, "split": split, "language": language, "without_text": dataset.without_text}
    runs: list[SystemRun] = []
    names = model or ["tiny"]
    with Stopper() as stopper:
        try:
            for name in names:
                for run in _evaluate_model(name, dataset, asks, loading, notes):
                    runs.append(run)
        except KeyboardInterrupt:
            done = sum(len(run.results) for run in runs)
            notes.say(f"interrupted; {done} of {len(names) * len(asks) * len(dataset.utterances)} are done", "yellow")
            if runs and json_path is not None:
                json_path = json_path.with_name(f"{json_path.name}.partial")
                _write_scores(json_path, runs, comparisons(runs), chosen)
                notes.say(f"what was done is in {json_path}", "yellow")
            raise typer.Exit(stopper.status) from None
    out, rows = console.results(), comparisons(runs)
    for row in rows:
        out.print(row["text"])
        if row["keywords"] is not None:
            out.print(f"{row['second']} against {row['first']}: {row['keywords']['text']}")
    if report is not None:
        title = f"Redline on {dataset.title or dataset.name}"
        write_report(report, runs, title, dataset.load, sound_minutes)
        notes.say(f"report written to {report}")
    if json_path is not None:
        _write_scores(json_path, runs, rows, chosen)
    if any(result.failure for run in runs for result in run.results):
        raise typer.Exit(1 if all(run.scored for run in runs) else 2)


def _write_scores(
    path: Path, runs: Sequence[SystemRun], rows: Sequence[dict[str, Any]], chosen: dict[str, Any]
) -> None:
    """Scores, comparisons and every text as JSON: an object, or a list where there are several runs."""
    values = [{**chosen, **run.to_dict(), "comparison": row} for run, row in zip(runs, [None, *rows], strict=True)]
    text = json.dumps(values if len(values) > 1 else values[0], indent=1, ensure_ascii=False)
    files.write_text(path, text + "\n")


def _read(data: str | None, leaderboard: bool, split: str | None, language: str | None, limit: int | None) -> Dataset:
    """What `--data` names or `--leaderboard` stands for."""
    from redline.evaluate.datasets.dataset import DatasetOptions
    from redline.evaluate.datasets.leaderboard import read_leaderboard
    from redline.evaluate.datasets.registry import read_dataset

    if leaderboard and (data, split, language) != (None, None, None):
        raise DataError("--leaderboard has its own data, splits and language; leave out --data, --split and --language")
    if leaderboard:
        return read_leaderboard(limit)
    if data is None:
        raise DataError("nothing to hear; say --data FILE, FOLDER or hf:owner/name, or --leaderboard")
    return read_dataset(data, DatasetOptions(split, language, limit))


def _tell_what_is_not_scored(dataset: Dataset, options: EvaluationOptions, notes: console.Notes) -> None:
    from redline.evaluate.metrics import cpwer

    if dataset.without_text:
        notes.say(f"{dataset.without_text} rows without text are left out")
    if any(row.turns for row in dataset.utterances) and not cpwer.is_meeteval_installed():
        notes.say(f"warning: speakers will not be scored; {cpwer.MISSING_MEETEVAL}", "yellow")
    asked = ((options.speakers, "turns", "speakers are"), (options.words, "words", "times of words are"))
    for is_asked, field, what in asked:
        if is_asked and not any(getattr(row, field) for row in dataset.utterances):
            notes.say(f"warning: no row has {field}, so {what} not scored", "yellow")


def _evaluate_model(
    name: str, dataset: Dataset, asks: Sequence[EvaluationOptions], loading: dict[str, Any], notes: console.Notes
) -> Iterator[SystemRun]:
    """One run over the data set for each way to ask, each with its table; an interrupted one is the last."""
    from redline.evaluate.result import Result
    from redline.evaluate.run import Clock
    from redline.evaluate.systems import SystemRun, speed_facts
    from redline.evaluate.tasks import count_short_prompts, describe_tasks, tasks_of
    from redline.load import load_model

    rows = dataset.utterances
    tasks = [tasks_of(rows, options) for options in asks]
    started = time.perf_counter()
    transcriber = load_model(name, **loading)
    loading_s = time.perf_counter() - started
    for task in dict.fromkeys(chain(*tasks)):
        transcriber.check(task)  # what it cannot do is refused before hours of work
    for number, (options, each) in enumerate(zip(asks, tasks, strict=True)):
        if short := count_short_prompts(each, rows, options):
            message = f"warning: {short} prompts have fewer than {options.distractors} distractors; "
            notes.say(message + "the other rows have no more keywords", "yellow")
        clock = Clock()
        results, interruption = list[Result](), None
        try:
            for result in run_over(transcriber, dataset, clock, notes, each):
                results.append(result)
        except KeyboardInterrupt as stop:
            interruption = stop
        facts = [("asked for", description)] if (description := describe_tasks(each, rows)) else []
        if loading["effort"] == "auto":
            unread, segments = (sum(counts) for counts in zip((0, 0), *(row.unread for row in results), strict=True))
            facts.append(("effort", f"auto: the language model read {segments - unread} of {segments} segments"))
        facts += speed_facts(clock, loading_s, str(getattr(transcriber.recognizer, "device", "cpu")))
        if interruption is not None:
            facts.append(("interrupted", f"the scores are of {len(results)} of {len(rows)} utterances, longest first"))
        suffix, baseline = (" with keywords", name) if number else ("", None)
        run = SystemRun(name + suffix, results, clock, facts, baseline=baseline)
        if results:
            run.add_scores(dataset.metrics)
            _print_run(run, f"{transcriber.name}{suffix} on {dataset.title or dataset.name}", notes)
            yield run
        if interruption is not None:
            raise interruption


def _print_run(run: SystemRun, title: str, notes: console.Notes) -> None:
    for result in run.results:
        if result.failure is not None:
            console.complain(result.failure)
    for code, number in Counter(notice.code for result in run.results for notice in result.warnings).most_common():
        notes.say(f"warning: {number} x {code}; --json tells where", "yellow")
    if run.scored:
        width = max(TABLE_WIDTH, Console().width)  # a table in a pipe is not folded to 80 columns
        out = Console(width=width, highlight=False, markup=False, emoji=False)  # names are printed as they are
        out.print(wer_table(run.reports, title))
        for name, line in run.facts:
            out.print(f"  {name}: {line}", soft_wrap=True)


def run_over(
    transcriber: Transcriber, dataset: Dataset, clock: Clock, notes: Console, tasks: Sequence[Task] | None = None
) -> Iterator[Result]:
    """The results of a model on a data set, with a progress bar; `tasks` is None for the text only."""
    from redline.evaluate import run

    bars = (BarColumn(), "{task.completed} of {task.total} utterances", TimeElapsedColumn(), TimeRemainingColumn())
    with console.progress(notes, "{task.description}", *bars) as bar:
        task = bar.add_task("recognizing", total=len(dataset.utterances))
        for result in run.run(transcriber, dataset.utterances, clock, dataset.load, tasks):
            yield result
            bar.update(task, advance=1, description=f"{clock.rtfx:.0f} x real time")


def wer_table(reports: Sequence[dict[str, Any]], title: str) -> Table:
    """One row per group of utterances; rates in per cent, errors of the edited text as ins/del/sub."""
    from redline.evaluate.metrics.wer import describe_wer

    table = Table(title=title, caption="in brackets the 95 % bootstrap interval")
    table.add_column("source", no_wrap=True)
    for heading in "utterances", "hours", "WER draft", "WER edited", "reduction", "CER", "ins/del/sub":
        table.add_column(heading, justify="right")
    for report in reports:
        edited, reduction = report["edited"], report["relative_reduction"]
        table.add_row(
            report["group"],
            str(report["utterances"]),
            f"{report['hours']:.2f}",
            describe_wer(report["draft"]) if report["draft"] else "-",
            describe_wer(edited),
            "-" if reduction is None else f"{100 * reduction:.1f} %",
            "-" if edited["cer"] is None else f"{100 * edited['cer']:.2f} %",
            f"{edited['insertions']}/{edited['deletions']}/{edited['substitutions']}",
        )
    return table
