"""Ctrl-C and SIGTERM: what is being handed over is finished first, what is done is kept."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from redline.cli.console import INTERRUPTED

SAME_S = 2.0
"""Signals within so many seconds of the first are the same wish: of a nervous hand, or of a shell that sends two."""


class Stopper:
    """While it is entered, both signals raise `KeyboardInterrupt`, but not within `held`, where it waits."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that came."""
        self._held = False
        self._asked_at = 0.0
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status of a command that was stopped."""
        return INTERRUPTED if self.signal is None else 128 + self.signal

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as behind nohup
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._asked_at = number, time.monotonic()
            if not self._held:
                raise KeyboardInterrupt
        elif time.monotonic() - self._asked_at > SAME_S:  # who asks again later does not want to wait
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Finish what is inside before a signal counts."""
        self._held = True
        try:
            yield
        finally:
            self._held = False


def let_go() -> None:
    """Nothing is left to keep: Ctrl-C ends the process at once, without tracebacks of libraries that tidy up."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
