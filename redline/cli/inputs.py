"""What the user named on the command line -> the recordings to read and the names of the files to write."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redline import files
from redline.audio.containers import SUFFIXES

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


@dataclass
class Scan:
    """What a folder holds: recordings, how much of what is left out, and what cannot be read."""

    found: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self, folder: str) -> str | None:
        """What was left out and why, in one line; None where nothing was."""
        if not self.left_out:
            return None
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.left_out.most_common())
        return (
            f"{folder}: left out are {kinds}; only files with the ending of a recording are read from a folder, name "
            "another itself to have it read"
        )


def expand(arguments: Sequence[str]) -> tuple[list[Input], list[str], list[str]]:
    """Files, folders (searched recursively), patterns and `-` -> recordings, each once; what led to none; and notes of
    what is left out of folders."""
    inputs: dict[str, Input] = {}
    problems: list[str] = []
    left_out: list[str] = []

    def scan(folder: Path) -> list[Path]:
        one = scan_folder(folder)
        problems.extend(one.problems)
        left_out.extend(filter(None, [one.summary(str(folder))]))
        return one.found

    for argument in arguments:
        if argument == STDIN:
            if sys.stdin.isatty():
                problems.append("-: standard input is a terminal; pipe a recording into it")
            else:
                inputs.setdefault(STDIN, Input("<stdin>", None))
            continue
        path = Path(argument)
        if path.is_dir():
            found = scan(path)
            if not found:
                problems.append(f"{argument}: no audio files in this folder; known are {' '.join(SUFFIXES)}")
        elif not path.exists() and glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.iglob(argument, recursive=True))]  # noqa: PTH207 - may be absolute
            found = [file for match in matches for file in (scan(match) if match.is_dir() else [match])]
            if not found:
                problems.append(f"{argument}: no file matches this pattern")
        else:
            found = [path]
        for file in found:
            inputs.setdefault(str(file.resolve()), Input(str(file), file))
    return list(inputs.values()), problems, left_out


def scan_folder(folder: Path) -> Scan:
    """The recordings under a folder, judged by the endings of their names; what is hidden is not looked at."""
    scan = Scan()

    def unreadable(error: OSError) -> None:
        scan.problems.append(files.describe_os_error(error))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if links := sum(Path(place, name).is_symlink() for name in folders):
            scan.left_out["linked folders"] += links  # they may lead round in a circle
        for name in names:
            if name.startswith("."):
                continue
            path = Path(place, name)
            if not path.is_file():
                scan.left_out["broken link" if path.is_symlink() else "pipe or device"] += 1
            elif path.suffix.lower() in SUFFIXES:
                scan.found.append(path)
            else:
                scan.left_out[path.suffix.lower() or "without an ending"] += 1
    scan.found.sort()
    return scan


def output_names(stems: Iterable[str], most_bytes: int = files.NAME_BYTES) -> list[str]:
    """One name for each stem, all different also where the case of letters does not count: a, a-2, a-3.

    A name has at most `most_bytes`.
    """
    stems = [shortened(stem, most_bytes) for stem in stems]
    taken = {stem.casefold() for stem in stems}
    seen: set[str] = set()
    names = []
    for stem in stems:
        name, number = stem, 2
        if stem.casefold() in seen:
            while (name := _numbered(stem, number, most_bytes)).casefold() in taken:
                number += 1
            taken.add(name.casefold())
        seen.add(stem.casefold())
        names.append(name)
    return names


def _numbered(stem: str, number: int, most_bytes: int) -> str:
    return f"{shortened(stem, most_bytes - len(str(number)) - 1)}-{number}"


def shortened(name: str, most_bytes: int) -> str:
    """As much of the beginning of a name as fits."""
    while len(os.fsencode(name)) > most_bytes:
        name = name[: -max(1, (len(os.fsencode(name)) - most_bytes) // 4)]
    return name
