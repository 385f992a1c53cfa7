"""Channels of a recording: how many there are, and a source that can be read once for each."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from redline import audio
from redline.audio.options import AudioOptions
from redline.audio.source import open_source
from redline.errors import NoSuchChannelError

_CHUNK = 1 << 20
_LAST = re.compile(r"there are channels 0 to (\d+); [^;]*$")


def count_channels(source: Any, sample_rate: int | None, options: AudioOptions) -> int:
    """How many channels a recording has, as its first samples tell; raises `AudioError` where it cannot be read."""
    last = options.max_channels - 1
    try:
        with audio.open_blocks(source, sample_rate=sample_rate, options=replace(options, channel=last)) as blocks:
            next(blocks, None)
    except NoSuchChannelError as error:
        match = _LAST.search(str(error))
        assert match is not None, str(error)
        return int(match[1]) + 1
    return last + 1


def rereadable(source: Any, options: AudioOptions) -> Any:
    """A source that can be opened several times: streams and named pipes are copied to a temporary file.

    Raises `AudioError` where they cannot be.
    """
    is_pipe = isinstance(source, str | Path) and _is_pipe(source)
    if not (is_pipe or hasattr(source, "read")) or (type(source) is BufferedReader and source.seekable()):
        return source
    with ExitStack() as stack:
        opened = open_source(source, options, stack)
        copy: Any = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as somebody reads it
        while data := opened.read(_CHUNK):
            copy.write(data)
        copy.flush()
        copy.seek(0)
        return os.fdopen(os.dup(copy.fileno()), "rb")


def _is_pipe(path: str | Path) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - a path of the caller's that may be anything
    except (OSError, ValueError):
        return False
