"""`redline finetune`: teach a model your recordings, and see what it gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from redline.cli import console
from redline.cli.train import Device, Noise, Rooms, TensorBoard, Threads, training_errors

if TYPE_CHECKING:
    from redline.evaluate.systems import SystemRun
    from redline.manifest import Utterance

_TEXT_HELP = "as-is, spoken (lower-case words), or auto: spoken where the model writes so."


def finetune(
    data: Annotated[Path, typer.Option(help="Manifest: one JSON object a line with audio, text and duration.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; OUT/model is the result.")],
    model: Annotated[str, typer.Option(help="The model to start from: bundled, a folder or a hub id.")] = "tiny",
    passes: Annotated[float, typer.Option(help="How often each utterance is heard at most.")] = 20.0,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of --passes.")] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    lora_rank: Annotated[
        int | None, typer.Option(help="Adapters of this rank; 0 trains all. Default by model and data.")
    ] = None,
    encoder: Annotated[
        bool | None,
        typer.Option("--encoder/--no-encoder", help="Teach the encoder too. Default by the size of the model."),
    ] = None,
    blend: Annotated[
        float | None,
        typer.Option(help="How far to go from the old weights to the new; default 0.5 below an hour, else 1."),
    ] = None,
    text: Annotated[str, typer.Option(callback=console.choice_of("auto", "as-is", "spoken"), help=_TEXT_HELP)] = "auto",
    noise: Noise = None,
    rooms: Rooms = None,
    test: Annotated[
        Path | None, typer.Option(help="Manifest to score before and after; default: rows with split test.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Teach a model your recordings: one command, best weights kept, word error rates before and after.

    Rows with split "train" (or none) teach, rows with split "dev" say when to stop; without such a tenth is held out.
    An interrupted run goes on when the same command is given again, a finished one is only scored again. What the model
    began with is kept where nothing learned is better on dev. Exit status 1: the loss was no number any more.
    """
    with training_errors(out):
        from redline.evaluate.datasets.dataset import DatasetOptions
        from redline.evaluate.datasets.registry import read_dataset
        from redline.threads import use
        from redline.train.data.rows import training_rows
        from redline.train.finetune import FinetuneOptions, finetune, split_rows
        from redline.train.loop.checkpointing import make_folder
        from redline.train.loop.distributed import is_first_process

        use(threads)
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
        rows = training_rows(data)
        sets = {"dev": split_rows(rows)[1], "test": [row for row in rows if row.split == "test"]}
        if test is not None:
            sets["test"] = read_dataset(str(test), DatasetOptions()).utterances
        make_folder(out)
        first = is_first_process()
        notes = console.Notes() if first else Console(quiet=True)
        before = _score(model, sets, device, notes)
        if text == "auto" and _writes_lower_case(before):
            text = "spoken"
            notes.print("the model writes lower-case words, and so will your texts be (--text as-is keeps them)")
        if text == "spoken":
            options = replace(options, text="spoken")
        target = finetune(model, data, out, options, notes.print, device)
        if not first:
            return
        after = _score(str(target), sets, device, notes)
        _print_gain(before, after)
        old, new = (runs["dev"].reports[-1]["edited"]["wer"] or 0.0 for runs in (before, after))
        if new > old:
            notes.print(f"on dev {target} is worse than the model it began with, {model}", style="yellow")
        notes.print(f"{target}: try it with `redline transcribe --model {target} FILE`")


def _score(model: str, sets: Mapping[str, list[Utterance]], device: str | None, notes: Console) -> dict[str, SystemRun]:
    """What a model makes of rows that it does not learn from, by the name of their set; empty sets are left out."""
    from redline.cli.evaluate import run_over
    from redline.evaluate.datasets.dataset import Dataset
    from redline.evaluate.run import Clock
    from redline.evaluate.systems import SystemRun
    from redline.load import load_model

    transcriber = load_model(model, device=device)
    filled = [Dataset(name, rows) for name, rows in sets.items() if rows]
    return {each.name: SystemRun(model, list(run_over(transcriber, each, Clock(), notes))) for each in filled}


def _writes_lower_case(runs: dict[str, SystemRun]) -> bool:
    """Whether a model wrote words, and none of them with a capital.

    The draft tells, where there is one: capitals of the edited text may come from a head that texts do not teach.
    """
    results = [result for run in runs.values() for result in run.scored]
    texts = [result.edited if result.draft is None else result.draft for result in results]
    return any(texts) and all(text == text.lower() for text in texts)


def _print_gain(before: dict[str, SystemRun], after: dict[str, SystemRun]) -> None:
    """Word error rates before and after, by source, with a paired bootstrap."""
    from redline.evaluate.metrics.wer import ALL_HUMAN, describe_wer
    from redline.evaluate.systems import compare_systems

    out = console.results()
    for name, old in before.items():
        new = after[name]
        for left, right in zip(old.reports, new.reports, strict=True):
            group, rates = left["group"], [describe_wer(report["edited"]) for report in (left, right)]
            out.print(f"{name}, {group}: WER {rates[0]} before, {rates[1]} after")
            paired = [[row for row in run.scored if group in (row.source, ALL_HUMAN)] for run in (old, new)]
            out.print(f"    {compare_systems('before', 'after', *paired)['text']}")
