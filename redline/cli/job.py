"""The recordings of one `redline transcribe`: which are to be done, and their transcripts on the way out."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline import files, formats
from redline.cli import console, show
from redline.cli.outputs import Outputs, Printer
from redline.cli.stopping import Stopper
from redline.errors import RedlineError
from redline.types import Transcript

if TYPE_CHECKING:
    from redline.cli.inputs import Input
    from redline.prepare.align_recording import Aligner
    from redline.transcriber import Transcriber

HOW_TO_GO_ON = "--overwrite replaces it, --skip-existing leaves it, or choose another --output-dir"

MOST_NOTICES = 20
"""Warnings of one code that are printed of a recording."""


@dataclass(frozen=True)
class PlannedRecording:
    """One recording to transcribe, the name of its files, and those that are to be written."""

    input: Input
    name: str
    paths: Sequence[Path]


class Job:
    """The recordings of one command, and how many are done, failed, and skipped because their files are there."""

    def __init__(self, outputs: Outputs, notes: console.Notes, quiet: bool) -> None:
        self.outputs = outputs
        self.notes = notes
        self.quiet = quiet
        self.printer = Printer(outputs, notes)
        self.work: list[PlannedRecording] = []
        self.total = self.done = self.failed = self.skipped = 0

    def plan(self, inputs: Sequence[Input]) -> None:
        """Take on the recordings whose files are not there, or may be replaced."""
        self.total = len(inputs)
        recordings = files.identities(source.path for source in inputs if source.path is not None)
        for source, name in zip(inputs, self.outputs.names([source.stem for source in inputs]), strict=True):
            paths = self.outputs.paths(name)
            there = [] if self.outputs.overwrite else [path for path in paths if os.path.lexists(path)]
            if own := [path for path in paths if files.identities([path]) & recordings]:
                self._fail(f"{source.label}: {own[0]} is a recording, and is not replaced; choose another --output-dir")
            elif there and not self.outputs.skip_existing:
                self._fail(f"{source.label}: {there[0]} is there already; {HOW_TO_GO_ON}")
            elif there and len(there) == len(paths):
                self.skipped += 1
            else:
                self.work.append(PlannedRecording(source, name, [path for path in paths if path not in there]))

    def run(self, model: Transcriber | Aligner, options: dict[str, Any], stopper: Stopper) -> None:
        """Transcribe all recordings; one that fails is reported and does not stop the others.

        When it is interrupted, what is done is delivered, and the windows that are finished of a recording are kept.
        """
        from redline.transcriber import Interrupted

        started = time.perf_counter()
        sizes = [recording.input.size for recording in self.work]
        read_bytes = delivered = 0
        audio_s = 0.0

        def sources() -> Iterator[str | Any]:
            nonlocal read_bytes
            for recording, size in zip(self.work, sizes, strict=True):
                read_bytes += size
                yield sys.stdin.buffer if recording.input.path is None else str(recording.input.path)

        def progress(done_s: float, known_s: float) -> None:
            meter.advance_to(done_s, read_bytes / sum(sizes) * (done_s / known_s if known_s else 1.0))

        try:
            with show.Meter(self.notes, len(self.work), enabled=not self.quiet) as meter:
                results: Generator[Transcript | RedlineError] = model.transcribe_each(
                    sources(), progress=progress, **options
                )
                for recording, result in zip(self.work, results, strict=True):
                    with stopper.held(), meter.aside():
                        self._deliver(recording, result)
                    delivered += 1
                    if isinstance(result, Transcript):
                        audio_s += result.duration
                    meter.finish_recording()
                    if stopper.signal is not None:
                        results.throw(KeyboardInterrupt())
        except Interrupted as stop:
            for recording, rest in zip(self.work[delivered:], stop.results, strict=False):
                if rest is not None:
                    self._deliver(recording, rest)
            raise
        if not self.quiet:
            self.sum_up(audio_s, time.perf_counter() - started)

    def _deliver(self, recording: PlannedRecording, result: Transcript | RedlineError) -> None:
        """Write or print one transcript, or what was done of it before an interruption; or say what went wrong."""
        label = recording.input.label
        if not isinstance(result, Transcript):
            return self._fail(str(result))
        result = formats.rename_speakers(result, self.outputs.speaker_names)
        missing = [notice for notice in result.warnings if notice.code == "interrupted"]
        try:
            write = self.outputs.write
            paths = [write(path, result, recording.name, partial=bool(missing)) for path in recording.paths]
        except FileExistsError as error:
            return self._fail(f"{label}: {error.filename2 or error.filename} is there now; {HOW_TO_GO_ON}")
        except OSError as error:
            return self._fail(f"{label}: cannot be written: {files.describe_os_error(error)}")
        if paths and recording.name != recording.input.stem:
            self.notes.say(f"{label} is written to {recording.name}.*")
        if not paths or self.outputs.show_edits:
            if self.total > 1:
                self.printer.title(label, first=not self.done)
            self.printer.print(result, label, recording.name)
        told = Counter[str]()
        for notice in (*result.warnings, *formats.subtitle_notices(result, self.outputs.formats)):
            told[notice.code] += 1
            if told[notice.code] <= MOST_NOTICES:
                self.notes.say(show.notice_line(label, notice), "yellow")
        for code, count in told.items():
            if count > MOST_NOTICES:
                more = f"{count - MOST_NOTICES} more warnings of the code {code!r}; all of them are in json"
                self.notes.say(f"{label}: {more}", "yellow")
        if missing:
            where = f"is in {', '.join(map(str, paths))}" if paths else "is printed"
            missing_s = sum((notice.end or 0.0) - (notice.start or 0.0) for notice in missing)
            lacking = f"about {show.length(missing_s)} of {show.length(result.duration)} are missing"
            self.notes.say(f"{label}: what was done before the interruption {where}; {lacking}", "yellow")
        else:
            self.done += 1

    def _fail(self, message: str) -> None:
        self.failed += 1
        console.complain(message)

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
            self.notes.say(", ".join(parts), "dim")
