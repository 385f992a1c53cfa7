"""`redline finetune`: teach a model your recordings, and see what it gained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from redline import files
from redline.cli import console
from redline.errors import DataError, DivergedError, RedlineError

if TYPE_CHECKING:
    from redline.evaluate.report import SystemRun

STYLES = ("auto", "as-is", "spoken")


def finetune(
    data: Annotated[
        Path, typer.Option("--data", help="Manifest: one JSON object a line with audio, text and duration.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; OUT/model is the result.")],
    model: Annotated[
        str, typer.Option("--model", help="The model to start from: bundled, a folder or a hub id.")
    ] = "tiny",
    passes: Annotated[float, typer.Option("--passes", help="How often each utterance is heard at most.")] = 20.0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Updates, in place of --passes.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate, 0.0001 by default.")] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option("--lora-rank", min=0, help="Adapters of this rank; 0 trains all. Default by model and data."),
    ] = None,
    encoder: Annotated[
        bool | None,
        typer.Option("--encoder/--no-encoder", help="Teach the encoder too. Default by the size of the model."),
    ] = None,
    blend: Annotated[
        float | None,
        typer.Option(
            "--blend", help="How far to go from the old weights to the new; default 0.5 below an hour, else 1."
        ),
    ] = None,
    style: Annotated[
        str,
        typer.Option("--text", help="as-is, spoken (lower-case words), or auto: spoken where the model writes so."),
    ] = "auto",
    noise: Annotated[Path | None, typer.Option(help="Folder of noise recordings to mix in.")] = None,
    rooms: Annotated[Path | None, typer.Option(help="Folder of room impulse responses.")] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="Manifest to score before and after; default: rows with split test.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that compute; default: the CPUs it may use.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log for TensorBoard, to OUT/finetune/tensorboard.")
    ] = False,
) -> None:
    """Teach a model your recordings: one command, best weights kept, word error rates before and after.

    Rows with split "train" (or none) teach, rows with split "dev" say when to stop; without such a tenth is held out.
    An interrupted run goes on when the same command is given again, a finished one is only scored again. What the model
    began with is kept where nothing learned is better on dev. Exit status 1: the loss was no number any more.
    """
    notes = console.notes()
    try:
        from redline.threads import use
        from redline.train.finetune import FinetuneOptions, finetune, watched_rows
        from redline.train.loop.distributed import is_first_process

        use(threads)

        if style not in STYLES:
            raise typer.BadParameter(f"{style!r}; allowed are {', '.join(STYLES)}", param_hint="--text")
        options = FinetuneOptions(
            passes=passes,
            steps=steps,
            lr=lr,
            lora_rank=lora_rank,
            train_encoder=encoder,
            blend=blend,
            noise_dir=str(noise) if noise else None,
            rir_dir=str(rooms) if rooms else None,
            tensorboard=tensorboard,
        )
        watched = watched_rows(data, out)
        sets = {"dev": (watched, None), "test": (test, None) if test else (data, "test")}
        first = is_first_process()
        before = _score(model, sets, notes if first else Console(quiet=True))
        chosen: Literal["as-is", "spoken"] = (
            "spoken" if style == "spoken" or (style == "auto" and _lower(before)) else "as-is"
        )
        if style == "auto" and chosen == "spoken" and first:
            notes.print(
                "the model writes lower-case words, so your texts are turned into them (--text as-is keeps them)"
            )
        target = finetune(model, data, out, replace(options, text=chosen), _say)
        if first:
            after = _score(str(target), {name: sets[name] for name in before}, notes)
            _tell(before, after)
            wer = [runs["dev"].reports[-1].edited.words.rate for runs in (before, after) if "dev" in runs]
            if wer and wer[1] > wer[0]:
                notes.print(f"on dev {target} is worse than the model it began with, {model}", style="yellow")
            notes.print(f"{target}: try it with `redline transcribe --model {target} FILE`")
    except RedlineError as error:
        raise console.refused(error, 1 if isinstance(error, DivergedError) else 2) from error
    except OSError as error:
        reason = files.reason(error) if error.filename else f"{out}: {files.advice(error)}"
        raise console.refused(RedlineError(reason)) from error
    except ImportError as error:
        raise console.lacking(error, "train") from error
    except KeyboardInterrupt:
        notes.print(f"redline: stopped; the same command goes on from {out}")
        raise typer.Exit(130) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _score(model: str, sets: Mapping[str, tuple[Path, str | None]], notes: Console) -> dict[str, SystemRun]:
    """What a model makes of rows that it does not learn from, by the name of their set; empty sets are left out."""
    from redline.cli.evaluate import recognize
    from redline.evaluate import datasets
    from redline.evaluate import wer as score
    from redline.evaluate.report import SystemRun
    from redline.evaluate.run import Clock
    from redline.load import load_model

    transcriber = load_model(model)
    found = {}
    for name, (path, split) in sets.items():
        try:
            utterances, _ = datasets.read(path, split=split)
        except DataError:
            if split is None:
                raise
            continue
        results = recognize(transcriber, utterances, Clock(), notes)
        items = [result.item for result in results if result.item is not None]
        found[name] = SystemRun(model, results, score.reports(items), ())
    return found


def _lower(runs: dict[str, SystemRun]) -> bool:
    """Whether a model wrote words, and none of them with a capital.

    The draft tells, where there is one: capitals of the edited text may come from a head that texts do not teach.
    """
    items = [result.item for run in runs.values() for result in run.results if result.item is not None]
    texts = [item.edited if item.draft is None else item.draft for item in items]
    return any(texts) and not any(text != text.lower() for text in texts)


def _tell(before: dict[str, SystemRun], after: dict[str, SystemRun]) -> None:
    from redline.cli.evaluate import percent
    from redline.evaluate import report
    from redline.evaluate.wer import ALL

    out = Console(highlight=False, markup=False, soft_wrap=True)
    for name, first in before.items():
        old, new = first.scored, after[name].scored
        for left, right in zip(first.reports, after[name].reports, strict=True):
            out.print(f"{name}, {left.group}: WER {percent(left.edited)} before, {percent(right.edited)} after")
            chosen = [[one for one in rows if left.group in (one.source, ALL)] for rows in (old, new)]
            out.print(f"    {report.sentence(report.comparison('before', 'after', *chosen))}")
