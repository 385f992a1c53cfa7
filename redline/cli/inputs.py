"""What the user named on the command line -> the recordings to read."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redline import files
from redline.audio.containers import SUFFIXES
from redline.cli.recording_options import STDIN


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
        """Bytes, for an estimate of the work; 1 where they are not known."""
        try:
            return max(1, self.path.stat().st_size) if self.path is not None else 1
        except OSError:
            return 1


def expand(arguments: Sequence[str]) -> tuple[list[Input], list[str], list[str]]:
    """Files, folders (searched recursively), patterns and `-` -> recordings, each once; what led to none; and notes of
    what is left out of folders."""
    inputs: dict[str, Input] = {}
    problems: list[str] = []
    left_out: list[str] = []
    for argument in arguments:
        path, recordings = Path(argument), list[Path]()
        if argument == STDIN and sys.stdin.isatty():
            problems.append("-: standard input is a terminal; pipe a recording into it")
        elif argument == STDIN:
            inputs.setdefault(STDIN, Input("<stdin>", None))
        elif path.is_dir():
            recordings = _scan(path, problems, left_out)
            if not recordings:
                problems.append(f"{argument}: no audio files in this folder; known are {' '.join(SUFFIXES)}")
        elif not path.exists() and glob.has_magic(argument):
            for match in map(Path, sorted(glob.iglob(argument, recursive=True))):  # noqa: PTH207 - may be absolute
                recordings += _scan(match, problems, left_out) if match.is_dir() else [match]
            if not recordings:
                problems.append(f"{argument}: no file matches this pattern")
        else:
            recordings = [path]
        for file in recordings:
            inputs.setdefault(str(file.resolve()), Input(str(file), file))
    return list(inputs.values()), problems, left_out


def _scan(folder: Path, problems: list[str], left_out: list[str]) -> list[Path]:
    """The recordings under a folder, judged by the endings of their names; what is hidden is not looked at."""
    recordings, others = list[Path](), Counter[str]()
    for place, folders, names in os.walk(folder, onerror=lambda error: problems.append(files.describe_os_error(error))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if links := sum(Path(place, name).is_symlink() for name in folders):
            others["linked folders"] += links  # they may lead round in a circle
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if not path.is_file():
                others["broken link" if path.is_symlink() else "pipe or device"] += 1
            elif path.suffix.lower() in SUFFIXES:
                recordings.append(path)
            else:
                others[path.suffix.lower() or "without an ending"] += 1
    if others:
        kinds = ", ".join(f"{number} {kind}" for kind, number in others.most_common())
        left_out.append(
            f"{folder}: left out are {kinds}; only files with the ending of a recording are read from a folder, name "
            "another itself to have it read"
        )
    return sorted(recordings)
