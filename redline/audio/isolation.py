"""Decoding in a process of its own: a recording may end it, fill it or hang it, and costs one error.

A worker (`redline.audio.worker`) is started when it is first needed, decodes one recording after the other, and goes
when it has had nothing to do for a while or this process ends. It gets an open file and gives samples block by block.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline import errors
from redline.audio.collector import AudioOptions
from redline.audio.decode import decode as decode_here
from redline.audio.reader import Reader
from redline.errors import AudioError, AudioLimitError, RedlineError
from redline.types import SAMPLE_RATE, Notice

HEAD = struct.Struct("<cQ")
"""Of every message: its kind and the bytes that follow."""
READY, STARTED, SAMPLES, DONE, FAILED = b"R", b"K", b"S", b"D", b"F"
SILENT_S = 120.0
"""The longest that a worker may give no sign of life."""
_MOST_IDLE = 4
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from redline.audio.worker import main; main(int(sys.argv[1]))"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}

_idle: list[_Worker] = []
_lock = threading.Lock()
_told: list[str] = []
"""Why there are no workers here, once that was told."""


class _NoWorkerError(Exception):
    """No worker can be started here."""


class _GoneError(Exception):
    """The worker ended before it started with what it was asked for."""


def decode(reader: Reader, options: AudioOptions, take: Callable[[NDArray[np.float32]], None]) -> tuple[Notice, ...]:
    """As `redline.audio.decode.decode`, to the bit; raises `AudioError` also where decoding ends its process.

    Where no process can be started (frozen programs, systems without Unix sockets) it is decoded here, with a warning.
    """
    with ExitStack() as stack:
        descriptor = reader.descriptor(stack)
        request = {"name": reader.name, "base": reader.base, "size": reader.size, "options": asdict(options)}
        try:
            return _decode_there(request, descriptor, options.max_duration_s, take)
        except _NoWorkerError as error:
            if not _told:
                _told.append(str(error))
                warnings.warn(f"recordings are decoded without the protection of a worker: {error}", stacklevel=4)
            return decode_here(reader, options, take)


def _decode_there(
    request: dict[str, Any], descriptor: int, most_s: float, take: Callable[[NDArray[np.float32]], None]
) -> tuple[Notice, ...]:
    while True:
        worker, is_new = _borrow()
        try:
            notices = worker.decode(request, descriptor, most_s, take)
        except _GoneError:
            if is_new:
                raise AudioError(f"{request['name']}: cannot be decoded; the worker process ends at once") from None
        except RedlineError as error:
            _give_back(worker)
            raise error from None
        except BaseException:
            worker.end()
            raise
        else:
            _give_back(worker)
            return notices


def prepare() -> None:
    """Start a worker ahead of the first recording, while other things are loaded."""
    with suppress(_NoWorkerError):
        _give_back(_Worker())


def _borrow() -> tuple[_Worker, bool]:
    """A worker for one recording, and whether it is new."""
    with _lock:
        if _idle:
            return _idle.pop(), False
    return _Worker(), True


def _give_back(worker: _Worker) -> None:
    with _lock:
        if worker.is_alive and len(_idle) < _MOST_IDLE:
            return _idle.append(worker)
    worker.end()


@atexit.register
def end_idle() -> None:
    """End all workers that have nothing to do; the next recording starts one."""
    with _lock:
        workers = _idle[:]
        _idle.clear()
    for worker in workers:
        worker.end()


def _forget() -> None:
    """In a forked child: the workers are the parent's."""
    global _lock
    _lock = threading.Lock()
    for worker in _idle:
        worker.forget()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _Worker:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        if getattr(sys, "frozen", False) or "py" not in Path(sys.executable or "").name.lower():
            raise _NoWorkerError(f"{sys.executable or 'this program'} is not a Python that can be started again")
        if not hasattr(socket, "send_fds"):
            raise _NoWorkerError("this system cannot hand over open files")
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                number = theirs.fileno()
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _BOOT, str(number), *sys.path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[number],
                    env=os.environ | _ONE_THREAD,
                    start_new_session=True,
                )
        except OSError as error:
            raise _NoWorkerError(f"no process can be started ({error})") from error
        self._socket.settimeout(SILENT_S)
        self._messages = self._socket.makefile("rb")
        self.is_alive = True
        self._is_ready = False

    def decode(
        self,
        request: dict[str, Any],
        descriptor: int,
        most_s: float,
        take: Callable[[NDArray[np.float32]], None],
    ) -> tuple[Notice, ...]:
        """Have one file decoded; raises `AudioError`, and `_GoneError` where the worker had ended before."""
        self._wait_for_start()
        name = request["name"]
        text = json.dumps(request, default=lambda number: number.item()).encode()
        try:
            socket.send_fds(self._socket, [HEAD.pack(STARTED, len(text))], [descriptor])
            self._socket.sendall(text)
            if self._receive()[0] != STARTED:
                raise EOFError
        except (OSError, EOFError) as error:
            self.end()
            raise _GoneError from error
        left = (most_s + 1) * SAMPLE_RATE
        try:
            while True:
                kind, data = self._receive()
                if kind == SAMPLES:
                    block = np.frombuffer(data, np.float32)
                    left -= len(block)
                    if left < 0:
                        raise ValueError("more samples than are allowed")
                    take(block)
                elif kind == DONE:
                    return tuple(Notice(*fields) for fields in json.loads(data))
                else:
                    fields = json.loads(data)
                    raise _KINDS[fields["kind"]](fields["message"])
        except TimeoutError:
            self.end()
            raise AudioLimitError(
                f"{name}: decoding it hangs, {SILENT_S:g} s without a sign of life; get the recording again, "
                "or convert it with another program"
            ) from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            raise self._died(name) from None

    def _wait_for_start(self) -> None:
        if self._is_ready:
            return
        try:
            self._is_ready = self._receive()[0] == READY
        except (OSError, EOFError):
            self._is_ready = False
        if not self._is_ready:
            self.end()
            raise _NoWorkerError(f"{sys.executable} could not load the decoder")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.is_alive = False
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this side of the socket."""
        with suppress(OSError):
            self._messages.close()
            self._socket.close()

    def _receive(self) -> tuple[bytes, bytes]:
        """The next message; raises `EOFError` where there is none."""
        head = self._messages.read(HEAD.size)
        if len(head) < HEAD.size:
            raise EOFError
        kind, size = HEAD.unpack(head)
        if size > 1 << 24:
            raise ValueError("an absurd message")
        data = self._messages.read(size)
        if len(data) < size:
            raise EOFError
        return kind, data

    def _died(self, name: str) -> AudioError:
        """Why it ended, as an error about the recording."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        code = self._process.returncode
        self.end()
        if code == -getattr(signal, "SIGXCPU", 0):
            return AudioLimitError(
                f"{name}: decoding it takes far longer than a recording of its length should; it is broken, or made "
                "to do harm: get it again, or convert it with another program"
            )
        if code == -getattr(signal, "SIGKILL", 0):
            return AudioLimitError(
                f"{name}: the system ended its decoding, most likely for lack of memory; free some, or split the "
                "recording"
            )
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        return AudioError(
            f"{name}: decoding it ended the worker process ({how}); it is broken, or made to do harm: "
            "get it again, or convert it with another program"
        )


_KINDS: dict[str, type[RedlineError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RedlineError)
}
