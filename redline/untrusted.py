"""Files of a checkpoint, which is somebody else's: looked at before they are opened, read up to a limit.

Opening a FIFO waits for ever, a device never ends, a link can lead to any file of the machine, and deeply nested JSON
ends the parser. So each file must be a regular one inside the folder, of a size that its kind can have.
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

MAX_JSON_BYTES = 1 << 20
"""Of a configuration; the published ones have some thousands."""
MAX_JSON_DEPTH = 32
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
        why = getattr(error, "strerror", None) or "its links go round in a circle"
        raise CheckpointError(f"{path}: cannot be read ({why}); a checkpoint needs it") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise CheckpointError(f"{path}: {kinds.get(stat.S_IFMT(mode), 'a device')}; a regular file is needed")
    if not any(real.is_relative_to(root) for root in _allowed_roots(path.parent.resolve())):
        raise CheckpointError(f"{path}: a link out of the folder, to {real}; put the file itself there")
    return path


def _allowed_roots(folder: Path) -> Iterator[Path]:
    """Where the files of a folder may really be."""
    yield folder
    repository = folder.parent.parent
    if folder.parent.name == "snapshots" and re.match(r"(models|datasets|spaces)--", repository.name):
        yield repository / "blobs"
        yield repository.parent / "blobs"


def read_checkpoint_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A text in UTF-8; raises `CheckpointError` where it cannot be read, or is longer than `max_bytes`."""
    try:
        size = regular(path).stat().st_size
        if size > max_bytes:
            raise CheckpointError(f"{path}: {size} bytes; at most {max_bytes} are read")
        with path.open("rb") as file:
            return file.read(max_bytes).decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); a checkpoint needs it") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error})") from error


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises `CheckpointError` where there is none, or one that has a key twice."""
    return parse_json_object(read_checkpoint_text(path, max_bytes), path)


def parse_json_object(text: str, origin: str | Path) -> dict[str, Any]:
    """The object that a JSON text is; raises `CheckpointError`, naming `origin`."""
    outside_strings = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    steps = (1 if char in "[{" else -1 for char in outside_strings if char in "[]{}")
    if max(accumulate(steps), default=0) > MAX_JSON_DEPTH:
        raise CheckpointError(
            f"{origin}: JSON nested more than {MAX_JSON_DEPTH} deep; a configuration needs a few levels"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            key = Counter(name for name, _ in pairs).most_common(1)[0][0]
            shown = key if len(key) <= 64 else f"{key[:64]}..."
            raise CheckpointError(f"{origin}: the key {shown!r} is there twice; only one can be meant")
        return values

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{origin}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{origin}: a JSON {type(values).__name__}; an object is needed")
    return values
