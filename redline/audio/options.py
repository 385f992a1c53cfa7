"""Options of decoding: the channel, the track, and the limits of what is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline.audio.parts import checked_parts
from redline.errors import ConfigError
from redline.files import FIFO_WAIT_S

LOUDEST = 1000.0
"""Full scale is 1; a decoded sample beyond this (60 dB above full scale) is garbage or an unscaled integer."""


@dataclass(frozen=True)
class AudioOptions:
    """Channel, track and limits of what is decoded; the defaults suit every real recording."""

    channel: int | None = None
    """The channel to keep, counted from 0; None is the mean of all, or the loudest where they cancel each other."""
    track: int | None = None
    """The audio track of a file with several, counted from 0; None is the one marked as the main one."""
    parts: tuple[tuple[float, float], ...] = ()
    """Starts and ends in seconds of what is heard, math.inf for the end of the recording; none: all of it."""
    max_duration_s: float = 12 * 3600.0
    min_rate_hz: int = 4_000
    max_rate_hz: int = 384_000
    max_channels: int = 32
    max_stream_bytes: int = 4 << 30
    """Bytes taken from a stream, which is first copied to a temporary file."""
    max_wait_s: float = FIFO_WAIT_S
    """Seconds that a named pipe is waited for to which nobody writes; math.inf waits on."""
    isolated: bool = True
    """Decode in a worker process with limits on memory and processor time, so that a hostile recording harms only
    itself. False decodes in this process, without limits: where every recording comes from a trusted place."""

    def __post_init__(self) -> None:
        for name in ("channel", "track", "min_rate_hz", "max_rate_hz", "max_channels", "max_stream_bytes"):
            least, none = (0, ", or None") if name in ("channel", "track") else (1, "")
            value = getattr(self, name)
            if not (none and value is None) and not (is_whole(value) and least <= value < 2**63):
                raise ConfigError(f"{name} is {safe_repr(value)}; allowed are whole numbers from {least} on{none}")
        object.__setattr__(self, "parts", checked_parts(self.parts))
        for name in ("max_duration_s", "max_wait_s"):
            seconds: Any = getattr(self, name)
            is_number = isinstance(seconds, float | np.floating) or is_whole(seconds)
            if not is_number or (not 0 < seconds < 2**63 and seconds != math.inf):
                raise ConfigError(f"{name} is {safe_repr(seconds)}; allowed are seconds above 0, math.inf for no limit")
        if self.min_rate_hz > self.max_rate_hz:
            raise ConfigError(f"sample rates from {self.min_rate_hz} to {self.max_rate_hz} Hz allow nothing")
        if not isinstance(self.isolated, bool):
            raise ConfigError(f"isolated is {safe_repr(self.isolated)}; allowed are True and False")


def safe_repr(value: Any) -> str:
    """A value of the caller's, as an error shows it."""
    try:
        return repr(value)[:80]
    except Exception:  # whatever an object of the caller's can raise
        return f"a {type(value).__name__}"


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python's or of numpy's."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
