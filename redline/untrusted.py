"""Files of a foreign folder: looked at before they are opened, read up to a limit, JSON without surprises.

A checkpoint is somebody else's. Opening a FIFO waits for ever, a device never ends, a link can lead to any file of the
machine, and deeply nested JSON ends the parser. So each file must be a regular one inside the folder, of a size that
its kind can have.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from redline.errors import CheckpointError

MAX_JSON = 1 << 20
"""Bytes of a configuration; the published ones have some thousands."""
MAX_DEPTH = 32
"""Objects and lists inside each other; a published configuration has 3."""


def is_there(path: Path) -> bool:
    """Whether a name is taken, by whatever; what stands there is judged when it is opened."""
    return os.path.lexists(path)


def regular(path: Path) -> Path:
    """The path, if it is a regular file in its folder; raises `CheckpointError` without opening anything.

    A link may lead to another file of the folder. Those of a hub's cache lead out of it by design, to the blobs of the
    repository or of the whole cache.
    """
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or "its links go round in a circle"
        raise CheckpointError(f"{path}: cannot be read ({reason}); a checkpoint needs it") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: {_kind(mode)}; a regular file is needed")
    if not any(real.is_relative_to(place) for place in _places(path.parent.resolve())):
        raise CheckpointError(f"{path}: a link out of the folder, to {real}; put the file itself there")
    return path


def _places(folder: Path) -> Iterator[Path]:
    """Where the files of a folder may really be."""
    yield folder
    repository = folder.parent.parent
    if folder.parent.name == "snapshots" and re.match(r"(models|datasets|spaces)--", repository.name):
        yield repository / "blobs"
        yield repository.parent / "blobs"


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def read_checkpoint_text(path: Path, most: int = MAX_JSON) -> str:
    """A text in UTF-8; raises `CheckpointError` where it cannot be had, or is longer than `most` bytes."""
    try:
        size = regular(path).stat().st_size
        if size > most:
            raise CheckpointError(f"{path}: {size} bytes; at most {most} are read")
        with path.open("rb") as file:
            return file.read(most).decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); a checkpoint needs it") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error})") from error


def read_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object; raises `CheckpointError` where there is none, or one that says something twice."""
    return parse_json_object(read_checkpoint_text(path, most), path)


def parse_json_object(text: str, origin: str | Path) -> dict[str, Any]:
    """The object that a JSON text is; raises `CheckpointError`, naming `origin`."""
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])  # of the texts in it
    steps = (1 if char in "[{" else -1 for char in outside if char in "[]{}")
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise CheckpointError(f"{origin}: JSON nested more than {MAX_DEPTH} deep; a configuration needs a few levels")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(f"{origin}: the key {_short(twice)} is there twice; only one can be meant")
        return values

    try:
        values = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{origin}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{origin}: a JSON {type(values).__name__}; an object is needed")
    return values


def _short(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "...")
