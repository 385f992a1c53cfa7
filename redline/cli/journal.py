"""The journal of `redline transcribe --resume`: what is done in an output folder, and the windows of what is not.

One file of JSON lines, `redline-journal.jsonl`; docs/long-recordings.md tells its lines. A line is written at once, so
a process that is killed leaves at most its last line torn, which the next run drops. What a transcript's files will
hold is written before they appear: a kill in between is no doubt.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from redline import __version__, files
from redline.errors import RedlineError
from redline.formats.json import value_of
from redline.types import Hypothesis, JsonRecord, Span

JOURNAL = "redline-journal.jsonl"
JOURNAL_VERSION = 1
CHEAP_BYTES = 64 << 20
"""Of recordings up to this size the content is hashed, so that one that was only touched is known again."""


@dataclass(frozen=True)
class Identity(JsonRecord):
    """A recording as it was when it was read: its path from the output folder, bytes, and time of the last change."""

    recording: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> Identity | None:
        """None for what is no file, such as a pipe, and cannot be read again."""
        try:
            status = path.stat()
            name = os.path.relpath(path.resolve(), folder.resolve())
        except (OSError, ValueError):
            return None
        return cls(name, status.st_size, status.st_mtime_ns) if path.is_file() else None


@dataclass(frozen=True)
class Entry(JsonRecord):
    """A transcript: of what, by which settings, under which name, and the SHA-256 of each of its files."""

    recording: str
    size: int
    mtime_ns: int
    settings: str
    name: str
    files: dict[str, str]
    duration_s: float = 0.0
    sha256: str | None = None
    """Of the recording, where it is small."""

    def is_of(self, identity: Identity, path: Path) -> bool:
        """Whether the recording has not changed since; one that was only touched has not."""
        if (self.recording, self.size) != (identity.recording, identity.size):
            return False
        return self.mtime_ns == identity.mtime_ns or (self.sha256 is not None and self.sha256 == content_hash(path))


@dataclass
class _State:
    """What the lines of a journal say in the end."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, Entry] = field(default_factory=dict)  # by the names of their files
    writing: dict[str, Entry] = field(default_factory=dict)  # by recording: those whose files may be there
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)  # by recording
    windows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)  # by recording and number

    def take(self, line: Mapping[str, Any]) -> None:
        """One more line; raises `KeyError`, `TypeError` or `ValueError` for one that is none."""
        kind, values = line["event"], {key: value for key, value in line.items() if key != "event"}
        if kind in ("writing", "done"):
            entry = Entry(**values)
            if not all(isinstance(each, str) for each in (entry.recording, entry.name, *entry.files)):
                raise TypeError("files and recordings are names")
            self.failed.pop(entry.recording, None)
            if kind == "writing":
                self.writing[entry.recording] = entry
                return
            self.writing.pop(entry.recording, None)
            self.windows.pop(entry.recording, None)
            others = {id(self.done[name]) for name in entry.files if name in self.done}  # no longer whole
            self.done = {name: each for name, each in self.done.items() if id(each) not in others}
            self.done |= dict.fromkeys(entry.files, entry)
        elif kind == "window":
            Identity(values["recording"], values["size"], values["mtime_ns"])
            self.windows.setdefault(values["recording"], {})[int(values["window"])] = values
        elif kind == "failed":
            self.failed[values["recording"]] = values
        elif kind == "settings":
            self.settings[values["id"]] = values
        elif kind == "journal" and values["version"] != JOURNAL_VERSION:
            raise RedlineError(
                f"{JOURNAL} has version {values['version']!r}, and this is for version {JOURNAL_VERSION}; take the "
                "Redline that wrote it, or another --output-dir"
            )
        elif kind != "journal":
            raise ValueError(f"no event is called {kind!r}")

    def lines(self) -> list[dict[str, Any]]:
        """The fewest lines that say the same."""
        entries = list({id(entry): entry for entry in self.done.values()}.values())
        windows = [line for own in self.windows.values() for line in own.values()]
        used = {entry.settings for entry in (*entries, *self.writing.values())}
        used |= {line["settings"] for line in (*windows, *self.failed.values())}
        return [
            {"event": "journal", "version": JOURNAL_VERSION},
            *({"event": "settings", **each} for id, each in self.settings.items() if id in used),
            *({"event": "done", **entry.to_dict()} for entry in entries),
            *({"event": "writing", **entry.to_dict()} for entry in self.writing.values()),
            *({"event": "failed", **line} for line in self.failed.values()),
            *({"event": "window", **line} for line in windows),
        ]


class Journal:
    """The journal of one output folder, locked while it is open; writing to it raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        """Read what is there, and write it again without what is over; raises `RedlineError`, `OSError`."""
        self.folder, self.path = folder, folder / JOURNAL
        self.unread = 0
        """Lines that could not be understood, but for a torn last one."""
        before = self._opened()
        try:
            self._state = self._read()
            self._settle()
            text = "".join(_encoded(line) for line in self._state.lines())
            files.write_bytes(self.path, text.encode("ascii"))
            self._handle = self._opened()
        finally:
            os.close(before)

    def close(self) -> None:
        os.close(self._handle)

    def _opened(self) -> int:
        """The file, locked; it is closed in the workers of this process, which may live longer than it."""
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), self.path.stat()):
                    return handle
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(handle)
                raise RedlineError(
                    f"{self.path}: another run is writing into this folder; wait for it, or take another --output-dir"
                ) from None
            except OSError:  # a file system without locks
                return handle
            os.close(handle)

    def _read(self) -> _State:
        state = _State()
        *lines, torn = self.path.read_bytes().split(b"\n")
        for line in lines:
            try:
                state.take(json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                self.unread += 1
        with suppress(KeyError, TypeError, ValueError, AttributeError, RecursionError):
            state.take(json.loads(torn))
        return state

    def _settle(self) -> None:
        """Decide about transcripts over which a run was killed: done where every file is what it was to be."""
        for entry in list(self._state.writing.values()):
            if all(files.file_hash(self.folder / name) == digest for name, digest in entry.files.items()):
                self._state.take({"event": "done", **entry.to_dict()})

    def is_done(self, identity: Identity, path: Path, settings: str, outputs: Sequence[Path]) -> Entry | None:
        """The transcript of this recording by these settings, where all its files are there, edited or not."""
        entries = {id(entry): entry for each in outputs if (entry := self._state.done.get(each.name)) is not None}
        if len(entries) != 1 or not all(os.path.lexists(each) for each in outputs):
            return None
        (entry,) = entries.values()
        covers = entry.settings == settings and {each.name for each in outputs} <= set(entry.files)
        if not covers or not entry.is_of(identity, path):
            return None
        if entry.mtime_ns != identity.mtime_ns:
            self.finish(replace(entry, mtime_ns=identity.mtime_ns))
        return entry

    def is_ours(self, output: Path) -> bool:
        """Whether a file is as a run with this journal wrote it, so that it may be replaced."""
        digests = [entry.files.get(output.name) for entry in self._state.writing.values()]
        if (entry := self._state.done.get(output.name)) is not None:
            digests.append(entry.files[output.name])
        return any(digests) and files.file_hash(output) in digests

    def names(self) -> dict[str, str]:
        """The names under which the transcripts of recordings are in the folder."""
        return {entry.recording: entry.name for entry in self._state.done.values()}

    def use(self, settings: Mapping[str, Any]) -> str:
        """The id of these settings, which are told in the journal."""
        id = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        if id not in self._state.settings:
            self._append({"event": "settings", "id": id, **settings})
        return id

    def answers(self, identity: Identity, settings: str, *, with_timing: bool) -> KeptAnswers:
        """The windows of a recording that are kept."""
        lines = self._state.windows.get(identity.recording, {})
        mine = {**identity.to_dict(), "settings": settings}
        kept = {number: line for number, line in lines.items() if mine.items() <= line.items()}
        return KeptAnswers(self, mine, kept, with_timing)

    def write(self, entry: Entry) -> None:
        """Say what the files of a transcript will hold, before they appear."""
        self._append({"event": "writing", **entry.to_dict()}, sync=True)

    def finish(self, entry: Entry) -> None:
        """The files of a transcript are there."""
        self._append({"event": "done", **entry.to_dict()})

    def fail(self, identity: Identity, settings: str, error: str) -> None:
        """A recording failed; it is tried again by the next run."""
        self._append({"event": "failed", **identity.to_dict(), "settings": settings, "error": error})

    def _append(self, line: Mapping[str, Any], *, sync: bool = False) -> None:
        """One line, all of it or nothing."""
        data, before = _encoded(line).encode("ascii"), os.fstat(self._handle).st_size
        try:
            written = os.write(self._handle, data)
            while written < len(data):
                written += os.write(self._handle, data[written:])
            if sync:
                os.fsync(self._handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        if line["event"] != "window":  # those of this run are never asked for
            self._state.take(line)


class KeptAnswers:
    """The answers to the windows of one recording (`redline.longform.resumed.AnswerStore`)."""

    def __init__(
        self, journal: Journal, mine: Mapping[str, Any], lines: Mapping[int, Mapping[str, Any]], with_timing: bool
    ) -> None:
        """`mine` is what every line of this recording says; `with_timing` keeps the words of `Hypothesis.timing`."""
        self._journal, self._mine, self._lines, self._with_timing = journal, mine, lines, with_timing
        self.problem: OSError | None = None
        """Why answers could not be kept: the disk is full, for example."""

    def __len__(self) -> int:
        return len(self._lines)

    def known(self, id: int, window: Span) -> Hypothesis | None:
        line = self._lines.get(id)
        if line is None or (line["start"], line["end"]) != (window.start, window.end):
            return None
        try:
            timed = line.get("timing")
            answer: Hypothesis = value_of(Hypothesis, line["answer"], "answer")
            words = None if timed is None else value_of(Hypothesis, {"text": "", "words": timed}, "timing").words
        except (KeyError, TypeError, ValueError, RecursionError):  # somebody wrote in the journal: it is asked again
            return None
        if words is None and self._with_timing and not answer.words:
            return None
        return answer if words is None else replace(answer, timing=lambda: words)

    def keep(self, id: int, window: Span, answer: Hypothesis) -> None:
        place = {"window": id, "start": window.start, "end": window.end}
        line = {"event": "window", **self._mine, **place, "answer": asdict(replace(answer, timing=None))}
        if self._with_timing and answer.timing is not None:
            line["timing"] = [word.to_dict() for word in answer.timing()]
        try:
            self._journal._append(line)
        except OSError as error:  # the work goes on; whether its end can be written is seen there
            self.problem = error


def _encoded(line: Mapping[str, Any]) -> str:
    """A line in ASCII, whatever bytes names have."""
    return json.dumps(line) + "\n"


def settings_of(model: str, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about a transcript besides its recording: this version, the model's files, the options."""
    weights = hashlib.sha256()
    for path in files.files_under(folder):
        status = path.stat()
        state = files.file_hash(path) if status.st_size <= CHEAP_BYTES else (status.st_size, status.st_mtime_ns)
        weights.update(f"{path.relative_to(folder).as_posix()!a} {state}\n".encode())
    return {"redline": __version__, "model": model, "weights": weights.hexdigest()[:16], "options": dict(options)}


def content_hash(path: Path) -> str | None:
    """`file_hash` of a recording that is small enough; None for others."""
    return files.file_hash(path) if path.stat().st_size <= CHEAP_BYTES else None
