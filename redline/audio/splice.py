"""Pieces of a file's bytes read as one run, as FFmpeg is to see them."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from redline.audio.reader import Reader

Piece = tuple[int, int] | bytes
"""From where to where in the file, or bytes that stand for some of it."""


class Spliced:
    """A seekable view of pieces of a reader's bytes, in their order."""

    def __init__(self, reader: Reader, pieces: Sequence[Piece]) -> None:
        self._reader = reader
        self._pieces = [piece for piece in pieces if _length(piece)]
        self._starts = [0, *accumulate(_length(piece) for piece in self._pieces)]
        self._position = 0

    @property
    def size(self) -> int:
        return self._starts[-1]

    def again(self) -> Spliced:
        """A second view of the same, with a place of its own."""
        return Spliced(self._reader, self._pieces)

    def read(self, count: int) -> bytes:
        parts = []
        while count > 0 and self._position < self.size:
            number = bisect_right(self._starts, self._position) - 1
            piece, inside = self._pieces[number], self._position - self._starts[number]
            some = min(count, _length(piece) - inside)
            data = (
                piece[inside : inside + some] if isinstance(piece, bytes) else self._reader.at(piece[0] + inside, some)
            )
            if not data:
                break
            parts.append(data)
            count -= len(data)
            self._position += len(data)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            return -1
        self._position = start + offset
        return self._position

    def at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on."""
        self.seek(offset)
        return self.read(count)

    def tell(self) -> int:
        return self._position


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


@dataclass(frozen=True)
class Part:
    """A run of bytes that is decoded by itself: a recording, or what is left of one behind a damage."""

    source: Reader | Spliced
    begins: bool = True
    """A recording starts here; otherwise its time line goes on."""
    ends_s: tuple[float | None, ...] = ()
    """When this recording's streams end by its own time line, of the last part of it, where that is known."""
    lost: int = 0
    """Pages that were damaged or missing in front of this part."""
    lost_behind: int = 0
