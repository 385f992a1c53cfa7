"""The process that decodes for `redline.audio.isolation`, within limits of its own on memory and processor time.

Linux keeps both limits. Elsewhere the address space is not limited (macOS does not keep it).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.audio.decode import decode_blocks, too_large
from redline.audio.isolation import DONE, FAILED, HEAD, IDLE_STATUS, READY, SAMPLES, receive
from redline.audio.options import AudioOptions
from redline.audio.source import Bytes
from redline.errors import AudioError, RedlineError
from redline.types import SAMPLE_RATE

_IDLE_S = 60.0
_MEMORY_BYTES = 224 << 20
"""What decoding may take, for recordings of up to twelve hours; tables of longer ones are longer."""
_CPU_S = 2.0
_CPU_S_PER_S = 0.1  # of audio; decoding takes a hundredth of that
_CPU_S_PER_BYTE = 2e-8  # for the lists of large files that are read before they are decoded
_SOCKET_BYTES = 1 << 20
_NOTHING: NDArray[np.float32] = np.zeros(0, np.float32)


def main(number: int) -> None:
    """Decode what is asked for over the socket with this number, until it is closed or quiet for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=number) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        import av  # noqa: F401 - loaded before the limits count
        import soxr  # noqa: F401

        base_bytes = None  # address space in use
        if sys.platform == "linux":
            base_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _limit(resource.RLIMIT_CORE, 0)
        try:
            _send(link, READY)
            while True:
                link.settimeout(_IDLE_S)
                try:
                    head, descriptors, _, _ = socket.recv_fds(link, HEAD.size, 1)
                except TimeoutError:
                    sys.exit(IDLE_STATUS)
                link.settimeout(None)
                if not descriptors:
                    return
                request = json.loads(receive(link, HEAD.unpack(head)[2]).tobytes())
                try:
                    _answer(link, request, descriptors[0], base_bytes)
                finally:
                    os.close(descriptors[0])
        except (OSError, EOFError):  # the other side has gone, or has nothing to do
            return


def _answer(link: socket.socket, request: dict[str, Any], descriptor: int, base_bytes: int | None) -> None:
    """Send the samples of one file, and behind the last of them its notices or the error."""
    name, options = request["name"], AudioOptions(**request["options"])
    if base_bytes is not None:
        hours = min(max(options.max_duration_s / 3600, 12.0), 10_000.0)
        _limit(resource.RLIMIT_AS, base_bytes + int(_MEMORY_BYTES * hours / 12))
    source = Bytes(descriptor, name, [tuple(request["span"])])
    most_cpu_s = time.process_time() + _CPU_S + _CPU_S_PER_BYTE * source.size
    _limit(resource.RLIMIT_CPU, int(most_cpu_s) + 1)
    try:
        blocks = decode_blocks(source, options)
        while True:
            samples = next(blocks)
            most_cpu_s += _CPU_S_PER_S * len(samples) / SAMPLE_RATE
            _limit(resource.RLIMIT_CPU, int(most_cpu_s) + 1)
            _send(link, SAMPLES, samples, source.stated_s)
    except StopIteration as end:
        return _send(link, DONE, answer=[astuple(notice) for notice in end.value])
    except MemoryError:
        error: RedlineError = too_large(name)
    except RedlineError as raised:
        error = raised
    except OSError:
        raise
    except Exception as raised:
        where = traceback.extract_tb(raised.__traceback__)[-1]
        what = f"{type(raised).__name__}: {str(raised)[:200]}, {Path(where.filename).name} line {where.lineno}"
        remedy = "convert it with another program, and please report this"
        error = AudioError(f"{name}: decoding it failed in a way nobody thought of ({what}); {remedy}")
    _send(link, FAILED, answer=(type(error).__name__, str(error)))


def _send(link: socket.socket, kind: bytes, samples: NDArray[np.float32] = _NOTHING, answer: Any = None) -> None:
    """One message to the other process, at once where the system takes it."""
    text = json.dumps(answer).encode()
    parts: list[bytes | memoryview] = [HEAD.pack(kind, samples.nbytes, len(text)), samples.data.cast("B"), text]
    sent = link.sendmsg(parts)
    if sent < sum(map(len, parts)):
        link.sendall(b"".join(parts)[sent:])


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))
