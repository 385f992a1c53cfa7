"""The process that decodes for `redline.audio.isolation`, within limits of its own on memory and processor time.

Linux keeps both limits. Elsewhere the address space is not limited (macOS does not keep it), and memory is bounded by
the checks that decoding makes itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from redline.audio.collector import AudioOptions
from redline.audio.decode import decode, too_large
from redline.audio.isolation import DONE, FAILED, HEAD, READY, SAMPLES, STARTED
from redline.audio.reader import Reader
from redline.errors import AudioError, RedlineError
from redline.types import SAMPLE_RATE

_IDLE_S = 60.0
_MEMORY_BYTES = 224 << 20
"""What decoding may take, for recordings of up to twelve hours; tables of longer ones are longer."""
_CPU_S = 10.0
_CPU_S_PER_S = 0.1  # of audio; decoding takes a hundredth of that
_BLOCK = 1 << 16


class _File:
    """A file by its descriptor; its place is not that of others who hold the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def read(self, count: int) -> bytes:
        data = os.pread(self._descriptor, count, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (os.fstat(self._descriptor).st_size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position


class _Answer:
    """Samples on their way to the other process, in large blocks; each lets the processor work longer."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._blocks: list[NDArray[np.float32]] = []
        self._waiting = self._sent = 0
        self._started_s = time.process_time()
        _limit_cpu(self._started_s + _CPU_S)

    def take(self, block: NDArray[np.float32]) -> None:
        self._blocks.append(block)
        self._waiting += len(block)
        if self._waiting >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Send what is there."""
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.float32)
        self._blocks, self._waiting = [], 0
        self._sent += len(samples)
        for start in range(0, len(samples), _BLOCK):
            send(self._link, SAMPLES, samples[start : start + _BLOCK].data.cast("B"))
        _limit_cpu(self._started_s + _CPU_S + _CPU_S_PER_S * self._sent / SAMPLE_RATE)


def main(number: int) -> None:
    """Decode what is asked for over the socket with this number, until it is closed or quiet for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=number) as link:
        import av  # noqa: F401 - loaded before the limits count
        import soxr  # noqa: F401

        base = _memory_bytes()
        send(link, READY)
        try:
            while True:
                link.settimeout(_IDLE_S)
                head, descriptors, _, _ = socket.recv_fds(link, HEAD.size, 1)
                link.settimeout(None)
                if len(head) < HEAD.size or not descriptors:
                    return
                request = json.loads(_exactly(link, HEAD.unpack(head)[1]))
                send(link, STARTED)
                try:
                    _answer(link, request, descriptors[0], base)
                finally:
                    os.close(descriptors[0])
        except OSError:  # the other side has gone, or has nothing to do
            return


def _answer(link: socket.socket, request: dict[str, Any], descriptor: int, base: int | None) -> None:
    name, options = request["name"], AudioOptions(**request["options"])
    _limit_memory(base, options)
    answer = _Answer(link)
    try:
        reader = Reader(cast("BinaryIO", _File(descriptor)), name, base=request["base"]).expect(request["size"])
        notices = decode(reader, options, answer.take)
        answer.flush()
        message = [[notice.code, notice.message, notice.start, notice.end] for notice in notices]
        return send(link, DONE, json.dumps(message).encode())
    except MemoryError:
        error: RedlineError = too_large(name)
    except RedlineError as seen:
        error = seen
    except OSError:
        raise
    except Exception as seen:
        where = traceback.extract_tb(seen.__traceback__)[-1]
        error = AudioError(
            f"{name}: decoding it failed in a way nobody thought of ({type(seen).__name__}: {str(seen)[:200]}, "
            f"{Path(where.filename).name} line {where.lineno}); convert it with another program, and please report this"
        )
    send(link, FAILED, json.dumps({"kind": type(error).__name__, "message": str(error)}).encode())


def send(link: socket.socket, kind: bytes, data: bytes | memoryview = b"") -> None:
    """One message to the other process."""
    link.sendall(HEAD.pack(kind, len(data)))
    link.sendall(data)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def _memory_bytes() -> int | None:
    """Address space in use, None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(base: int | None, options: AudioOptions) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if base is not None:
        hours = min(max(options.max_duration_s / 3600, 12.0), 10_000.0)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = base + int(_MEMORY_BYTES * hours / 12)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _limit_cpu(seconds: float) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(min(seconds, 1e9)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard < 0 else min(wanted, hard), hard))
