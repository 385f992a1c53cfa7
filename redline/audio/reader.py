"""Every source of bytes as one seekable, nameless view."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from redline.audio.collector import AudioOptions
from redline.errors import AudioError, AudioLimitError

_SPOOL_IN_MEMORY_BYTES = 32 << 20
_CHUNK = 1 << 16


class Reader:
    """A seekable view of a file's bytes from `base` on, without a name that FFmpeg could judge by."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        try:
            self.base = file.tell()
            self._end = file.seek(0, os.SEEK_END)
        except (OSError, ValueError) as error:
            raise AudioError(f"{name}: cannot be read ({error}); give an open, readable file") from error
        self._position = 0

    @property
    def size(self) -> int:
        return max(self._end - self.base, 0)

    def read(self, count: int) -> bytes:
        count = min(count, self.size - self._position)
        if count <= 0:
            return b""
        try:
            self._file.seek(self.base + self._position)
            data = self._file.read(count)
        except (OSError, ValueError) as error:
            raise AudioError(f"{self.name}: reading failed ({error}); check the disk or the connection") from error
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            return -1
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on."""
        self.seek(offset)
        return self.read(count)


def open_reader(source: str | Path | bytes | BinaryIO, options: AudioOptions, stack: ExitStack) -> Reader:
    """Any input but an array as a seekable reader, closed by `stack` where it was opened here."""
    if isinstance(source, bytes | bytearray | memoryview):
        return Reader(BytesIO(source), "<bytes>")
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        file = stack.enter_context(_open_path(name))
    elif hasattr(source, "read"):
        file = source
        name = file.name if isinstance(getattr(file, "name", None), str) else "<stream>"
        if isinstance(file.read(0), str):
            raise AudioError(f"{name}: opened as text; open it in binary mode ('rb')")
    else:
        raise AudioError(
            f"cannot read audio from {type(source).__name__}; give a path, bytes, a binary file object, "
            "or a numpy array with sample_rate="
        )
    seekable = getattr(file, "seekable", None)
    if seekable is None or not seekable():
        file = _spool(file, name, options, stack)
    return Reader(file, name)


def _open_path(name: str) -> BinaryIO:
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name}: is a folder; give the recordings in it")
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            raise AudioError(f"{name}: is a device; give a recording, or pipe it into the standard input")
        return Path(name).open("rb")
    except FileNotFoundError as error:
        hint = "addresses are not opened, download it first" if "://" in name else "check the spelling and the folder"
        raise AudioError(f"{name}: no such file; {hint}") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _spool(file: BinaryIO, name: str, options: AudioOptions, stack: ExitStack) -> BinaryIO:
    """A seekable copy of a stream, on disk where it is large."""
    copy: Any = tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115
    stack.push(copy)
    size = 0
    try:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > options.max_stream_bytes:
                raise AudioLimitError(
                    f"{name}: more than {options.max_stream_bytes} bytes came from the stream; "
                    "save it to a file first, or raise max_stream_bytes"
                )
            copy.write(chunk)
    except OSError as error:
        raise AudioError(f"{name}: the stream broke off after {size} bytes ({error})") from error
    copy.seek(0)
    return copy  # type: ignore[no-any-return]
