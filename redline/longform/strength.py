"""Where speech is weakest: places that belong to the sound, to the sample, whatever the phase of the detector's frames.

A recording with a little more silence in front is judged in other frames. Cuts that followed these would move by some
milliseconds, and each clip behind them would have other features, and now and then another word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redline.longform.vad import VAD_FRAME, VadOptions
from redline.types import SAMPLE_RATE

_STEP = 32  # samples, 2 ms, in which a pause is looked for
_PAUSE = round(0.6 * SAMPLE_RATE)
"""Weakness is that of so much around a place: of two pauses the longer one is cut. On LibriSpeech dev 0.2 s leave two
pauses as weak as each other so often that frames of another phase make every second window another one."""
_VALLEY = round(0.2 * SAMPLE_RATE)  # within the pause, the level is that of so much
_NEAR = round(0.1 * SAMPLE_RATE)  # a valley is the least level so far around
REACH = round(0.2 * SAMPLE_RATE)
"""Samples that a border may move to the valley beside it."""
MARGIN_SAMPLES = REACH + (_VALLEY + VAD_FRAME) // 2
"""Samples on both sides of a border that decide about it."""
_SPEECH = VadOptions().onset  # what is less probable is no speech, and only its level counts
_LEVEL_DB = 60.0  # as much as the difference between speech and none; what is so far below the loudest is silence
_EQUAL = 1e-6


@dataclass(frozen=True)
class Strength:
    """How much speech there is: its probability in frames of 32 ms, the first of which begins at sample `start`."""

    probabilities: NDArray[np.float32]  # [W]
    samples: NDArray[np.float32]  # [N], of the same frames
    start: int = 0

    def weakest(self, earliest: float, latest: float) -> int:
        """The sample between two in the middle of the valley of the longest and deepest pause."""
        first, last = math.ceil(earliest), math.floor(latest)
        around = _PAUSE // 2 // _STEP
        places = np.arange(first - around * _STEP, last + around * _STEP + 1, _STEP)
        levels = self._levels(places)
        frames = (places - self.start) / VAD_FRAME - 0.5
        probable = np.interp(frames, np.arange(len(self.probabilities)), self.probabilities)
        strength = levels / _LEVEL_DB + np.maximum(probable, _SPEECH)
        return self.valley(first + _STEP * _middle_of_least(_mean(strength, 2 * around + 1)), first, last)

    def valley(self, place: int, earliest: int, latest: int) -> int:
        """The sample between two at the bottom of the valley in which a place is, at most 0.2 s from it."""
        first, last = max(earliest, place - REACH), min(latest, place + REACH)
        half = _VALLEY // 2
        levels = _mean(self._levels(np.arange(first - half, last + half + 1)), 2 * half + 1)
        at = place - first
        while (around := levels[max(0, at - _NEAR) : at + _NEAR + 1]).min() < levels[at] - _EQUAL:
            at = max(0, at - _NEAR) + _middle_of_least(around)
        return first + at

    def _levels(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """The level in dB of 32 ms around each place, of the nearest one where there are no samples, and no level more
        than `_LEVEL_DB` below the loudest."""
        places = np.clip(places, self.start, self.start + len(self.samples))
        low, high = int(places[0]) - VAD_FRAME // 2, int(places[-1]) + VAD_FRAME // 2
        known = self.samples[max(0, low - self.start) : max(0, high - self.start)]
        sums = np.concatenate(([0.0], np.cumsum(np.square(known, dtype=np.float64))))
        offset = max(low, self.start)
        ends = [np.clip(places + side * VAD_FRAME // 2 - offset, 0, len(known)) for side in (-1, 1)]
        power = (sums[ends[1]] - sums[ends[0]]) / np.maximum(ends[1] - ends[0], 1)
        levels = 10 * np.log10(np.maximum(power, 1e-12))
        return np.asarray(np.maximum(levels, levels.max() - _LEVEL_DB))


def _mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The moving average of an odd number of values, [N] -> [N - width + 1]."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray((sums[width:] - sums[:-width]) / width)


def _middle_of_least(values: NDArray[np.float64]) -> int:
    """The place of the least value; of the first stretch of least values, as digital silence has them, the middle."""
    least = np.flatnonzero(values <= values.min() + _EQUAL)
    length = int(np.argmax(np.diff(least, append=least[-1] + 2) > 1))
    return int(least[0]) + length // 2
