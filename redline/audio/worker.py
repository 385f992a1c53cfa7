"""The process that decodes for `redline.audio.isolation`, within limits of its own on memory and processor time.

Linux keeps both limits. Elsewhere the address space is not limited (macOS does not keep it).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from redline.audio.decode import decode_blocks, too_large
from redline.audio.isolation import DONE, FAILED, HEAD, READY, SAMPLES, SOCKET_BYTES
from redline.audio.options import AudioOptions
from redline.audio.source import FileBytes
from redline.errors import AudioError, RedlineError
from redline.types import SAMPLE_RATE

_IDLE_S = 60.0
_MEMORY_BYTES = 224 << 20
"""What decoding may take, for recordings of up to twelve hours; tables of longer ones are longer."""
_CPU_S = 2.0
_CPU_S_PER_S = 0.1  # of audio; decoding takes a hundredth of that
_CPU_S_PER_BYTE = 2e-8  # for the lists of large files that are read before they are decoded


def main(number: int) -> None:
    """Decode what is asked for over the socket with this number, until it is closed or quiet for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=number) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        import av  # noqa: F401 - loaded before the limits count
        import soxr  # noqa: F401

        base = _memory_bytes()
        _send(link, READY)
        try:
            while True:
                link.settimeout(_IDLE_S)
                message, descriptors, _, _ = socket.recv_fds(link, 1 << 16, 1)
                link.settimeout(None)
                if len(message) < HEAD.size or not descriptors:
                    return
                size = HEAD.size + HEAD.unpack(message[: HEAD.size])[1]
                while len(message) < size and (part := link.recv(size - len(message))):
                    message += part
                try:
                    _answer(link, json.loads(message[HEAD.size :]), descriptors[0], base)
                finally:
                    os.close(descriptors[0])
        except OSError:  # the other side has gone, or has nothing to do
            return


def _answer(link: socket.socket, request: dict[str, Any], descriptor: int, base: int | None) -> None:
    name, options = request["name"], AudioOptions(**request["options"])
    _limit_memory(base, options)
    most_cpu_s = time.process_time() + _CPU_S + _CPU_S_PER_BYTE * request["size"]
    _limit_cpu(most_cpu_s)
    blocks = decode_blocks(FileBytes(descriptor, name, request["start"], request["size"]), options)
    try:
        while True:
            samples = next(blocks)
            most_cpu_s += _CPU_S_PER_S * len(samples) / SAMPLE_RATE
            _limit_cpu(most_cpu_s)
            _send(link, SAMPLES, samples.data.cast("B"))
    except StopIteration as end:
        message = [[notice.code, notice.message, notice.start, notice.end] for notice in end.value]
        return _send(link, DONE, json.dumps(message).encode())
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
    _send(link, FAILED, json.dumps({"kind": type(error).__name__, "message": str(error)}).encode())


def _send(link: socket.socket, kind: bytes, data: bytes | memoryview = b"") -> None:
    """One message to the other process."""
    head = HEAD.pack(kind, len(data))
    sent = link.sendmsg([head, data])
    if sent < len(head) + len(data):
        link.sendall(memoryview(data)[max(sent - len(head), 0) :])


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
