"""Downmix to mono: the mean of the channels, or the loudest of them where they cancel each other (inverted phase)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from redline.types import Notice

_WINDOW_SAMPLES = 1 << 19  # of all channels: 5 s of stereo at 48 kHz, so that chance never decides
_CANCELLED = 0.2  # of the power that channels which have nothing to do with each other would mix to
_SURELY_MIXED = 0.8  # of it, in every seventh sample: no need to look at all
_STRIDE = 7
_STILL_CANCELLED = 0.5  # behind a window where they cancel: pauses, in which only noise is left of the mix


class Downmix:
    """Blocks [channels, n] in, mono blocks [n] with their rates out, the same for blocks of any size.

    The mean of channels that have nothing to do with each other has the power sum(P) / channels^2, also where all but
    one are silent. Channels whose phase is inverted fall far below that: a correlation of -c leaves 1 - c of it, and of
    a voice nothing but noise. Such a window, several seconds long, is taken from its loudest channel instead. All
    other windows are the mean to the bit.
    """

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.float32]] = []
        self._waiting = 0  # frames in these blocks
        self._rate = self._channels = 0
        self._done_s = 0.0
        self._cancelled: dict[int, int] = {}
        """Frames that were taken from one channel, by channel."""
        self._start_s = self._end_s = 0.0
        self._mixed = self._loudest = 0.0  # energy of these frames: of the mean, of the channel

    def add(self, block: NDArray[np.float32], rate: int) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Take one block; give what is decided by now."""
        if (rate, len(block)) != (self._rate, self._channels):
            yield from self.flush()
            self._rate, self._channels = rate, len(block)
        if self._channels == 1:
            self._done_s += block.shape[1] / rate
            yield block[0], rate
            return
        self._blocks.append(block)
        self._waiting += block.shape[1]
        size = max(_WINDOW_SAMPLES // self._channels, 1)
        if self._waiting < 2 * size:  # the last window must not be short
            return
        joined = np.concatenate(self._blocks, axis=1)
        while joined.shape[1] >= 2 * size:
            yield self._mix(joined[:, :size]), rate
            joined = joined[:, size:]
        self._blocks, self._waiting = [joined], joined.shape[1]

    def flush(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Give what is left; the next block may have another rate or number of channels."""
        if self._waiting:
            yield self._mix(np.concatenate(self._blocks, axis=1)), self._rate
        self._blocks, self._waiting = [], 0

    def skip(self, seconds: float) -> None:
        """Pass over silence that is not added; what was waiting has been flushed."""
        self._done_s += seconds

    def notices(self) -> list[Notice]:
        """Where the channels cancelled each other, if they did."""
        if not self._cancelled:
            return []
        quieter_db = -10 * np.log10(max(self._mixed / self._loudest, 1e-9))
        taken = max(self._cancelled, key=lambda channel: self._cancelled[channel])
        message = (
            f"the channels cancel each other (inverted phase): their mean is {quieter_db:.0f} dB quieter than the "
            f"loudest of them; that one was heard instead, mostly channel {taken}; choose one with the option channel"
        )
        return [Notice("phase_inverted", message, round(self._start_s, 3), round(self._end_s, 3))]

    def _mix(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        start_s = self._done_s
        self._done_s += window.shape[1] / self._rate
        mean: NDArray[np.float32] = window.mean(axis=0)
        if len(mean) > 100 * _STRIDE:
            mixed, powers = _powers(mean[::_STRIDE], window[:, ::_STRIDE])
            if mixed >= _SURELY_MIXED * powers.sum() / self._channels**2:
                return mean
        mixed, powers = _powers(mean, window)
        unrelated = powers.sum() / self._channels**2
        if mixed >= (_STILL_CANCELLED if self._cancelled else _CANCELLED) * unrelated:
            return mean
        loudest = int(powers.argmax())
        self._start_s = self._start_s if self._cancelled else start_s
        self._end_s = self._done_s
        self._cancelled[loudest] = self._cancelled.get(loudest, 0) + len(mean)
        self._mixed += mixed * len(mean)
        self._loudest += float(powers[loudest]) * len(mean)
        chosen: NDArray[np.float32] = window[loudest]
        return chosen


def _powers(mean: NDArray[np.float32], window: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Variances of the mean and of each channel: offsets in opposite directions are no sound that cancels."""
    return float(mean.var(dtype=np.float64)), window.var(axis=1, dtype=np.float64)
