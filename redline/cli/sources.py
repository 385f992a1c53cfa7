"""Where the sound of `redline live` comes from: standard input, a named pipe, a file, or a microphone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from redline.cli.recording_options import STDIN
from redline.errors import RedlineError, packages_of

_PIECE = 1 << 16  # bytes that are read at once, or fewer where no more are there
_PIECES_AHEAD = 64  # of a pipe or a file; who writes then waits
_MICROPHONE_STEPS = 20  # a second


class ByteQueue:
    """Bytes that a thread brings: `take` gives all that have come, and waits where none have."""

    def __init__(self, most_pieces: int) -> None:
        self._pieces: Queue[bytes | BaseException | None] = Queue(most_pieces)

    def put(self, piece: bytes | BaseException | None) -> None:
        """One piece, or None at the end, or the error that ended it."""
        self._pieces.put(piece)

    def take(self) -> bytes | None:
        """All bytes that are there, None at the end; raises the error that ended them."""
        parts, piece = list[bytes](), self._pieces.get()
        while isinstance(piece, bytes):
            parts.append(piece)
            try:
                piece = self._pieces.get_nowait()
            except Empty:
                return b"".join(parts)
        if parts:
            self._pieces.queue.appendleft(piece)  # its turn comes next time
            return b"".join(parts)
        if piece is not None:
            raise piece
        return None


@contextmanager
def reading(source: str) -> Iterator[ByteQueue]:
    """The bytes of standard input (`-`), a named pipe or a file, read by a thread so that Ctrl-C waits for none."""
    if source == STDIN and sys.stdin.isatty():
        raise RedlineError("-: standard input is a terminal; pipe raw PCM into it, or leave it out for the microphone")
    queue = ByteQueue(_PIECES_AHEAD)

    def read() -> None:
        try:
            with _opened(source) as take:
                while piece := take(_PIECE):
                    queue.put(piece)
            queue.put(None)
        except (OSError, ValueError) as error:
            queue.put(error)

    Thread(target=read, name="redline-read", daemon=True).start()
    yield queue


@contextmanager
def _opened(source: str) -> Iterator[Callable[[int], bytes]]:
    """A function that reads up to so many bytes as soon as some are there."""
    if source != STDIN:
        with Path(source).open("rb", buffering=0) as file:  # a pipe opens when somebody writes to it
            yield lambda size: file.read(size) or b""
        return
    stream: Any = sys.stdin.buffer
    try:
        handle = stream.fileno()
    except (io.UnsupportedOperation, AttributeError):  # no file of the system's stands behind it
        yield stream.read1
    else:  # no buffer of Python's, whose lock a thread that waits for ever would hold at the end
        yield lambda size: os.read(handle, size)


@contextmanager
def microphone(device: str | None, rate: int, channels: int) -> Iterator[ByteQueue]:
    """The bytes of a microphone by its number or a part of its name; None is the system's own choice.

    Raises `RedlineError` where there is none.
    """
    with packages_of("live", "the microphone"):
        import sounddevice
    queue = ByteQueue(0)
    chosen = int(device) if device is not None and device.isdecimal() else device

    def receive(data: bytes, frames: int, time: object, status: object) -> None:
        queue.put(bytes(data))

    try:
        stream: AbstractContextManager[object] = sounddevice.RawInputStream(
            samplerate=rate, channels=channels, dtype="int16", device=chosen, blocksize=rate // _MICROPHONE_STEPS,
            callback=receive,
        )  # fmt: skip
        with stream:
            yield queue
    except (sounddevice.PortAudioError, ValueError) as error:
        devices = enumerate(sounddevice.query_devices())
        names = [f"{at} {each['name']}" for at, each in devices if each["max_input_channels"]]
        there = f"there are {', '.join(names)}" if names else "there is none here"
        message = f"the microphone cannot be opened: {' '.join(str(error).split())}; {there}; choose with --device-in"
        raise RedlineError(message) from error
