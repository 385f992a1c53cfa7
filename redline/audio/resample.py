"""Format conversion: blocks of any rate and number of channels in, mono float32 at 16 kHz out, within limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redline.audio.demux import too_long
from redline.audio.downmix import WINDOW_SAMPLES, Downmix
from redline.audio.options import LOUDEST, AudioOptions
from redline.errors import AudioError, AudioLimitError, NoSuchChannelError
from redline.types import SAMPLE_RATE, Notice

if TYPE_CHECKING:
    import soxr

BLOCK = 1 << 15
"""Samples in every block that is given out but the last: 2 s."""
_BATCH = 1 << 14  # samples of one channel that are converted together
_LONG_SILENCE_S = 2.0


def to_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of any allowed type as float32 with full scale 1; those of float32 are not copied."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # becomes Inf, which is refused with a message
        floats = values.astype(np.float32)
    if values.dtype.kind == "f":
        return floats
    half = float(1 << (8 * values.dtype.itemsize - 1))
    return (floats - half if values.dtype.kind == "u" else floats) / np.float32(half)


class MonoResampler:
    """Channel choice or downmix, then resampling (soxr), in batches."""

    def __init__(self, name: str, options: AudioOptions) -> None:
        self.name = name
        self.seconds = 0.0
        """Of the input, silence included."""
        self.is_empty = True
        """Nothing came out so far."""
        self._options = options
        self._pending: list[NDArray[np.float32]] = []
        self._waiting = 0  # frames in these blocks
        self._kind = (0, 0)  # rate and channels that they came with
        self._downmix = Downmix()
        self._resampler: soxr.ResampleStream | None = None
        self._rate = 0  # of what is resampled
        self._ready: list[NDArray[np.float32]] = []
        self._ready_samples = 0

    def check(self, rate: int, channels: int) -> None:
        """Raise unless sound of this rate and number of channels is allowed."""
        limits = self._options
        if not limits.min_rate_hz <= rate <= limits.max_rate_hz:
            allowed = f"allowed are {limits.min_rate_hz} to {limits.max_rate_hz} Hz; resample it first"
            raise AudioLimitError(f"{self.name}: sample rate {rate} Hz; {allowed}, or its header is broken")
        if not 1 <= channels <= limits.max_channels:
            allowed = f"allowed are 1 to {limits.max_channels}; split it first"
            raise AudioLimitError(f"{self.name}: {channels} channels; {allowed}, or its header is broken")
        if limits.channel is not None and limits.channel >= channels:
            there = f"there are channels 0 to {channels - 1}; choose one, or none to mix them down"
            raise NoSuchChannelError(f"{self.name}: channel {limits.channel} asked for; {there}")

    def add(self, block: NDArray[np.float32], rate: int) -> None:
        """Take one block [channels, n]; it may not change afterwards."""
        if not block.size:
            return
        if (rate, len(block)) != self._kind:
            self._convert(last=True)
            self.check(rate, len(block))
            self._kind = rate, len(block)
        channel = self._options.channel
        self._pending.append(block if channel is None else block[channel, np.newaxis])
        self._waiting += block.shape[1]
        self._spend(block.shape[1] / rate)
        self._convert()

    def add_silence(self, seconds: float, rate: int) -> None:
        """Stand in for `seconds` that the recording lacks, at its sample rate."""
        if seconds <= _LONG_SILENCE_S:
            channels = self._kind[1] or (self._options.channel or 0) + 1
            return self.add(np.zeros((channels, round(seconds * rate)), np.float32), rate)
        self._end()  # all that came before is finished, so that nothing has to be computed
        self._spend(seconds)
        self._give(np.zeros(round(seconds * SAMPLE_RATE), np.float32))

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Whole blocks that are ready."""
        if self._ready_samples >= BLOCK:
            samples = np.concatenate(self._ready)
            whole = len(samples) // BLOCK * BLOCK
            self._ready, self._ready_samples = [samples[whole:]], len(samples) - whole
            yield from samples[:whole].reshape(-1, BLOCK)

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """All that is left; nothing can be added afterwards."""
        self._end()
        yield from self.blocks()
        if self._ready_samples:
            yield np.concatenate(self._ready)

    def notices(self) -> list[Notice]:
        """Where the channels cancelled each other."""
        return self._downmix.notices()

    def _spend(self, seconds: float) -> None:
        self.seconds += seconds
        if self.seconds > self._options.max_duration_s:
            raise too_long(self.name, self._options.max_duration_s)

    def _convert(self, last: bool = False) -> None:
        """Mix and resample what is pending, once there is enough; the last window of a downmix must not be short."""
        if not self._pending:
            return
        channels = len(self._pending[0])
        size = max(WINDOW_SAMPLES // channels, 1)
        if not last and self._waiting < (_BATCH if channels == 1 else 2 * size):
            return
        rate, _ = self._kind
        joined = np.empty((channels, self._waiting), np.float32)
        np.concatenate(self._pending, axis=1, out=joined)
        start_s = max(self.seconds - self._waiting / rate, 0.0)
        borders = range(size, self._waiting - size + 1, size) if channels > 1 else ()
        windows = np.split(joined, borders, axis=1)
        self._pending = [] if last or channels == 1 else [windows.pop()]
        self._waiting = sum(block.shape[1] for block in self._pending)
        for window in windows:
            self._check_loudness(window, start_s)
            end_s = start_s + window.shape[1] / rate
            self._resample(window[0] if channels == 1 else self._downmix.mix(window, start_s, end_s), rate)
            start_s = end_s

    def _check_loudness(self, window: NDArray[np.float32], start_s: float) -> None:
        peak = max(float(window.max(initial=0.0)), -float(window.min(initial=0.0)))
        if not np.isfinite(peak):
            raise AudioError(
                f"{self.name}: NaN or infinite samples near {start_s:.3f} s; repair or convert the recording"
            )
        if peak > LOUDEST:
            allowed = f"full scale is 1, allowed is {LOUDEST:g}; divide integers by their full scale (16 bits: 32768)"
            raise AudioError(f"{self.name}: a sample of {peak:g} near {start_s:.3f} s; {allowed}")

    def _resample(self, mono: NDArray[np.float32], rate: int) -> None:
        import soxr

        if rate != self._rate:
            self._flush_resampler()
            self._rate = rate
            if rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        self._give(mono if self._resampler is None else self._resampler.resample_chunk(np.ascontiguousarray(mono)))

    def _end(self) -> None:
        """Finish all that waits for more; what comes next is resampled by itself."""
        self._convert(last=True)
        self._flush_resampler()
        self._rate = 0

    def _flush_resampler(self) -> None:
        if self._resampler is not None:
            self._give(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self._resampler = None

    def _give(self, mono: NDArray[np.float32]) -> None:
        self.is_empty = self.is_empty and not len(mono)
        self._ready.append(mono)
        self._ready_samples += len(mono)
