"""Where transcripts go: files in a folder under names that are free, or standard output."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.text import Text

from redline import files, formats
from redline.cli import console, show
from redline.errors import RedlineError
from redline.formats import SubtitleOptions
from redline.types import Transcript


@dataclass(frozen=True)
class Outputs:
    """The formats that are wanted, the folder of their files (None: standard output), and how they are written."""

    formats: Sequence[str]
    folder: Path | None = None
    overwrite: bool = False
    skip_existing: bool = False
    show_edits: bool = False
    subtitles: SubtitleOptions | None = None
    speaker_names: Mapping[str, str] = field(default_factory=dict)

    def check(self, recordings: int) -> None:
        """Raise `typer.BadParameter` for options that contradict each other."""
        if self.overwrite and self.skip_existing:
            hint = "--overwrite --skip-existing"
            raise typer.BadParameter("one replaces files, the other leaves them", param_hint=hint)
        first, *others = self.formats
        wrong = None
        if others:
            wrong = "standard output takes one format"
        elif recordings > 1 and first != "txt":
            wrong = f"several recordings in {first} are several files"
        elif formats.TRANSCRIPT_FORMATS[first].binary:
            wrong = f"{first} is a file and cannot be printed"
        elif self.show_edits and first != "txt" and not formats.TRANSCRIPT_FORMATS[first].has_edits:
            wrong = f"--show-edits prints text, not {first}"
        if wrong and self.folder is None:
            raise typer.BadParameter(f"{wrong}; add --output-dir", param_hint="--format")

    def prepare(self) -> None:
        """Make the folder, and clear it of what killed runs left; raises `RedlineError` where it cannot be one."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))
        except OSError as error:
            raise RedlineError(f"--output-dir: {files.describe_os_error(error)}") from error
        files.sweep(self.folder)

    def names(self, stems: Sequence[str], kept: Sequence[str | None] = (), taken: Iterable[str] = ()) -> list[str]:
        """The names of the files without their suffixes, each once: those that are `kept`, others than are `taken`."""
        longest = files.NAME_BYTES if self.folder is None else files.longest_name(self.folder)
        kept = kept or [None] * len(stems)
        new = [stem for stem, name in zip(stems, kept, strict=True) if name is None]
        made = iter(output_names(new, longest - max(map(len, self.formats)) - 1, taken))
        return [next(made) if name is None else name for name in kept]

    def paths(self, name: str) -> list[Path]:
        return [] if self.folder is None else [self.folder / f"{name}.{format}" for format in self.formats]

    def data(self, path: Path, transcript: Transcript, name: str) -> bytes:
        """What is in a file of a transcript."""
        rendered = self.render(transcript, name, path.suffix[1:])
        return rendered if isinstance(rendered, bytes) else files.encoded(rendered)

    def write_partial(self, path: Path, data: bytes) -> Path:
        """Write a partial transcript under a name of its own that is free."""
        free = next(partial for partial in partial_names(path) if not os.path.lexists(partial))
        return files.write_bytes(free, data, replace=False)

    def remove_partials(self, path: Path) -> None:
        """A finished file is there: the partial ones of interrupted runs say nothing more."""
        with suppress(OSError):  # the first that is not there
            for partial in partial_names(path):
                if not partial.name.startswith(path.name):  # a shortened name may be another recording's
                    break
                partial.unlink()

    def render(self, transcript: Transcript, name: str, format: str) -> str | bytes:
        style, edits = self.subtitles if formats.TRANSCRIPT_FORMATS[format].subtitles else None, self.show_edits
        return formats.render_transcript(transcript, format, name, all_edits=edits, show_edits=edits, subtitles=style)


def partial_names(path: Path) -> Iterator[Path]:
    """NAME.FORMAT.partial, NAME.FORMAT.2.partial and so on, which no finished file can have."""
    for number in itertools.count(1):
        end = f"{path.suffix}{'' if number == 1 else f'.{number}'}.partial"
        yield path.with_name(shortened(path.stem, files.longest_name(path.parent) - len(end)) + end)


def output_names(stems: Sequence[str], max_bytes: int = files.NAME_BYTES, taken: Iterable[str] = ()) -> list[str]:
    """One name of at most `max_bytes` for each stem, all different also where case does not count: a, a-2, a-3."""
    stems = [shortened(stem, max_bytes) for stem in stems]
    seen = {name.casefold() for name in taken}
    used = {stem.casefold() for stem in stems} | seen
    names = []
    for stem in stems:
        name = stem
        if stem.casefold() in seen:
            numbered = (f"{shortened(stem, max_bytes - len(f'-{n}'))}-{n}" for n in itertools.count(2))
            name = next(free for free in numbered if free.casefold() not in used)
            used.add(name.casefold())
        seen.add(stem.casefold())
        names.append(name)
    return names


def shortened(name: str, max_bytes: int) -> str:
    """As much of the beginning of a name as fits."""
    while len(os.fsencode(name)) > max_bytes:
        name = name[: -max(1, (len(os.fsencode(name)) - max_bytes) // 4)]
    return name


class Printer:
    """Transcripts on standard output, in the encoding that it has."""

    def __init__(self, outputs: Outputs, notes: console.Notes) -> None:
        self._outputs = outputs
        self._notes = notes
        self._out = console.results()
        self._warned = False

    def title(self, label: str, *, first: bool) -> None:
        self._out.print(("" if first else "\n") + console.one_line(f"==> {label} <=="))

    def print(self, transcript: Transcript, label: str, name: str, format: str | None = None) -> None:
        """The transcript in a format, by default the first, or its tracked changes where they are wanted."""
        format = format or self._outputs.formats[0]
        show_edits = self._outputs.show_edits
        if not show_edits or (self._outputs.folder is None and format != "txt"):
            text = self._outputs.render(transcript, name, format)
            assert isinstance(text, str), "binary formats are refused before the work"
            self._print_whole(text, is_json=format == "json")
            show_edits &= format != "json"  # it says itself that there is no draft
        else:
            self._print_edits(transcript)
        if show_edits and transcript.segments and transcript.draft is None:
            self._notes.say(f"{label}: the model writes no draft; this is the text", "yellow")

    def _print_edits(self, transcript: Transcript) -> None:
        for segment in transcript.segments:
            color = self._out.is_terminal and not self._out.no_color
            line = (
                show.edited_line(segment.edits, color, segment.aligned_words()) if segment.edits else Text(segment.text)
            )
            self._check_encoding(line.plain)
            self._out.print(line)

    def _print_whole(self, text: str, is_json: bool) -> None:
        if self._out.is_terminal:
            text = console.printable(text)
        if is_json and not self._out.encoding.startswith("utf"):  # escapes, which every reader of JSON understands
            text = re.sub(r"[^\x00-\x7f]+", lambda match: json.dumps(match[0])[1:-1], text)
        self._check_encoding(text)
        self._out.file.write(text)
        self._out.file.flush()

    def _check_encoding(self, text: str) -> None:
        absent = console.missing(text, self._out.file)
        if absent and not self._warned:
            self._warned = True
            self._notes.say(
                f"standard output is in {self._out.encoding}, which does not have {absent[:10]}; they are written as "
                "escapes; set PYTHONIOENCODING=utf-8, or write files with --output-dir, which are UTF-8",
                "yellow",
            )
