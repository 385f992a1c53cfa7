"""Blocks of any rate and number of channels in, mono samples at 16 kHz out, within limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redline.audio.mixdown import Mixdown
from redline.errors import AudioError, AudioLimitError, ConfigError
from redline.files import FIFO_WAIT_S
from redline.types import SAMPLE_RATE, Notice

if TYPE_CHECKING:
    import soxr

LOUDEST = 1000.0
"""Full scale is 1; a decoded sample beyond this (60 dB above full scale) is garbage or an unscaled integer."""

_BLOCK = 1 << 16
_LONG_SILENCE_S = 2.0


@dataclass(frozen=True)
class AudioOptions:
    """Which channel to hear and the limits of what is decoded; the defaults suit every real recording."""

    channel: int | None = None
    """The channel to keep, counted from 0; None is the mean of all, or the loudest where they cancel each other."""
    track: int | None = None
    """The audio track to hear in a file with several, counted from 0; None is the one marked as the main one."""
    max_duration_s: float = 12 * 3600.0
    min_rate_hz: int = 4_000
    max_rate_hz: int = 384_000
    max_channels: int = 32
    max_stream_bytes: int = 4 << 30
    """Bytes taken from a stream that cannot seek, which is first copied to a temporary file."""
    max_wait_s: float = FIFO_WAIT_S
    """Seconds that a named pipe is waited for to which nobody writes; math.inf waits on."""
    isolated: bool = True
    """Decode in a process of its own, which a hostile recording may end, fill or hang without harm to this one. False
    saves its start, a fraction of a second; say so where every recording comes from a trusted place."""

    def __post_init__(self) -> None:
        for name, least in (
            ("channel", 0),
            ("track", 0),
            ("min_rate_hz", 1),
            ("max_rate_hz", 1),
            ("max_channels", 1),
            ("max_stream_bytes", 1),
        ):
            value = getattr(self, name)
            if name in ("channel", "track") and value is None:
                continue
            if not _is_whole(value) or not least <= value < 2**63:
                none = {"channel": ", or None to mix them down", "track": ", or None for the main one"}.get(name, "")
                raise ConfigError(f"{name} is {seen(value)}; allowed are whole numbers from {least} on{none}")
        for name in ("max_duration_s", "max_wait_s"):
            seconds: Any = getattr(self, name)
            is_number = isinstance(seconds, float | np.floating) or _is_whole(seconds)
            if not is_number or (not 0 < seconds < 2**63 and seconds != math.inf):
                raise ConfigError(f"{name} is {seen(seconds)}; allowed are seconds above 0, math.inf for no limit")
        if self.min_rate_hz > self.max_rate_hz:
            raise ConfigError(f"sample rates from {self.min_rate_hz} to {self.max_rate_hz} Hz allow nothing")
        if not isinstance(self.isolated, bool):
            raise ConfigError(f"isolated is {seen(self.isolated)}; allowed are True and False")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def seen(value: Any) -> str:
    """A value of the caller's, as an error shows it."""
    try:
        return repr(value)[:80]
    except Exception:  # whatever an object of the caller's can raise
        return f"a {type(value).__name__}"


def check_rate(rate: Any, name: str) -> int:
    """The sample rate that a caller gave, as a number; raises `AudioError`."""
    if not _is_whole(rate) or abs(rate) >= 2**63:
        raise AudioError(
            f"{name}: sample_rate is {seen(rate)}; allowed is a whole number of samples a second, for example 16000"
        )
    return int(rate)


def to_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of any allowed type as float32 with full scale 1."""
    with np.errstate(over="ignore", invalid="ignore"):  # becomes Inf, which is refused with a message
        floats = values.astype(np.float32)
    if values.dtype.kind == "f":
        return floats
    half = float(1 << (8 * values.dtype.itemsize - 1))
    return (floats - half if values.dtype.kind == "u" else floats) / np.float32(half)


class Samples:
    """Mono samples in memory."""

    def __init__(self) -> None:
        # Grown by realloc, which moves no memory on Linux: blocks joined at the end would double the peak.
        self._bytes = bytearray()

    def take(self, block: NDArray[np.float32]) -> None:
        """Add some [n]."""
        self._bytes += block.data

    def array(self) -> NDArray[np.float32]:
        """All of them [N]; nothing can be added while it lives."""
        return np.frombuffer(self._bytes, dtype=np.float32)


class Collector:
    """Mono samples at 16 kHz, made block by block within the limits."""

    def __init__(self, name: str, options: AudioOptions, take: Callable[[NDArray[np.float32]], None]) -> None:
        """`take` gets the samples [n] as they are ready."""
        self.seconds = 0.0
        self.taken = 0
        """Samples that were handed on."""
        self._take = take
        self.name = name
        self._options = options
        self._rate = 0
        self._resampler: soxr.ResampleStream | None = None
        self._mixdown = Mixdown()
        self._channels = 1

    def check(self, rate: int, channels: int) -> None:
        """Raise unless sound of this rate and number of channels is allowed."""
        limits = self._options
        if not limits.min_rate_hz <= rate <= limits.max_rate_hz:
            raise AudioLimitError(
                f"{self.name}: sample rate {rate} Hz; allowed are {limits.min_rate_hz} to {limits.max_rate_hz} Hz; "
                "the header is broken, or the recording must be resampled first"
            )
        if not 1 <= channels <= limits.max_channels:
            raise AudioLimitError(
                f"{self.name}: {channels} channels; allowed are 1 to {limits.max_channels}; "
                "the header is broken, or the recording must be split first"
            )
        if limits.channel is not None and limits.channel >= channels:
            raise AudioError(
                f"{self.name}: channel {limits.channel} asked for; there are channels 0 to {channels - 1}; "
                "choose one of them, or none to mix them down"
            )

    def add(self, block: NDArray[np.float32], rate: int) -> None:
        """Take one block [n, channels]."""
        n, channels = block.shape
        self.check(rate, channels)
        self._spend(n / rate)
        self._channels = channels
        if self._options.channel is not None:
            block = block[:, self._options.channel, np.newaxis]
        peak = max(float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
        if not peak <= LOUDEST:
            at = f"near {self.seconds - n / rate:.3f} s"
            if not np.isfinite(peak):
                raise AudioError(f"{self.name}: NaN or infinite samples {at}; repair or convert the recording")
            raise AudioError(
                f"{self.name}: a sample of {peak:g} {at}; full scale is 1 and at most {LOUDEST:g} is allowed; "
                "divide integer samples by their full scale (32768 for 16 bits)"
            )
        self._mix(block, rate)

    def add_silence(self, seconds: float, rate: int) -> None:
        """Stand in for `seconds` that the recording lacks, at its sample rate."""
        self._spend(seconds)
        if seconds > _LONG_SILENCE_S:  # all that came before is finished, so that nothing has to be computed
            self._finish_block()
            self._mixdown.skip(seconds)
            left = round(seconds * SAMPLE_RATE)
            for start in range(0, left, _BLOCK):
                self._hand_on(np.zeros(min(_BLOCK, left - start), dtype=np.float32))
            return
        left = round(seconds * rate)
        while left > 0:
            channels = self._channels if self._options.channel is None else 1
            self._mix(np.zeros((min(left, _BLOCK), channels), dtype=np.float32), rate)
            left -= _BLOCK

    def finish(self) -> None:
        """Hand on what is left; nothing can be added afterwards."""
        self._finish_block()

    def _finish_block(self) -> None:
        for mono, rate in self._mixdown.flush():
            self._keep(mono, rate)
        self._flush()
        self._rate = 0

    def notices(self) -> list[Notice]:
        """What the channels gave cause to tell."""
        return self._mixdown.notices()

    def _mix(self, block: NDArray[np.float32], rate: int) -> None:
        for mono, its_rate in self._mixdown.add(block, rate):
            self._keep(mono, its_rate)

    def _spend(self, seconds: float) -> None:
        self.seconds += seconds
        if self.seconds > self._options.max_duration_s:
            raise AudioLimitError(
                f"{self.name}: longer than the {self._options.max_duration_s:g} s that are allowed; "
                "split it, or raise max_duration_s"
            )

    def _keep(self, mono: NDArray[np.float32], rate: int) -> None:
        import soxr

        if rate != self._rate:
            self._flush()
            self._rate = rate
            if rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        self._hand_on(mono)

    def _flush(self) -> None:
        if self._resampler is not None:
            tail = self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
            self._hand_on(tail)
            self._resampler = None

    def _hand_on(self, mono: NDArray[np.float32]) -> None:
        self.taken += len(mono)
        self._take(np.ascontiguousarray(mono))
