"""What the user named on the command line -> the recordings to read and the names of the files to write."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redline.audio.content import SUFFIXES

__all__ = ["STDIN", "SUFFIXES", "Input", "expand", "output_names"]

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One recording: how the user knows it, and where it is (None: standard input)."""

    label: str
    path: Path | None

    @property
    def stem(self) -> str:
        """The name of its output files, without their suffix."""
        return "stdin" if self.path is None else self.path.stem

    @property
    def size(self) -> int:
        """Bytes, for an estimate of the work; 1 where they cannot be told."""
        try:
            return max(1, self.path.stat().st_size) if self.path is not None else 1
        except OSError:
            return 1


def expand(arguments: Sequence[str]) -> tuple[list[Input], list[str]]:
    """Files, folders (searched recursively), patterns and `-` -> recordings, each once, and what led to none."""
    inputs: dict[str, Input] = {}
    problems: list[str] = []
    for argument in arguments:
        if argument == STDIN:
            if sys.stdin.isatty():
                problems.append("-: standard input is a terminal; pipe a recording into it")
            else:
                inputs.setdefault(STDIN, Input("<stdin>", None))
            continue
        path = Path(argument)
        if path.is_dir():
            found = list(_recordings(path))
            if not found:
                problems.append(f"{argument}: no audio files in this folder; known are {' '.join(SUFFIXES)}")
        elif not path.exists() and glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.iglob(argument, recursive=True))]  # noqa: PTH207 - may be absolute
            found = [file for match in matches for file in (_recordings(match) if match.is_dir() else [match])]
            if not found:
                problems.append(f"{argument}: no file matches this pattern")
        else:
            found = [path]
        for file in found:
            inputs.setdefault(str(file.resolve()), Input(str(file), file))
    return list(inputs.values()), problems


def _recordings(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.suffix.lower() in SUFFIXES and path.is_file() and not any(part.startswith(".") for part in inside):
            yield path


def output_names(stems: Iterable[str]) -> list[str]:
    """One name for each stem, all different also where the case of letters does not count: a, a-2, a-3."""
    stems = list(stems)
    taken = {stem.casefold() for stem in stems}
    seen: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 2
        if stem.casefold() in seen:
            while (name := f"{stem}-{number}").casefold() in taken:
                number += 1
            taken.add(name.casefold())
        seen.add(stem.casefold())
        names.append(name)
    return names
