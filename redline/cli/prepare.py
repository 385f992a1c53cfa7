"""`redline prepare`: recordings with transcripts or captions -> a manifest to train on."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from redline import files, languages
from redline.audio.containers import SUFFIXES
from redline.cli import console
from redline.errors import DataError, RedlineError
from redline.manifest import write_manifest

if TYPE_CHECKING:
    from redline.prepare.segment_transcripts import Harvest

TEXTS = (".srt", ".vtt", ".txt")
FITS = 0.5
"""A text of which a smaller share of words is kept is said not to fit."""
RECOGNISED = 0.03
"""A text of which a smaller share is recognised is that of another recording: a weak model finds 0.2, chance 0.01."""
LATE_S = 1.0
"""Captions that are off by less are told nothing about."""


def prepare(
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings with texts beside them.")],
    out: Annotated[Path, typer.Option("--out", help="The manifest to write (.jsonl).")],
    text: Annotated[
        Path | None, typer.Option("--text", help="Transcript (.txt) or captions (.srt, .vtt) of a single recording.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The model that listens.")] = "tiny",
    language: Annotated[
        str, typer.Option("--language", help="Language of the recordings: en, English or en-US.")
    ] = "en",
    longest_s: Annotated[
        float, typer.Option("--longest", min=2, max=30, help="Seconds of the longest utterance.")
    ] = 20.0,
    most_regret: Annotated[
        float, typer.Option("--tolerance", min=0, help="How badly a text may fit, in nats a character.")
    ] = 1.5,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that compute; default: the CPUs it may use.")
    ] = None,
) -> None:
    """Cut recordings into utterances with the text said in them; what does not fit the sound is dropped and listed.

    In a folder, talk.mp3 goes with talk.srt, talk.vtt or talk.txt. A transcript needs no times, and those of captions
    are not believed: words are placed where they are heard. Labels such as `JANE DOE:` become the speaker of a row.
    What is dropped is written beside the manifest, with the reason. Exit status 1: less than half of the words of some
    recording fit.
    """
    notes = console.Notes()
    try:
        pairs = _pairs(source, text)
        _ready(out)
        from redline import audio
        from redline.checkpoints import nar
        from redline.prepare.segment_transcripts import HarvestOptions, harvest, words_of_lines
        from redline.prepare.transcripts import read_text
        from redline.threads import use
        from redline.train.data.batches import letters_of

        use(threads)
        encoder, config, _ = nar.load(model)
        spoken = languages.code(language, config.languages)
        if spoken is None and len(config.languages) == 1:
            (spoken,) = config.languages
        if spoken is None or spoken not in config.languages:
            known = ", ".join(config.languages)
            why = "a text is placed in one language" if spoken is None else f"{model} does not know it"
            raise DataError(f"--language {language}: {why}; name one of {known}")
        options = HarvestOptions(longest_s=longest_s, most_regret=most_regret, letters=letters_of(spoken))
        failed: list[str] = []
        kept: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        speakers: Counter[str] = Counter()
        given = found = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
            for recording, written in pairs:
                try:
                    wave = audio.load(recording)
                    material = read_text(written)
                except (RedlineError, OSError) as error:
                    failed.append(console.error_text(error))
                    continue
                for note in (*(notice.message for notice in wave.warnings), *material.notes):
                    notes.print(f"{written if note in material.notes else recording}: {note}", style="yellow")
                speakers.update(dict(material.speakers))
                task = bar.add_task(recording.name, total=max(1.0, wave.duration))
                words = words_of_lines(material.lines, options.letters)
                result = harvest(encoder, wave, words, options, partial(bar.advance, task))
                bar.remove_task(task)
                given, found = given + result.given, found + result.kept
                if abs(result.late_s) >= LATE_S:
                    way = "late" if result.late_s > 0 else "early"
                    notes.print(f"{written}: {abs(result.late_s):.1f} s {way}; placed by its words", style="yellow")
                if result.kept < FITS * result.given or not result.given:
                    failed.append(_unfitting(recording, written, result))
                for one in result.rows:
                    row = one.to_dict(recording.resolve(), spoken, recording.stem)
                    (dropped if one.dropped else kept).append(row)
        if speakers:
            named = ", ".join(f"{name} ({turns})" for name, turns in speakers.most_common(20))
            more = f" and {len(speakers) - 20} more" if len(speakers) > 20 else ""
            notes.print(f"labels taken for speakers, with their turns: {named}{more}")
        rest = out.with_suffix(".dropped.jsonl")
        if dropped:
            write_manifest(rest, dropped)
        elif kept:
            rest.unlink(missing_ok=True)  # what an earlier run dropped
        for reason in failed:
            console.complain(reason)
        if kept:
            write_manifest(out, kept)
            minutes = sum(row["duration"] for row in kept) / 60
            notes.print(f"{out}: {len(kept)} utterances, {minutes:.1f} min, {found} of {given} words")
        else:
            console.complain(f"nothing fits, so {out} is not written")
        if dropped:
            notes.print(f"{rest}: {len(dropped)} that do not fit, with the reason", style="yellow")
    except RedlineError as error:
        raise console.refused(error) from error
    except OSError as error:
        complaint = DataError(f"{out}: cannot be written: {files.advice(error)}")
        raise console.refused(complaint) from error
    except ImportError as error:
        raise console.lacking(error, "train") from error
    if failed:
        raise typer.Exit(1)


def _unfitting(recording: Path, written: Path, result: Harvest) -> str:
    """What is said where a text and a recording hardly belong together."""
    if not result.given:
        return f"{written}: no words in it"
    told = f"{recording}: {result.kept} of {result.given} words of {written.name} fit what is said"
    reasons = Counter(
        re.sub(
            r"^.*: (?=how a number)|'[^']*'|\d[\d.]*",
            lambda found: "" if found.start() == 0 and found[0].endswith(": ") else "...",
            row.dropped,
        )
        for row in result.rows
        if row.dropped
    )
    if reasons and result.recognised >= RECOGNISED * result.given:
        told += f" (most often: {reasons.most_common(1)[0][0]})"
    if result.recognised < RECOGNISED * result.given:
        return (
            f"{told}, and only {result.recognised} are recognised in their order; is it the text of another recording, "
            "or in another language (--language)? Try `redline transcribe` on the recording to compare"
        )
    return (
        f"{told}; is it an abridged text, or the sound too hard for the model? Try a larger --tolerance, "
        "another --model, or correct the text where the list of what was dropped says so"
    )


def _ready(out: Path) -> None:
    """Refuse a place where no manifest can be written before anything is heard."""
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        seen = files.advice(error).partition(";")[0]
        raise DataError(f"{out}: cannot be written, {seen}; choose another --out") from error


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
