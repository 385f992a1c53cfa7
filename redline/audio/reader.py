"""Every source of bytes as one seekable, nameless view."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import ExitStack
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from redline import files
from redline.audio.collector import AudioOptions
from redline.errors import AudioError, AudioLimitError

_SPOOL_IN_MEMORY_BYTES = 32 << 20
_CHUNK = 1 << 16


class Reader:
    """A seekable view of a file's bytes from `base` on, without a name that FFmpeg could judge by."""

    def __init__(self, file: BinaryIO, name: str, *, base: int | None = None, owned: bool = False) -> None:
        """`owned`: the file was opened here, so that its descriptor shows the same bytes as its methods."""
        self.name = name
        self._file = file
        self._owned = owned
        try:
            self.base = file.tell() if base is None else base
            self._end = file.seek(0, os.SEEK_END)
            whole = all(isinstance(place, int) for place in (self.base, self._end))
        except Exception as error:  # whatever a stream of the caller's can raise
            raise AudioError(f"{name}: cannot be read ({reason(error)}); give an open, readable file") from error
        if not whole:
            raise AudioError(f"{name}: tells and seeks places that are no numbers; give an open, readable file")
        self._position = 0
        self.shrank = False
        """Bytes that were there when it was opened were gone when they were read."""

    @property
    def size(self) -> int:
        return max(self._end - self.base, 0)

    def again(self, size: int | None = None) -> Reader:
        """A second view of the first `size` bytes or of all, with a place of its own."""
        view = Reader(self._file, self.name, base=self.base)
        return view.expect(self.size if size is None else min(self.size, size))

    def expect(self, size: int) -> Reader:
        """The same, where it is known that there were so many bytes."""
        self._end = self.base + size
        return self

    def descriptor(self, stack: ExitStack) -> int:
        """A file descriptor behind which these bytes lie at the same places; of a copy, where there is none."""
        plain = type(self._file) is BufferedReader and type(self._file.raw) is FileIO
        if self._owned or plain:
            self._file.flush()
            return self._file.fileno()
        try:
            copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
            copy.seek(self.base)
            self.seek(0)
            while part := self.read(_CHUNK):
                copy.write(part)
            copy.flush()
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be copied to a temporary file ({reason(error)})") from error
        return copy.fileno()

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        left = min(count, self.size - self._position)
        if left <= 0:
            return b""
        try:
            self._file.seek(self.base + self._position)
        except Exception as error:
            raise _failed(self.name, error) from error
        parts = []
        while left > 0 and (part := read_some(self._file, left, self.name)):
            parts.append(part)
            left -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.shrank = self.shrank or left > 0
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


def read_some(file: Any, count: int, name: str) -> bytes:
    """One read of a stream, checked: some bytes, at most `count`, or none at its end."""
    try:
        data = file.read(count)
    except Exception as error:  # whatever a stream of the caller's can raise
        raise _failed(name, error) from error
    if isinstance(data, str):
        raise AudioError(f"{name}: opened as text; open it in binary mode ('rb')")
    if data is None:
        raise AudioError(f"{name}: read gave None, as a non-blocking stream without data does; make it blocking")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise AudioError(f"{name}: read gave {type(data).__name__}; a binary stream gives bytes")
    if len(data) > count:
        raise AudioError(
            f"{name}: read gave {len(data)} bytes where {count} were asked for; give a well-behaved stream"
        )
    return bytes(data)


def open_reader(source: str | Path | bytes | BinaryIO, options: AudioOptions, stack: ExitStack) -> Reader:
    """Any input but an array as a seekable reader, closed by `stack` where it was opened here."""
    if isinstance(source, bytes | bytearray | memoryview):
        return Reader(BytesIO(source if isinstance(source, bytes) else bytes(source)), "<bytes>")
    if isinstance(source, str | os.PathLike):
        try:
            name = os.fsdecode(source)
        except Exception as error:  # of a path that is an object of the caller's
            raise AudioError(
                f"{type(source).__name__} gives no path ({reason(error)}); give a str or a Path"
            ) from error
        if not name:
            raise AudioError("the path is empty; give that of a recording")
        file = stack.enter_context(_open_path(name, options.max_wait_s))
        return Reader(file if file.seekable() else _spool(file, name, options, stack), name, owned=True)
    if not hasattr(source, "read"):
        raise AudioError(
            f"cannot read audio from {type(source).__name__}; give a path, bytes, a binary file object, "
            "or a numpy array with sample_rate="
        )
    name = source.name if isinstance(getattr(source, "name", None), str) else "<stream>"
    read_some(source, 0, name)
    try:
        seekable = bool(source.seekable()) if hasattr(source, "seekable") else False
    except Exception as error:
        raise _failed(name, error) from error
    return Reader(source, name) if seekable else Reader(_spool(source, name, options, stack), name, owned=True)


def reason(error: Exception) -> str:
    """What an error of foreign code says, in a few words."""
    return str(error)[:200] or type(error).__name__


def _failed(name: str, error: Exception) -> AudioError:
    return AudioError(f"{name}: reading failed ({reason(error)}); check the disk or the connection")


def _open_path(name: str, max_wait_s: float) -> BinaryIO:
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name}: is a folder; give the recordings in it")
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            raise AudioError(f"{name}: is a device; give a recording, or pipe it into the standard input")
        return files.open_binary(name, max_wait_s)
    except FileNotFoundError as error:
        hint = "addresses are not opened, download it first" if "://" in name else "check the spelling and the folder"
        raise AudioError(f"{name}: no such file; {hint}") from error
    except TimeoutError as error:
        raise AudioError(f"{name}: {error}, or raise max_wait_s") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _spool(file: BinaryIO, name: str, options: AudioOptions, stack: ExitStack) -> BinaryIO:
    """A seekable copy of a stream, on disk where it is large."""
    copy: Any = tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115
    stack.push(copy)
    size = 0
    while chunk := read_some(file, _CHUNK, name):
        size += len(chunk)
        if size > options.max_stream_bytes:
            raise AudioLimitError(
                f"{name}: more than {options.max_stream_bytes} bytes came from the stream; "
                "save it to a file first, or raise max_stream_bytes"
            )
        try:
            copy.write(chunk)
        except OSError as error:
            raise AudioError(f"{name}: cannot be copied to a temporary file ({reason(error)})") from error
    copy.seek(0)
    return copy  # type: ignore[no-any-return]
