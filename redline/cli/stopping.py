"""Ctrl-C and SIGTERM: what is being handed over is finished first, what is done is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from redline.cli.console import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """While it is entered, both signals raise `KeyboardInterrupt`, but not within `held`, where it waits."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that came."""
        self._held = False
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status of a command that was stopped."""
        return INTERRUPTED if self.signal is None else 128 + self.signal

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as behind nohup
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = number
        if not self._held or again:  # who asks twice does not want to wait
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Finish what is inside before a signal counts."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
