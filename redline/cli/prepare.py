"""`redline prepare`: recordings with transcripts or captions -> a manifest to train on."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from redline.audio.content import SUFFIXES
from redline.errors import DataError, RedlineError
from redline.manifest import write_manifest

TEXTS = (".srt", ".vtt", ".txt")


def prepare(
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings with texts beside them.")],
    out: Annotated[Path, typer.Option("--out", help="The manifest to write (.jsonl).")],
    text: Annotated[
        Path | None, typer.Option("--text", help="Transcript (.txt) or captions (.srt, .vtt) of a single recording.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The model that listens.")] = "tiny",
    language: Annotated[str, typer.Option("--language", help="Language of the recordings.")] = "en",
    longest_s: Annotated[
        float, typer.Option("--longest", min=2, max=30, help="Seconds of the longest utterance.")
    ] = 20.0,
    most_regret: Annotated[
        float, typer.Option("--tolerance", min=0, help="How badly a text may fit, in nats a character.")
    ] = 1.5,
) -> None:
    """Cut recordings into utterances with the text said in them; what does not fit the sound is dropped and listed.

    In a folder, talk.mp3 goes with talk.srt, talk.vtt or talk.txt. A transcript needs no times. What is dropped is
    written beside the manifest, with the reason.
    """
    notes = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        pairs = _pairs(source, text)
        from redline import audio
        from redline.models import checkpoint
        from redline.train.data import letters_of
        from redline.train.harvest import Cue, HarvestOptions, harvest, read_captions, words_of

        options = HarvestOptions(longest_s=longest_s, most_regret=most_regret, letters=letters_of(language))
        encoder, config, _ = checkpoint.load(model)
        if language not in config.languages:
            raise DataError(f"{model} does not know {language!r}; it knows {', '.join(config.languages)}")
        failed: list[str] = []
        kept: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        given = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=notes, transient=True) as bar:
            for recording, written in pairs:
                try:
                    wave = audio.load(recording)
                    material = (
                        words_of(written.read_text(encoding="utf-8-sig", errors="replace"), options.letters)
                        if written.suffix.lower() == ".txt"
                        else read_captions(written)
                    )
                except (RedlineError, OSError) as error:
                    failed.append(str(error))
                    continue
                given += sum(len(one.text.split()) if isinstance(one, Cue) else 1 for one in material)
                task = bar.add_task(recording.name, total=max(1.0, wave.duration))
                for one in harvest(encoder, wave, material, options, partial(bar.advance, task)):
                    row = one.to_dict(recording.resolve(), language, recording.stem)
                    (dropped if one.dropped else kept).append(row)
                bar.remove_task(task)
        for reason in failed:
            notes.print(f"redline: {reason}", style="red")
        if not kept and not dropped:
            raise DataError(f"{source}: no speech was found that any of the text could belong to")
        write_manifest(out, kept)
        minutes = sum(row["duration"] for row in kept) / 60
        found = sum(len(row["text"].split()) for row in kept)
        notes.print(f"{out}: {len(kept)} utterances, {minutes:.1f} min, {found} of {given} words")
        if dropped:
            rest = out.with_suffix(".dropped.jsonl")
            write_manifest(rest, dropped)
            notes.print(f"{rest}: {len(dropped)} that do not fit, with the reason", style="yellow")
    except RedlineError as error:
        notes.print(f"redline: {error}", style="red")
        raise typer.Exit(2) from error
    except ImportError as error:
        print(f"redline prepare needs {error.name}: pip install 'redline[train]'", file=sys.stderr)
        raise typer.Exit(2) from error
    if failed:
        raise typer.Exit(1)


def _pairs(source: Path, text: Path | None) -> list[tuple[Path, Path]]:
    """Recordings and what belongs to each; raises `DataError` when there are none."""
    if source.is_dir():
        if text is not None:
            raise DataError(
                "--text belongs to a single recording; in a folder each recording has its own text beside it"
            )
        recordings = [file for file in sorted(source.rglob("*")) if file.suffix.lower() in SUFFIXES]
        found = [(one, beside) for one in recordings if (beside := _beside(one)) is not None]
        if not found:
            raise DataError(
                f"{source}: {len(recordings)} recordings, none with a text beside it; "
                "talk.mp3 needs talk.srt, talk.vtt or talk.txt"
            )
        return found
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    beside = text or _beside(source)
    if beside is None or not beside.is_file():
        raise DataError(f"{beside or source}: no text; name a transcript or captions with --text")
    if beside.suffix.lower() not in TEXTS:
        raise DataError(f"{beside}: known texts are {', '.join(TEXTS)}")
    return [(source, beside)]


def _beside(recording: Path) -> Path | None:
    texts = (recording.with_suffix(suffix) for suffix in TEXTS)
    return next((file for file in texts if file.is_file()), None)
