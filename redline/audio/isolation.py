"""Process isolation: a recording may crash, fill or hang the worker process that decodes it, and costs one error.

A worker (`redline.audio.worker`) is started when it is first needed, decodes one recording after the other, and goes
when it has had nothing to do for a while or this process ends. It gets an open file and gives samples block by block;
where nobody takes them it waits.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redline import errors
from redline.audio import decode
from redline.audio.decode import Blocks
from redline.audio.options import AudioOptions
from redline.audio.source import Bytes
from redline.errors import AudioError, AudioLimitError, RedlineError
from redline.types import SAMPLE_RATE, Notice

HEAD = struct.Struct("<cII")
"""Of every message: its kind, the bytes of samples and the bytes of text that follow."""
READY, REQUEST, SAMPLES, DONE, FAILED = b"R", b"Q", b"S", b"D", b"F"
IDLE_STATUS = 75
"""Exit status of a worker that had nothing to do."""
SILENT_S = 120.0
"""The longest that a worker may give no sign of life while it is waited for."""
_MOST_BYTES = 1 << 24
_MOST_IDLE = max(4, os.cpu_count() or 1)
_JUST_S, _LONG_S = 5.0, 60.0
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from redline.audio.worker import main; main(int(sys.argv[1]))"
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}

_idle: list[_Worker] = []
_begun: dict[object, tuple[int, float]] = {}
"""Each recording that may be a short one: the thread that reads it, and when it began, by `time.monotonic`."""
_lock = threading.Lock()
_returned = threading.Condition(_lock)
_lacking: list[str] = []
"""Why there are no workers here, once a warning has been given."""


class _NoWorkerError(Exception):
    """No worker can be started here."""


class _IdleEndError(Exception):
    """The worker had ended for want of work, just when it was given some."""


def decode_isolated(source: Bytes, options: AudioOptions) -> Blocks:
    """`redline.audio.decode.decode_blocks` in a worker process; `AudioError`, too, where decoding ends that process.

    Where no process can be started (frozen programs, systems without Unix sockets) it is decoded here, with a warning.
    """
    while True:
        try:
            worker = _borrow()
        except _NoWorkerError as error:
            if not _lacking:
                _lacking.append(str(error))
                warnings.warn(f"recordings are decoded without the protection of a worker: {error}", stacklevel=4)
            return (yield from decode.decode_blocks(source, options))
        try:
            return (yield from worker.decode_blocks(source, options))
        except _IdleEndError:
            continue  # nothing of the recording was read; one of those that are left, or a new one, reads it
        finally:
            _give_back(worker)


def prepare() -> None:
    """Start a worker ahead of the first recording, while other things are loaded."""
    with suppress(_NoWorkerError):
        _give_back(_Worker())


def _borrow() -> _Worker:
    """A worker, behind recordings that other threads have just begun: most are short, and a new process takes longer,
    and memory of its own.

    A recording of which `_LONG_S` were read, or that takes `_JUST_S`, keeps nobody waiting, and a thread that reads
    several recordings by turns never waits for itself.
    """
    begun = object()
    with _returned:
        while not _has_room():
            _returned.wait(_JUST_S / 4)
        _begun[begun] = threading.get_ident(), math.inf  # while its worker starts
    try:
        while True:
            with _lock:
                worker = _idle.pop() if _idle else None
            worker = worker or _Worker()
            if worker.is_running():
                worker.wait_for_start()
                with _lock:
                    _begun[begun] = threading.get_ident(), time.monotonic()
                worker.begun = begun
                return worker
            worker.end()
    except BaseException:
        _end_turn(begun)
        raise


def _has_room() -> bool:
    me, since = threading.get_ident(), time.monotonic() - _JUST_S
    return sum(thread != me and begun_at > since for thread, begun_at in _begun.values()) < _MOST_IDLE


def _end_turn(begun: object) -> None:
    with _returned:
        if _begun.pop(begun, None) is not None:
            _returned.notify()


def _give_back(worker: _Worker) -> None:
    """Keep a worker for the next recording, or end it where it has not answered."""
    with _lock:
        if is_kept := worker.is_running() and not worker.is_busy and len(_idle) < _MOST_IDLE:
            _idle.append(worker)
    _end_turn(worker.begun)
    if not is_kept:
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
    global _lock, _returned
    _lock = threading.Lock()
    _returned = threading.Condition(_lock)
    for worker in _idle:
        worker.socket.close()
    _idle.clear()
    _begun.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def receive(link: socket.socket, count: int) -> NDArray[np.uint8]:
    """The next bytes of the other process; raises `EOFError` where it has gone."""
    data, have = np.empty(count, np.uint8), 0
    while have < count:
        size = link.recv_into(data[have:].data)
        if not size:
            raise EOFError
        have += size
    return data


class _Worker:
    """One process that decodes, and the socket to it."""

    def __init__(self) -> None:
        if getattr(sys, "frozen", False) or "py" not in Path(sys.executable or "").name.lower():
            raise _NoWorkerError(f"{sys.executable or 'this program'} is not a Python that can be started again")
        if not hasattr(socket, "send_fds"):
            raise _NoWorkerError("this system cannot hand over open files")
        try:
            self.socket, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _SINGLE_THREAD,
                    start_new_session=True,
                )
        except OSError as error:
            raise _NoWorkerError(f"no process can be started ({error})") from error
        self.socket.settimeout(SILENT_S)
        self.is_busy = self._is_ready = False
        self.begun = object()
        """Of its recording, in `_begun`."""

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for_start(self) -> None:
        with suppress(OSError, EOFError, ValueError):
            self._is_ready = self._is_ready or self._message()[0] == READY
        if not self._is_ready:
            self.end()
            raise _NoWorkerError(f"{sys.executable} could not load the decoder")

    def decode_blocks(self, source: Bytes, options: AudioOptions) -> Blocks:
        """Have one file decoded; raises `AudioError`, also where the process has ended over it, and `_IdleEndError`."""
        request = {"name": source.name, "span": source.span, "options": asdict(options)}
        text = json.dumps(request, default=lambda number: number.item()).encode()
        most_samples, long_samples = (options.max_duration_s + 1) * SAMPLE_RATE, _LONG_S * SAMPLE_RATE
        self.is_busy = True
        try:
            socket.send_fds(self.socket, [HEAD.pack(REQUEST, 0, len(text))], [source.descriptor])
            self.socket.sendall(text)
            while True:
                kind, samples, answer = self._message()
                most_samples -= len(samples)
                if most_samples < 0:
                    raise ValueError("more samples than are allowed")
                if kind == SAMPLES and (seconds := json.loads(answer)) is not None:
                    source.stated_s = float(seconds)
                if len(samples):
                    yield samples
                    if (long_samples := long_samples - len(samples)) < 0:
                        _end_turn(self.begun)
                if kind == DONE:
                    notices = tuple(Notice(*fields) for fields in json.loads(answer))
                    self.is_busy = False
                    return notices
                if kind == FAILED:
                    name, message = json.loads(answer)
                    error = _KINDS[name](message)
                    self.is_busy = False
                    raise error
        except TimeoutError:
            what = f"decoding it hangs, {SILENT_S:g} s without a sign of life"
            raise AudioLimitError(f"{source.name}: {what}; {_REMEDY}") from None
        except (OSError, EOFError, ValueError, LookupError, TypeError):
            raise self._died(source.name) from None

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.socket.close()

    def _message(self) -> tuple[bytes, NDArray[np.float32], bytes]:
        kind, samples, text = HEAD.unpack(receive(self.socket, HEAD.size).tobytes())
        if max(samples, text) > _MOST_BYTES:
            raise ValueError("an absurd message")
        return kind, receive(self.socket, samples).view(np.float32), receive(self.socket, text).tobytes()

    def _died(self, name: str) -> AudioError:
        """Why it ended, as an error about the recording."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)
        code = self.process.returncode
        if code == IDLE_STATUS:
            raise _IdleEndError
        if code == -signal.SIGXCPU:
            what = "decoding it takes far longer than a recording of its length should"
            return AudioLimitError(f"{name}: {what}; it is broken, or made to do harm: {_REMEDY}")
        if code == -signal.SIGKILL:
            what = "the system ended its decoding, most likely for lack of memory"
            return AudioLimitError(f"{name}: {what}; free some, or split the recording")
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        what = f"decoding it ended the worker process ({how})"
        return AudioError(f"{name}: {what}; it is broken, or made to do harm: {_REMEDY}")


_REMEDY = "get it again, or convert it with another program"
_KINDS: dict[str, type[RedlineError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RedlineError)
}
