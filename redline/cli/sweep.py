"""`redline sweep`: which windows, overlaps and prefixes suit a model on long recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from redline import files
from redline.cli import console
from redline.cli.evaluate import TABLE_WIDTH
from redline.cli.stopping import Stopper
from redline.cli.train import Device, DraftLm, EncoderEngine, ModelEffort, Precision, Punctuate, Threads
from redline.errors import ConfigError, DataError, UnsupportedTaskError
from redline.types import listed

if TYPE_CHECKING:
    from redline.evaluate.seams import LongRecording
    from redline.evaluate.sweep import StrategyScore

_PREFIX_HELP = "none, previous: each window behind the one before it, going on from its text (Plus models)."


def sweep(
    data: Annotated[str, typer.Option(help="A labelled set: a manifest, a folder with texts, hf:owner/name.")],
    model: Annotated[list[str] | None, typer.Option(help="tiny, a folder or a hub id; repeat to compare.")] = None,
    windows: Annotated[
        str, typer.Option(help="Longest windows in seconds; max is what the model takes.")
    ] = "10,20,max",
    overlaps: Annotated[str, typer.Option(help="Seconds of both neighbours that are heard with a window.")] = "0,2",
    cuts: Annotated[str, typer.Option(help="pauses: as transcribe cuts; fixed: all of one length.")] = "pauses,fixed",
    prefixes: Annotated[str, typer.Option(help=_PREFIX_HELP)] = "none,previous",
    minutes: Annotated[float, typer.Option(min=0, help="Join utterances to so many minutes; 0: not at all.")] = 10.0,
    pause_s: Annotated[float, typer.Option("--pause", min=0, help="Seconds of silence between the joined.")] = 0.5,
    split: Annotated[str | None, typer.Option(help="Only rows of this split: dev, to choose by.")] = None,
    language: Annotated[str | None, typer.Option(help="Only its rows; of a folder or hub: the spoken one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many utterances.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all scores here.")] = None,
    effort: ModelEffort = "full",
    punctuate: Punctuate = True,
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Measure word errors, errors at seams and speed over window lengths, overlaps and prefixes.

    The utterances are joined to long recordings, which are transcribed by every strategy that the model can follow. At
    a seam are the two words on each side of it. Ctrl-C keeps what is measured.
    """
    from redline.evaluate.datasets.dataset import DatasetOptions
    from redline.evaluate.datasets.registry import read_dataset
    from redline.evaluate.run import clip
    from redline.evaluate.seams import join_utterances
    from redline.evaluate.sweep import run_strategy, strategies_of
    from redline.load import load_model
    from redline.normalize import normalizer

    chosen = strategies_of(
        _words("--cuts", cuts, "pauses", "fixed"),
        _numbers("--windows", windows, 1.0),
        [each for each in _numbers("--overlaps", overlaps, 0.0) if each is not None],
        _words("--prefixes", prefixes, "none", "previous"),
    )
    if not chosen:
        raise typer.BadParameter("previous takes no overlap; add an overlap of 0", param_hint="--prefixes")
    normalizer("en")  # a missing package is reported before the work, not after
    dataset = read_dataset(data, DatasetOptions(split, language, limit))
    if json_path is not None:
        console.check_outputs([json_path], [row.audio for row in dataset.utterances])
    notes, scores, left_out = console.Notes(), list["StrategyScore"](), list[dict[str, Any]]()
    recordings = list(
        join_utterances(
            dataset.utterances,
            lambda row: clip(dataset.load(row.audio), row),
            longest_s=60 * minutes,
            pause_s=pause_s,
        )
    )
    if dataset.without_text:
        notes.say(f"{dataset.without_text} rows without text are left out")
    notes.say(f"{len(recordings)} recordings, {_hours(recordings):.2f} hours; {len(chosen)} strategies", "dim")
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "engine": engine, "draft_lm": draft_lm}
    loading |= {"threads": threads, "effort": effort, "punctuate": punctuate}
    stopped = None
    with Stopper() as stopper:
        try:
            for name in model or ["tiny"]:
                loaded = load_model(name, **loading)
                for strategy in chosen:
                    try:
                        scores.append(run_strategy(loaded, recordings, strategy))
                    except (ConfigError, UnsupportedTaskError) as error:
                        left_out.append({"model": name, "strategy": strategy.to_dict(), "reason": str(error)})
                        notes.say(f"{name}, {' '.join(_columns(strategy))}: left out: {error}", "yellow")
                        continue
                    notes.say(f"{' '.join(_row(scores[-1]))}", "dim")
        except KeyboardInterrupt:
            stopped = stopper.status
            notes.say("interrupted; this is what was measured", "yellow")
    if scores:
        width = max(TABLE_WIDTH, Console().width)
        Console(width=width, highlight=False, markup=False, emoji=False).print(sweep_table(scores))
    if json_path is not None:
        rows = [score.to_dict() | {"errors_per_seam": score.errors_per_seam} for score in scores]
        values = {"data": dataset.name, "split": split, "minutes": minutes, "pause_s": pause_s}
        files.write_text(json_path, json.dumps(values | {"scores": rows, "left_out": left_out}, indent=1) + "\n")
    if stopped is not None:
        raise typer.Exit(stopped)
    if not scores:
        raise DataError("no strategy can be followed by the model; choose other windows and overlaps")


def _words(option: str, text: str, *allowed: str) -> list[str]:
    words = list(dict.fromkeys(listed(text)))
    if not words or set(words) - set(allowed):
        raise typer.BadParameter(f"{text!r}; allowed are {', '.join(allowed)}, with commas", param_hint=option)
    return words


def _numbers(option: str, text: str, least: float) -> list[float | None]:
    """Seconds with commas; `max` is None."""
    numbers: list[float | None] = []
    for word in listed(text):
        try:
            number = None if word == "max" and least else float(word)
        except ValueError:
            number = -1.0
        if number is not None and not least <= number < float("inf"):
            more = ", or max" if least else ""
            raise typer.BadParameter(f"{word!r}; allowed are seconds from {least:g} on{more}", param_hint=option)
        numbers.append(number)
    if not numbers:
        raise typer.BadParameter("no number; give seconds with commas", param_hint=option)
    return list(dict.fromkeys(numbers))


def _hours(recordings: list[LongRecording]) -> float:
    return sum(each.wave.duration for each in recordings) / 3600


def _columns(strategy: Any) -> list[str]:
    window = "max" if strategy.window_s is None else f"{strategy.window_s:g} s"
    return [strategy.cut, window, f"{strategy.overlap_s:g} s", strategy.prefix]


def _row(score: StrategyScore) -> list[str]:
    per_seam = "-" if score.errors_per_seam is None else f"{score.errors_per_seam:.2f}"
    elsewhere = "-" if score.wer_elsewhere is None else f"{100 * score.wer_elsewhere:.2f} %"
    return [
        score.model,
        *_columns(score.strategy),
        str(score.windows),
        f"{100 * score.wer:.2f} %",
        f"{score.insertions}/{score.deletions}/{score.substitutions}",
        per_seam,
        elsewhere,
        f"{score.rtfx:g}",
    ]


def sweep_table(scores: list[StrategyScore]) -> Table:
    """One row per model and strategy."""
    best = min(scores, key=lambda score: score.wer)
    table = Table(caption=f"fewest errors: {', '.join(_row(best)[:5])}")
    for heading in "model", "cut", "window", "overlap", "prefix":
        table.add_column(heading)
    for heading in "windows", "WER", "ins/del/sub", "errors a seam", "WER elsewhere", "RTFx":
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(*_row(score))
    return table
