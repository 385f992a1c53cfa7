"""`redline transcribe --resume`: which recordings the journal says are done, and what it is told of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from redline import files
from redline.cli import console, show
from redline.cli.inputs import Input
from redline.cli.journal import Entry, Identity, Journal, KeptAnswers, content_hash
from redline.cli.outputs import Outputs
from redline.errors import RedlineError

if TYPE_CHECKING:
    from redline.cli.job import Job, PlannedRecording

MOST_NAMED = 10
"""Recordings that failed and are named at the end."""


class Resuming:
    """One run with a journal."""

    def __init__(
        self, journal: Journal, settings: Mapping[str, Any], notes: console.Notes, *, with_timing: bool
    ) -> None:
        """`settings` decide about transcripts; `with_timing` keeps word times that the formats may ask for."""
        self.journal, self.settings = journal, journal.use(settings)
        self._notes, self._with_timing = notes, with_timing
        self._skipped_s = 0.0
        self._resumed_windows = 0
        self._stores: list[KeptAnswers] = []
        self._failed: list[str] = []
        if journal.unread:
            notes.say(
                f"{journal.path}: {journal.unread} lines cannot be read; what they told of is done again", "yellow"
            )

    def identity(self, source: Input) -> Identity | None:
        """None for what is no file."""
        return None if source.path is None else Identity.of(source.path, self.journal.folder)

    def names(self, outputs: Outputs, stems: Sequence[str], identities: Sequence[Identity | None]) -> list[str]:
        """Names for the files of recordings: those that they have in the journal, which no others get."""
        known = self.journal.names()
        kept = [None if identity is None else known.get(identity.recording) for identity in identities]
        return outputs.names(stems, kept, known.values())

    def is_done(self, source: Input, identity: Identity, paths: Sequence[Path]) -> bool:
        """Whether the files of a recording are there, made of it as it is now, by these settings."""
        assert source.path is not None
        entry = self.journal.is_done(identity, source.path, self.settings, paths)
        self._skipped_s += 0.0 if entry is None else entry.duration_s
        return entry is not None

    def answers(self, work: Sequence[PlannedRecording]) -> Callable[[Any], KeptAnswers | None]:
        """The store of each recording, by the source that the transcriber gets."""
        planned = {str(recording.input.path): recording.identity for recording in work}

        def answers(source: Any) -> KeptAnswers | None:
            identity = planned.get(source) if isinstance(source, str) else None
            if identity is None:
                return None
            store = self.journal.answers(identity, self.settings, with_timing=self._with_timing)
            self._resumed_windows += len(store)
            self._stores.append(store)
            return store

        return answers

    @contextmanager
    def writing(self, recording: PlannedRecording, data: Mapping[Path, bytes], duration_s: float) -> Iterator[None]:
        """Tell the journal of the files that are written inside; raises `RedlineError` where the recording changed."""
        path, identity = recording.input.path, recording.identity
        assert path is not None and identity is not None
        if Identity.of(path, self.journal.folder) != identity:
            raise RedlineError(f"{recording.input.label}: was changed while it was read; run the command again")
        hashes = {path.name: hashlib.sha256(each).hexdigest() for path, each in data.items()}
        details = (self.settings, recording.name, hashes, duration_s, content_hash(path))
        entry = Entry(identity.recording, identity.size, identity.mtime_ns, *details)
        self.journal.write(entry)
        yield
        self.journal.finish(entry)

    def failed(self, recording: PlannedRecording, message: str) -> None:
        """A recording failed."""
        self._failed.append(recording.input.label)
        try:
            if recording.identity is not None:
                self.journal.fail(recording.identity, self.settings, message)
        except OSError as error:  # it is tried again anyway
            self._notes.say(files.describe_os_error(error), "yellow")

    def sum_up(self, job: Job, audio_s: float, wall_s: float) -> None:
        """The table of a run: recordings, hours, and how many times faster than real time it was."""
        problems = {str(files.describe_os_error(store.problem)) for store in self._stores if store.problem is not None}
        for problem in sorted(problems):
            self._notes.say(f"{problem}; so windows of unfinished recordings could not be kept", "yellow")
        if self._resumed_windows:
            self._notes.say(f"{self._resumed_windows} windows of unfinished recordings were there already", "dim")
        table = Table(box=None, pad_edge=False)
        for heading in ("", "files", "hours", "RTFx"):
            table.add_column(heading, justify="left" if not heading else "right")
        rtfx = f"{audio_s / wall_s:.1f}" if job.done and wall_s else ""
        table.add_row("done", str(job.done), show.hours(audio_s), rtfx)
        table.add_row("skipped", str(job.skipped), show.hours(self._skipped_s), "")
        table.add_row("failed", str(job.failed), "", "")
        table.add_row("all", str(job.total), show.hours(audio_s + self._skipped_s), "")
        self._notes.print(table)
        for label in self._failed[:MOST_NAMED]:
            self._notes.say(f"failed: {label}", "red")
        if len(self._failed) > MOST_NAMED:
            more = f"and {len(self._failed) - MOST_NAMED} more"
            self._notes.say(f"{more}; {self.journal.path} tells which failed, and why", "red")
        if job.done:
            self._notes.say(f"written to {self.journal.folder}/ in {show.length(wall_s)}", "dim")
