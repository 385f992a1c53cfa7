"""The recordings of one `redline transcribe`: which are to be done, and their transcripts on the way out."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from redline import files, formats
from redline.cli import console, show
from redline.cli.inputs import Input, output_names, shortened
from redline.cli.stopping import Stopper
from redline.errors import RedlineError
from redline.types import Transcript

if TYPE_CHECKING:
    from redline.transcriber import Interrupted, Transcriber

PARTIAL = ".partial"
HOW_TO_GO_ON = "--overwrite replaces it, --skip-existing leaves it, or choose another --output-dir"


@dataclass(frozen=True)
class Outputs:
    """Where transcripts go: files of the wanted formats in a folder, or standard output (no folder)."""

    formats: Sequence[str]
    folder: Path | None = None
    overwrite: bool = False
    skip_existing: bool = False
    show_edits: bool = False

    def prepare(self) -> None:
        """Make the folder, and clear it of what killed runs left; raises `RedlineError` where it cannot be one."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))
        except FileExistsError as error:
            raise RedlineError(
                f"--output-dir {self.folder}: is a file; name a folder, it is made where there is none"
            ) from error
        except OSError as error:
            raise RedlineError(
                f"--output-dir {self.folder}: cannot be written to: {files.describe_os_error(error)}"
            ) from error
        files.sweep(self.folder)

    def names(self, inputs: Sequence[Input]) -> list[str]:
        """The names of the output files without their suffixes, each once."""
        longest = files.NAME_BYTES if self.folder is None else files.longest_name(self.folder)
        return output_names((one.stem for one in inputs), longest - max(map(len, self.formats)) - 1)

    def paths(self, name: str) -> list[Path]:
        """The files of one recording."""
        return [] if self.folder is None else [self.folder / f"{name}.{format}" for format in self.formats]

    def partial(self, path: Path) -> Path:
        """Where an unfinished file is kept: a name that is free."""
        for number in itertools.count(1):
            end = f"{'' if number == 1 else f'.{number}'}{path.suffix}{PARTIAL}"
            free = path.with_name(shortened(path.stem, files.longest_name(path.parent) - len(end)) + end)
            if not os.path.lexists(free):
                return free
        raise AssertionError("itertools.count ends never")


@dataclass(frozen=True)
class Work:
    """One recording to transcribe, the name of its files, and those that are to be written."""

    input: Input
    name: str
    paths: Sequence[Path]


class Job:
    """The recordings of one command, and how many are done, failed, and skipped because their files are there."""

    def __init__(
        self, inputs: Sequence[Input], outputs: Outputs, notes: Console, stopper: Stopper, quiet: bool
    ) -> None:
        self.total = len(inputs)
        self.outputs = outputs
        self.notes = notes
        self.stopper = stopper
        self.quiet = quiet
        self.done = 0
        self.failed = 0
        self.skipped = 0
        self.out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._told_encoding = False
        self.work = [
            work for one, name in zip(inputs, outputs.names(inputs), strict=True) for work in self._plan(one, name)
        ]

    def _plan(self, one: Input, name: str) -> Iterator[Work]:
        """The work on a recording; none where its files are there and may not be replaced."""
        paths = self.outputs.paths(name)
        there = [] if self.outputs.overwrite else [path for path in paths if os.path.lexists(path)]
        if there and not self.outputs.skip_existing:
            self.failed += 1
            console.complain(f"{one.label}: {there[0]} is there already; {HOW_TO_GO_ON}")
        elif there and len(there) == len(paths):
            self.skipped += 1
        else:
            yield Work(one, name, [path for path in paths if path not in there])

    def run(self, model: Transcriber, options: dict[str, Any]) -> None:
        """Transcribe all recordings; one that fails is told and does not stop the others.

        When it is interrupted, what is done is delivered, and the windows that are finished of a recording are kept.
        """
        from redline.transcriber import Interrupted

        started = time.perf_counter()
        sizes = [one.input.size for one in self.work]
        read = delivered = 0
        audio_s = 0.0

        def sources() -> Iterator[str | Any]:
            nonlocal read
            for one, size in zip(self.work, sizes, strict=True):
                read += size
                yield sys.stdin.buffer if one.input.path is None else str(one.input.path)

        try:
            with show.Meter(self.notes, len(self.work), enabled=not self.quiet) as meter:

                def progress(done_s: float, known_s: float) -> None:
                    meter.update(done_s, read / sum(sizes) * (done_s / known_s if known_s else 1.0))

                results: Generator[Transcript | RedlineError] = model.transcribe_each(
                    sources(), progress=progress, **options
                )
                for one, result in zip(self.work, results, strict=True):
                    with self.stopper.held():
                        meter.aside(lambda one=one, result=result: self._deliver(one, result))  # type: ignore[misc]
                    delivered += 1
                    if isinstance(result, Transcript):
                        audio_s += result.duration
                    meter.finish_one()
                    if self.stopper.signal is not None:
                        results.throw(KeyboardInterrupt())
        except Interrupted as stop:
            self._keep(self.work[delivered:], stop)
            raise
        if not self.quiet:
            self.sum_up(audio_s, time.perf_counter() - started)

    def _deliver(self, work: Work, result: Transcript | RedlineError) -> None:
        """Hand over one transcript, or say what went wrong."""
        one = work.input
        if not isinstance(result, Transcript):
            self.failed += 1
            return console.complain(str(result))
        try:
            for path in work.paths:
                files.write_text(path, self._render(work, result, path.suffix[1:]), replace=self.outputs.overwrite)
        except FileExistsError as error:
            self.failed += 1
            return console.complain(f"{one.label}: {error.filename2 or error.filename} is there now; {HOW_TO_GO_ON}")
        except OSError as error:
            self.failed += 1
            return console.complain(f"{one.label}: cannot be written: {files.describe_os_error(error)}")
        if work.paths and work.name != one.stem:
            self.notes.print(console.one_line(f"redline: {one.label} is written to {work.name}.*"))
        if self.outputs.folder is None or self.outputs.show_edits:
            self._print(work, result)
        self._warn(one, result)
        self.done += 1

    def _warn(self, one: Input, result: Transcript) -> None:
        for notice in (*result.warnings, *formats.subtitle_notices(result, self.outputs.formats)):
            self.notes.print(console.one_line(show.notice_line(one.label, notice)), style="yellow")

    def _render(self, work: Work, result: Transcript, format: str) -> str:
        return formats.render(result, format, work.name, all_edits=self.outputs.show_edits)

    def _keep(self, left: Sequence[Work], stop: Interrupted) -> None:
        """Deliver what is done of the recordings that are left."""
        for work, result in zip(left, stop.results, strict=False):
            if result is None:
                continue
            if not isinstance(result, Transcript) or all(notice.code != "interrupted" for notice in result.warnings):
                self._deliver(work, result)
                continue
            missing_s = sum(
                (one.end or 0.0) - (one.start or 0.0) for one in result.warnings if one.code == "interrupted"
            )
            where = "is printed"
            if self.outputs.folder is None:
                self._print(work, result)
            else:
                kept = []
                for path in work.paths:
                    text = self._render(work, result, path.suffix[1:])
                    kept.append(files.write_text(self.outputs.partial(path), text, replace=False))
                where = f"is in {', '.join(map(str, kept))}"
            self._warn(work.input, result)
            message = f"redline: {work.input.label}: what was done before the interruption {where}"
            message += f"; about {show.length(missing_s)} of {show.length(result.duration)} are missing"
            self.notes.print(console.one_line(message), style="yellow")

    def _print(self, work: Work, transcript: Transcript) -> None:
        if self.total > 1:
            if self.done:
                self.out.print()
            self.out.print(console.one_line(f"==> {work.input.label} <=="))
        whole = self.outputs.folder is None and self.outputs.formats[0] == "json"
        if whole or not self.outputs.show_edits:
            self._put(self._render(work, transcript, self.outputs.formats[0]))
            return
        for segment in transcript.segments:
            color = self.out.is_terminal and not self.out.no_color
            line = show.edited_line(segment.edits, color) if segment.edits else Text(segment.text)
            self._tell_encoding(line.plain)
            self.out.print(line)
        if transcript.segments and transcript.draft is None:
            message = f"{work.input.label}: the model writes no draft; this is the text"
            self.notes.print(console.one_line(message), style="yellow")

    def _put(self, text: str) -> None:
        """A whole transcript on standard output, in the encoding that it has."""
        if self.out.is_terminal:
            text = console.printable(text)
        if self.outputs.formats[0] == "json" and not self.out.encoding.startswith("utf"):
            text = console.json_ascii(text)
        self._tell_encoding(text)
        self.out.file.write(text)
        self.out.file.flush()

    def _tell_encoding(self, text: str) -> None:
        absent = console.missing(text, self.out.file)
        if absent and not self._told_encoding:
            self._told_encoding = True
            self.notes.print(
                f"redline: standard output is in {self.out.encoding}, which does not have {absent[:10]}; they are "
                "written as escapes; set PYTHONIOENCODING=utf-8, or write files with --output-dir, which are UTF-8",
                style="yellow",
            )

    def sum_up(self, audio_s: float, wall_s: float) -> None:
        """Say in one line what came of all recordings."""
        parts = ["1 recording" if self.done == 1 else f"{self.done} recordings"]
        if self.done:
            parts[0] += f", {show.length(audio_s)} of audio in {show.length(wall_s)} ({show.speed(audio_s, wall_s)})"
            if self.outputs.folder is not None:
                parts.append(f"written to {self.outputs.folder}{os.sep}")
        parts += [f"{self.skipped} skipped, because their files are there"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.done or self.skipped:
            self.notes.print(console.one_line(f"redline: {', '.join(parts)}"), style="dim")
