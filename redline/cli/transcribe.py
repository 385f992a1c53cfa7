"""`redline transcribe`: recordings -> text on standard output, or files in a folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from redline import formats
from redline.cli import show
from redline.cli.inputs import Input, expand, output_names
from redline.errors import RedlineError
from redline.types import Transcript, listed

if TYPE_CHECKING:
    from redline.model import Model

TASKS = ("transcribe", "translate")
DRAFTS = ("own", "exact", "fast", "trust", "none")
ALL_DONE, SOME_FAILED, NOTHING_DONE, INTERRUPTED = 0, 1, 2, 130


def transcribe(
    files: Annotated[
        list[str], typer.Argument(help="Recordings, folders of recordings, patterns, or - for standard input.")
    ],
    model: Annotated[str, typer.Option("--model", help="A bundled model, a folder or a hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a hub id.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"One or more of {', '.join(formats.FORMATS)}, separated by commas; default: txt, or ctm with "
            "--word-timestamps.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Write <name>.<format> for each recording here, not to standard output."),
    ] = None,
    language: Annotated[str | None, typer.Option("--language", help="Language that is spoken, for example en.")] = None,
    task: Annotated[
        str, typer.Option("--task", help="transcribe, or translate into the language of --to.")
    ] = "transcribe",
    to: Annotated[str | None, typer.Option("--to", help="Language to translate into, for example de.")] = None,
    speakers: Annotated[bool, typer.Option("--speakers", help="Tell who speaks, turn by turn.")] = False,
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="Tell when each word is said (in json, ctm, srt and vtt).")
    ] = False,
    keywords: Annotated[
        str | None,
        typer.Option("--keywords", help="Names and terms to expect: a file with one a line, or a list with commas."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="An instruction in place of the model's own.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="The beginning of the recording, already written down.")
    ] = None,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Texts that grow side by side; 1: greedy.")] = 1,
    drafts: Annotated[
        str,
        typer.Option(
            "--drafts",
            help="What becomes of the encoder's draft: verified (exact, fast), the text itself (trust), or none. "
            "own: as suits the model.",
        ),
    ] = "own",
    draft_lm: Annotated[
        str,
        typer.Option(
            "--draft-lm", help="Reads along while the draft is written: own (the model's), none, or a safetensors file."
        ),
    ] = "own",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or mps; default: the fastest.")] = None,
    show_edits: Annotated[
        bool, typer.Option("--show-edits", help="Print the draft as tracked changes instead of the text.")
    ] = False,
    channel: Annotated[
        int | None, typer.Option("--channel", min=0, help="Hear this channel only, counted from 0; default: all mixed.")
    ] = None,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Leave out what is not speech.")] = True,
    digits: Annotated[
        bool, typer.Option("--digits", help="Write spelled numbers as digits: 23 for twenty three.")
    ] = False,
    punctuation: Annotated[
        bool, typer.Option("--punctuation/--no-punctuation", help="Capitals and marks, where the model knows them.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")] = False,
) -> None:
    """Write down what is said in recordings.

    Exit status: 0 when all went well, 1 when some recordings failed, 2 when nothing was produced.
    """
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    wanted = _formats(format or ("ctm" if word_timestamps else "txt"))
    inputs, problems = expand(files)
    if output_dir is None and len(wanted) > 1:
        raise typer.BadParameter("standard output takes one format; add --output-dir", param_hint="--format")
    if output_dir is None and len(inputs) > 1 and wanted != ["txt"]:
        raise typer.BadParameter("several recordings need --output-dir", param_hint=f"--format {wanted[0]}")
    if output_dir is None and show_edits and wanted != ["txt"]:
        raise typer.BadParameter(f"--show-edits is text; add --output-dir for {wanted[0]}", param_hint="--format")
    for problem in problems:
        _complain(notes, problem)
    if not inputs:
        raise typer.Exit(NOTHING_DONE)
    if drafts not in DRAFTS:
        raise typer.BadParameter(f"{drafts!r}; allowed are {', '.join(DRAFTS)}", param_hint="--drafts")
    asked = _asked(
        task, to, wanted, {"speakers": speakers, "words": word_timestamps, "prompt": prompt, "prefix": prefix}
    )
    job = _Job(inputs, wanted, output_dir, show_edits, notes, quiet)
    try:
        if output_dir is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
        from redline.audio import AudioOptions, isolation  # from here on it takes seconds

        isolation.prepare()
        from redline.model import load_model

        loaded = load_model(
            model,
            revision=revision,
            device=device,
            draft_lm=draft_lm,
            punctuate=punctuation,
            beams=beams,
            drafts=drafts,  # type: ignore[arg-type]  # checked above
        )
        asked |= {"language": language, "vad": vad, "digits": digits, "keywords": _keywords(keywords)}
        job.run(loaded, asked | {"audio_options": AudioOptions(channel=channel)})
    except (RedlineError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        _complain(notes, str(error))
        raise typer.Exit(SOME_FAILED if job.done else NOTHING_DONE) from error
    except KeyboardInterrupt:
        where = f"; their files are in {output_dir}" if job.done and output_dir is not None else ""
        notes.print(f"redline: interrupted; {job.done} of {len(inputs)} recordings are done{where}", style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    if not job.done:
        raise typer.Exit(NOTHING_DONE)
    raise typer.Exit(SOME_FAILED if problems or job.failed else ALL_DONE)


def _formats(text: str) -> list[str]:
    wanted = list(dict.fromkeys(part.strip().lower().removeprefix(".") for part in text.split(",") if part.strip()))
    unknown = [part for part in wanted if part not in formats.FORMATS]
    if unknown or not wanted:
        allowed = ", ".join(formats.FORMATS)
        raise typer.BadParameter(f"{text!r}; allowed are {allowed}, separated by commas", param_hint="--format")
    return wanted


def _asked(task: str, to: str | None, wanted: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """What to ask of the model besides plain text; formats of words and of turns ask for them."""
    if task not in TASKS:
        raise typer.BadParameter(f"{task!r}; allowed are {', '.join(TASKS)}", param_hint="--task")
    if (task == "translate") != (to is not None):
        needed = "--task translate needs --to, the language to translate into"
        raise typer.BadParameter(needed if to is None else "--to needs --task translate", param_hint="--task")
    options["words"] |= "ctm" in wanted
    options["speakers"] |= "rttm" in wanted
    return options | {"task": task, "target_language": to}


def _keywords(text: str | None) -> list[str]:
    """The lines of a file, or the parts of a list with commas."""
    if text is None:
        return []
    if _is_file(text):
        try:
            parts = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RedlineError(f"{text}: cannot be read as a list of keywords ({error})") from error
    elif "," not in text and ("/" in text or text.endswith(".txt")):
        raise RedlineError(f"{text}: no such file; --keywords takes a file with one a line, or a list with commas")
    else:
        return list(listed(text))
    return [part.strip() for part in parts if part.strip()]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a long list is no file name
        return False


def _complain(notes: Console, message: str) -> None:
    notes.print(f"redline: {message}", style="red")


class _Job:
    """The recordings of one command, and how many are done and failed."""

    def __init__(
        self,
        inputs: Sequence[Input],
        wanted: Sequence[str],
        output_dir: Path | None,
        show_edits: bool,
        notes: Console,
        quiet: bool,
    ) -> None:
        self.inputs = inputs
        self.names = output_names(one.stem for one in inputs)
        self.wanted = wanted
        self.output_dir = output_dir
        self.show_edits = show_edits
        self.notes = notes
        self.quiet = quiet
        self.done = 0
        self.failed = 0
        self.out = Console(highlight=False, markup=False, soft_wrap=True)

    def run(self, model: Model, options: dict[str, Any]) -> None:
        """Transcribe all recordings; one that fails is told and does not stop the others."""
        started = time.perf_counter()
        sizes = [one.size for one in self.inputs]
        read = 0
        audio_s = 0.0

        def sources() -> Iterator[str | Any]:
            nonlocal read
            for one, size in zip(self.inputs, sizes, strict=True):
                read += size
                yield sys.stdin.buffer if one.path is None else str(one.path)

        with show.Meter(self.notes, len(self.inputs), enabled=not self.quiet) as meter:

            def progress(done_s: float, known_s: float) -> None:
                meter.update(done_s, read / sum(sizes) * (done_s / known_s if known_s else 1.0))

            results = model.transcribe_each(sources(), progress=progress, **options)
            for one, name, result in zip(self.inputs, self.names, results, strict=True):
                meter.aside(lambda one=one, name=name, result=result: self._deliver(one, name, result))  # type: ignore[misc]
                if isinstance(result, Transcript):
                    audio_s += result.duration
                meter.finish_one()
        if self.done and not self.quiet:
            self._sum_up(audio_s, time.perf_counter() - started)

    def _deliver(self, one: Input, name: str, result: Transcript | RedlineError) -> None:
        """Hand over one transcript, or say what went wrong."""
        if not isinstance(result, Transcript):
            self.failed += 1
            return _complain(self.notes, str(result))
        try:
            if self.output_dir is not None:
                for format in self.wanted:
                    formats.save(result, self.output_dir / f"{name}.{format}")
                if name != one.stem:
                    self.notes.print(f"redline: {one.label} is written to {name}.*; the name {one.stem} is taken")
        except OSError as error:
            self.failed += 1
            return _complain(self.notes, f"{one.label}: cannot be written: {error}")
        if self.output_dir is None or self.show_edits:
            self._print(one, result)
        for notice in (*result.warnings, *formats.doubts(result, self.wanted)):
            self.notes.print(show.notice_line(one.label, notice), style="yellow")
        self.done += 1

    def _print(self, one: Input, transcript: Transcript) -> None:
        if len(self.inputs) > 1:
            if self.done:
                self.out.print()
            self.out.print(f"==> {one.label} <==")
        if not self.show_edits:
            text = formats.render(transcript, self.wanted[0], one.stem)
            self.out.file.write(text)
            self.out.file.flush()
            return
        for segment in transcript.segments:
            color = self.out.is_terminal and not self.out.no_color
            self.out.print(show.edited_line(segment.edits, color) if segment.edits else Text(segment.text))
        if transcript.segments and transcript.draft is None:
            self.notes.print(f"{one.label}: the model writes no draft; this is the text", style="yellow")

    def _sum_up(self, audio_s: float, wall_s: float) -> None:
        count = "1 recording" if self.done == 1 else f"{self.done} recordings"
        failed = f", {self.failed} failed" if self.failed else ""
        where = f", written to {self.output_dir}{os.sep}" if self.output_dir is not None else ""
        self.notes.print(
            f"redline: {count}, {show.length(audio_s)} of audio in {show.length(wall_s)} "
            f"({show.speed(audio_s, wall_s)}){where}{failed}",
            style="dim",
        )
