"""Every source of bytes as random access to a file: paths, bytes, binary streams, pipes."""

from __future__ import annotations

import os
import stat
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader, FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from redline import files
from redline.audio.options import AudioOptions
from redline.errors import AudioError, AudioLimitError

_CHUNK = 1 << 16


class Bytes:
    """A seekable run of bytes without a name that FFmpeg could judge by."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._position = 0

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on, fewer only at the end."""
        raise NotImplementedError

    def read(self, count: int) -> bytes:
        data = self.at(self._position, count)
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


class FileBytes(Bytes):
    """The bytes of an open file from `start` on, read by its descriptor: its place is not moved."""

    def __init__(self, descriptor: int, name: str, start: int = 0, size: int | None = None) -> None:
        super().__init__(max(os.fstat(descriptor).st_size - start, 0) if size is None else size)
        self.descriptor, self.name, self.start = descriptor, name, start

    def at(self, offset: int, count: int) -> bytes:
        data, end = b"", min(offset + count, self.size)
        while len(data) < end - offset:
            place = self.start + offset + len(data)
            try:
                part = os.pread(self.descriptor, end - offset - len(data), place)
            except OSError as error:
                raise _failed(self.name, error) from error
            if not part:
                break
            data = data + part if data else part
        return data

    def part(self, start: int, end: int | None = None) -> FileBytes:
        """A view of the bytes from `start` to `end`."""
        start, end = min(start, self.size), self.size if end is None else min(end, self.size)
        return FileBytes(self.descriptor, self.name, self.start + start, max(end - start, 0))

    @property
    def has_shrunk(self) -> bool:
        """Whether bytes that were there when it was opened are gone."""
        return os.fstat(self.descriptor).st_size < self.start + self.size


class JoinedBytes(Bytes):
    """Ranges of a file's bytes, and bytes that stand for some of it, read as one run."""

    def __init__(self, source: FileBytes, pieces: Sequence[tuple[int, int] | bytes]) -> None:
        self._source = source
        self._pieces = pieces
        sizes = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        self._starts = [0, *accumulate(sizes)]
        super().__init__(self._starts[-1])

    def at(self, offset: int, count: int) -> bytes:
        parts, end = [], min(offset + count, self.size)
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            piece, inside = self._pieces[number], offset - self._starts[number]
            some = min(end, self._starts[number + 1]) - offset
            data = (
                self._source.at(piece[0] + inside, some) if isinstance(piece, tuple) else piece[inside : inside + some]
            )
            if not data:
                break
            parts.append(data)
            offset += len(data)
        return b"".join(parts)


def open_source(source: str | Path | bytes | BinaryIO, options: AudioOptions, stack: ExitStack) -> FileBytes:
    """Any input but an array, closed by `stack` where it was opened here; a stream is copied from where it stands."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _copied([bytes(source)], "<bytes>", stack)
    if isinstance(source, str | os.PathLike):
        try:
            name = os.fsdecode(source)
        except Exception as error:  # of a path that is an object of the caller's
            raise AudioError(
                f"{type(source).__name__} gives no path ({_reason(error)}); give a str or a Path"
            ) from error
        if not name:
            raise AudioError("the path is empty; give that of a recording")
        file = stack.enter_context(_open_path(name, options.max_wait_s))
        if file.seekable():
            return FileBytes(file.fileno(), name)
        return _copied(_chunks(file, name, options.max_stream_bytes), name, stack)
    if not hasattr(source, "read"):
        raise AudioError(
            f"cannot read audio from {type(source).__name__}; give a path, bytes, a binary file object, "
            "or a numpy array with sample_rate="
        )
    name = source.name if isinstance(getattr(source, "name", None), str) else "<stream>"
    if type(source) is BufferedReader and type(source.raw) is FileIO and source.seekable():
        return FileBytes(source.fileno(), name, source.tell())
    return _copied(_chunks(source, name, options.max_stream_bytes), name, stack)


def _copied(chunks: Iterable[bytes], name: str, stack: ExitStack) -> FileBytes:
    """A temporary file of these bytes."""
    try:
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
        copy.writelines(chunks)
        copy.flush()
    except OSError as error:
        raise AudioError(f"{name}: cannot be copied to a temporary file ({_reason(error)})") from error
    return FileBytes(copy.fileno(), name)


def _chunks(stream: Any, name: str, most_bytes: int) -> Iterator[bytes]:
    """All that is left of a stream."""
    size = 0
    while chunk := _read_some(stream, name):
        size += len(chunk)
        if size > most_bytes:
            raise AudioLimitError(
                f"{name}: more than {most_bytes} bytes came from the stream; "
                "save it to a file first, or raise max_stream_bytes"
            )
        yield chunk


def _read_some(stream: Any, name: str) -> bytes:
    """One read of a stream, checked: some bytes, or none at its end."""
    try:
        data = stream.read(_CHUNK)
    except Exception as error:  # whatever a stream of the caller's can raise
        raise _failed(name, error) from error
    if isinstance(data, str):
        raise AudioError(f"{name}: opened as text; open it in binary mode ('rb')")
    if data is None:
        raise AudioError(f"{name}: read gave None, as a non-blocking stream without data does; make it blocking")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise AudioError(f"{name}: read gave {type(data).__name__}; a binary stream gives bytes")
    if len(data) > _CHUNK:
        raise AudioError(
            f"{name}: read gave {len(data)} bytes where {_CHUNK} were asked for; give a well-behaved stream"
        )
    return bytes(data)


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


def _reason(error: Exception) -> str:
    """What an error of foreign code says, in a few words."""
    return str(error)[:200] or type(error).__name__


def _failed(name: str, error: Exception) -> AudioError:
    return AudioError(f"{name}: reading failed ({_reason(error)}); check the disk or the connection")
