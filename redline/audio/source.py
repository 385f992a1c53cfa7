"""Every source of bytes as random access to an open file: paths, bytes, binary streams, pipes."""

from __future__ import annotations

import os
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

Piece = tuple[int, int] | bytes
"""From where to where in a file, or bytes that stand for some of it."""
_CHUNK = 1 << 16


class Bytes:
    """Pieces of an open file as one seekable run, without a name that FFmpeg could judge by.

    Read by the file's descriptor, so that its own place is not moved.
    """

    def __init__(self, descriptor: int, name: str, pieces: Sequence[Piece]) -> None:
        self.descriptor, self.name, self.pieces = descriptor, name, pieces
        sizes = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        self._starts = [0, *accumulate(sizes)]
        self.size = self._starts[-1]
        self._position = 0
        self.stated_s: float | None = None
        """About how long the recording in it is, where its container tells, once its decoding has begun."""

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on, fewer only at the end."""
        parts, end = [], min(offset + count, self.size)
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            piece, inside = self.pieces[number], offset - self._starts[number]
            some = min(end, self._starts[number + 1]) - offset
            if isinstance(piece, bytes):
                data = piece[inside : inside + some]
            else:
                try:
                    data = os.pread(self.descriptor, some, piece[0] + inside)
                except OSError as error:
                    raise _failed(self.name, error) from error
            if not data:
                break
            parts.append(data)
            offset += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self, count: int) -> bytes:
        data = self.at(self._position, count)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = place if place >= 0 else self._position
        return max(place, -1)

    def tell(self) -> int:
        return self._position

    def part(self, start: int, end: int | None = None) -> Bytes:
        """A view of the bytes from `start` to `end`, of a file in one piece."""
        return self.join([(min(start, self.size), self.size if end is None else min(end, self.size))])

    def join(self, pieces: Sequence[Piece]) -> Bytes:
        """A view of pieces of these bytes, of a file in one piece."""
        first = self.span[0]
        moved = [piece if isinstance(piece, bytes) else (first + piece[0], first + piece[1]) for piece in pieces]
        return Bytes(self.descriptor, self.name, moved)

    @property
    def span(self) -> tuple[int, int]:
        """From where to where a file in one piece reaches."""
        (piece,) = self.pieces
        assert isinstance(piece, tuple)
        return piece

    @property
    def has_shrunk(self) -> bool:
        """Whether bytes that were there when it was opened are gone."""
        return os.fstat(self.descriptor).st_size < self.span[1]


def open_source(source: str | Path | bytes | BinaryIO, options: AudioOptions, stack: ExitStack) -> Bytes:
    """Any input but an array, closed by `stack` where it was opened here; a stream is copied from where it stands."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _copied([bytes(source)], "<bytes>", stack)
    if isinstance(source, str | os.PathLike):
        try:
            name = os.fsdecode(source)
        except Exception as error:  # of a path that is an object of the caller's
            raise AudioError(f"{type(source).__name__} gives no path ({_reason(error)}); give a str") from error
        if not name:
            raise AudioError("the path is empty; give that of a recording")
        file: Any = stack.enter_context(_open_path(name, options.max_wait_s))
        is_plain = file.seekable()
    elif hasattr(source, "read"):
        file, name = source, source.name if isinstance(getattr(source, "name", None), str) else "<stream>"
        is_plain = type(file) is BufferedReader and type(file.raw) is FileIO and not file.closed and file.seekable()
    else:
        kinds = "a path, bytes, a binary file object, or a numpy array with sample_rate="
        raise AudioError(f"cannot read audio from {type(source).__name__}; give {kinds}")
    if not is_plain:
        return _copied(_chunks(file, name, options.max_stream_bytes), name, stack)
    start = file.tell()
    return Bytes(file.fileno(), name, [(start, max(os.fstat(file.fileno()).st_size, start))])


def _copied(chunks: Iterable[bytes], name: str, stack: ExitStack) -> Bytes:
    try:
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
        copy.writelines(chunks)
        copy.flush()
    except OSError as error:
        raise AudioError(f"{name}: cannot be copied to a temporary file ({_reason(error)})") from error
    return Bytes(copy.fileno(), name, [(0, copy.tell())])


def _chunks(stream: Any, name: str, most_bytes: int) -> Iterator[bytes]:
    """All that is left of a caller's stream, each read checked."""
    size = 0
    while True:
        try:
            data = stream.read(_CHUNK)
        except Exception as error:  # whatever a stream of the caller's can raise
            raise _failed(name, error) from error
        if isinstance(data, str):
            raise AudioError(f"{name}: opened as text; open it in binary mode ('rb')")
        if data is None:
            raise AudioError(f"{name}: read gave None, as a non-blocking stream without data does; make it blocking")
        if not isinstance(data, bytes | bytearray | memoryview) or len(data) > _CHUNK:
            raise AudioError(f"{name}: read gave {type(data).__name__}, not at most {_CHUNK} bytes as a stream does")
        if not data:
            return
        size += len(data)
        if size > most_bytes:
            remedy = "save it to a file first, or raise max_stream_bytes"
            raise AudioLimitError(f"{name}: more than {most_bytes} bytes came from the stream; {remedy}")
        yield bytes(data)


def _open_path(name: str, max_wait_s: float) -> BinaryIO:
    try:
        return files.open_binary(name, max_wait_s)
    except IsADirectoryError as error:
        raise AudioError(f"{name}: is a folder; give the recordings in it") from error
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
