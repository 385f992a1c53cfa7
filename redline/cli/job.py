"""The recordings of one `redline transcribe`: which are to be done, and their transcripts on the way out."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline import files, formats
from redline.cli import console, show
from redline.cli.outputs import Outputs, Printer
from redline.cli.stopping import Stopper
from redline.errors import RedlineError
from redline.types import Segment, Transcript

if TYPE_CHECKING:
    from redline.cli.inputs import Input
    from redline.cli.journal import Identity
    from redline.cli.resuming import Resuming
    from redline.prepare.align_recording import Aligner
    from redline.transcriber import Transcriber

HOW_TO_GO_ON = "--overwrite replaces it, --skip-existing leaves it, or choose another --output-dir"
NOT_OURS = "which the journal does not know as it is; --overwrite replaces it, or choose another --output-dir"

MOST_NOTICES = 20
"""Warnings of one code that are printed of a recording."""


@dataclass(frozen=True)
class PlannedRecording:
    """One recording to transcribe, the name of its files, and those that are to be written."""

    input: Input
    name: str
    paths: Sequence[Path]
    identity: Identity | None = None
    """What it was when the work began, where a journal is kept."""


class Job:
    """The recordings of one command, and how many are done, failed, and skipped because their files are there."""

    def __init__(
        self,
        outputs: Outputs,
        notes: console.Notes,
        quiet: bool,
        *,
        resuming: Resuming | None = None,
        stream: bool = False,
    ) -> None:
        """`resuming` keeps a journal; with `stream` the text is printed while the work goes on."""
        self.outputs = outputs
        self.notes = notes
        self.quiet = quiet
        self.printer = Printer(outputs, notes)
        self.resuming, self.stream = resuming, stream
        self.work: list[PlannedRecording] = []
        self.total = self.done = self.failed = self.skipped = 0
        self._titled = self._streamed = 0  # recordings that are being printed, and segments of the last

    def plan(self, inputs: Sequence[Input]) -> None:
        """Take on the recordings whose files are not there, or may be replaced."""
        self.total = len(inputs)
        recordings = files.identities(source.path for source in inputs if source.path is not None)
        resuming, stems = self.resuming, [source.stem for source in inputs]
        identities = [None if resuming is None else resuming.identity(source) for source in inputs]
        names = self.outputs.names(stems) if resuming is None else resuming.names(self.outputs, stems, identities)
        for source, identity, name in zip(inputs, identities, names, strict=True):
            paths = self.outputs.paths(name)
            there = [] if self.outputs.overwrite else [path for path in paths if os.path.lexists(path)]
            if own := [path for path in paths if files.identities([path]) & recordings]:
                self._fail(f"{source.label}: {own[0]} is a recording, and is not replaced; choose another --output-dir")
            elif resuming is not None and identity is not None:
                if resuming.is_done(source, identity, paths):
                    self.skipped += 1
                elif other := [path for path in there if not resuming.journal.is_ours(path)]:
                    self._fail(f"{source.label}: there is {other[0]}, {NOT_OURS}")
                else:
                    self.work.append(PlannedRecording(source, name, paths, identity))
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
        from redline.engine.recordings import Interrupted

        started = time.perf_counter()
        sizes = [recording.input.size for recording in self.work]
        read_bytes = delivered = 0
        audio_s = 0.0

        def sources() -> Iterator[str | Any]:
            nonlocal read_bytes
            for recording, size in zip(self.work, sizes, strict=True):
                read_bytes += size
                yield sys.stdin.buffer if recording.input.path is None else str(recording.input.path)

        if self.resuming is not None:
            options = options | {"answers": self.resuming.answers(self.work)}
        if self.stream:

            def on_segment(segment: Segment) -> None:
                with stopper.held(), meter.aside():
                    self._print_segments(self.work[delivered], [segment])

            options = options | {"on_segment": on_segment}

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
                    delivered, self._streamed = delivered + 1, 0
                    if isinstance(result, Transcript):
                        audio_s += result.duration
                    meter.finish_recording()
                    if stopper.signal is not None:
                        results.throw(KeyboardInterrupt())
        except Interrupted as stop:
            for recording, rest in zip(self.work[delivered:], stop.results, strict=False):
                if rest is not None:
                    self._deliver(recording, rest)
                    self._streamed = 0
            raise
        if not self.quiet:
            self.sum_up(audio_s, time.perf_counter() - started)

    def _deliver(self, recording: PlannedRecording, result: Transcript | RedlineError) -> None:
        """Write or print one transcript, or what was done of it before an interruption; or say what went wrong."""
        label = recording.input.label
        if not isinstance(result, Transcript):
            return self._fail(str(result), recording)
        result = formats.rename_speakers(result, self.outputs.speaker_names)
        missing = [notice for notice in result.warnings if notice.code == "interrupted"]
        try:
            paths = self._write(recording, result, partial=bool(missing))
        except FileExistsError as error:
            return self._fail(f"{label}: {error.filename2 or error.filename} is there now; {HOW_TO_GO_ON}", recording)
        except OSError as error:
            return self._fail(f"{label}: cannot be written: {files.describe_os_error(error)}", recording)
        except RedlineError as error:
            return self._fail(str(error), recording)
        if paths and recording.name != recording.input.stem:
            self.notes.say(f"{label} is written to {recording.name}.*")
        if self.stream:
            self._print_segments(recording, result.segments[self._streamed :])
        elif not paths or self.outputs.show_edits:
            self._print_title(label)
            self.printer.print(result, label, recording.name)
        counts = Counter[str]()
        for notice in (*result.warnings, *formats.subtitle_notices(result, self.outputs.formats)):
            counts[notice.code] += 1
            if counts[notice.code] <= MOST_NOTICES:
                self.notes.say(show.notice_line(label, notice), "yellow")
        for code, count in counts.items():
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

    def _write(self, recording: PlannedRecording, transcript: Transcript, *, partial: bool) -> list[Path]:
        """The files of one transcript, complete or not at all; raises `OSError`, `RedlineError` where it cannot be."""
        outputs, resuming = self.outputs, self.resuming
        data = {path: outputs.data(path, transcript, recording.name) for path in recording.paths}
        if partial:
            return [outputs.write_partial(path, each) for path, each in data.items()]
        ours = set[Path]()
        if resuming is not None and recording.identity is not None:
            ours = {path for path in data if resuming.journal.is_ours(path)}
            with resuming.writing(recording, data, transcript.duration):
                return self._write_whole(data, ours)
        return self._write_whole(data, ours)

    def _write_whole(self, data: Mapping[Path, bytes], ours: Set[Path]) -> list[Path]:
        written = []
        for path, each in data.items():
            written.append(files.write_bytes(path, each, replace=self.outputs.overwrite or path in ours))
            self.outputs.remove_partials(path)
        return written

    def _print_title(self, label: str) -> None:
        if self.total > 1:
            self.printer.title(label, first=not self._titled)
        self._titled += 1

    def _print_segments(self, recording: PlannedRecording, segments: Sequence[Segment]) -> None:
        """Segments of a recording that is being worked on, behind its title."""
        if segments and not self._streamed:
            self._print_title(recording.input.label)
        if segments:
            self._streamed += len(segments)
            part = formats.rename_speakers(Transcript("", tuple(segments)), self.outputs.speaker_names)
            self.printer.print(part, recording.input.label, recording.name, "txt")

    def _fail(self, message: str, recording: PlannedRecording | None = None) -> None:
        self.failed += 1
        console.complain(message)
        if recording is not None and self.resuming is not None:
            self.resuming.failed(recording, message)

    def sum_up(self, audio_s: float, wall_s: float) -> None:
        """Say what came of all recordings: in one line, or in a table where a journal is kept."""
        if self.resuming is not None:
            return self.resuming.sum_up(self, audio_s, wall_s)
        parts = ["1 recording" if self.done == 1 else f"{self.done} recordings"]
        if self.done:
            parts[0] += f", {show.length(audio_s)} of audio in {show.length(wall_s)} ({show.speed(audio_s, wall_s)})"
            if self.outputs.folder is not None:
                parts.append(f"written to {self.outputs.folder}{os.sep}")
        parts += [f"{self.skipped} skipped, because their files are there"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.done or self.skipped:
            self.notes.say(", ".join(parts), "dim")
