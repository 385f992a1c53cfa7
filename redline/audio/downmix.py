"""Downmix to mono: the mean of the channels, or the loudest of them where they cancel each other (inverted phase)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from redline.types import Notice

WINDOW_SAMPLES = 1 << 19
"""Of all channels in one window: 5 s of stereo at 48 kHz, so that chance never decides."""
_CANCELLED = 0.2  # of the power that channels which have nothing to do with each other would mix to
_SURELY_MIXED = 0.8  # of it, in every seventh sample: no need to look at all
_STRIDE = 7
_STILL_CANCELLED = 0.5  # behind a window where they cancel: pauses, in which only noise is left of the mix


class Downmix:
    """Windows [channels, n] in, mono [n] out.

    The mean of channels that have nothing to do with each other has the power sum(P) / channels^2, also where all but
    one are silent. Channels whose phase is inverted fall far below that: a correlation of -c leaves 1 - c of it, and of
    a voice nothing but noise. Such a window, several seconds long, is taken from its loudest channel instead. All
    other windows are the mean to the bit.
    """

    def __init__(self) -> None:
        self._cancelled: dict[int, int] = {}
        """Frames that were taken from one channel, by channel."""
        self._start_s = self._end_s = 0.0
        self._mixed = self._loudest = 0.0  # energy of these frames: of the mean, of the channel

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

    def mix(self, window: NDArray[np.float32], start_s: float, end_s: float) -> NDArray[np.float32]:
        """One window, which lies between these times of the recording."""
        mean: NDArray[np.float32] = window.mean(axis=0)
        channels = len(window)
        if len(mean) > 100 * _STRIDE:
            mixed, powers = _powers(mean[::_STRIDE], window[:, ::_STRIDE])
            if mixed >= _SURELY_MIXED * powers.sum() / channels**2:
                return mean
        mixed, powers = _powers(mean, window)
        unrelated = powers.sum() / channels**2
        if mixed >= (_STILL_CANCELLED if self._cancelled else _CANCELLED) * unrelated:
            return mean
        loudest = int(powers.argmax())
        self._start_s = self._start_s if self._cancelled else start_s
        self._end_s = end_s
        self._cancelled[loudest] = self._cancelled.get(loudest, 0) + len(mean)
        self._mixed += mixed * len(mean)
        self._loudest += float(powers[loudest]) * len(mean)
        chosen: NDArray[np.float32] = window[loudest]
        return chosen


def _powers(mean: NDArray[np.float32], window: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Variances of the mean and of each channel: offsets in opposite directions are no sound that cancels."""
    return float(mean.var(dtype=np.float64)), window.var(axis=1, dtype=np.float64)
