"""How loud a recording is: raised or lowered to where models have learned to hear, silent, or clipped.

Log-mel features move with the level, and below a floor all of them are one value, so no model is deaf to loudness.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from redline.types import SAMPLE_RATE, Waveform

QUIET_DB, LOUD_DB = -36.0, -6.0
"""Speech between these levels is left as it is, to the bit."""
USUAL_DB = -18.0
"""What speech beyond them is brought to, within 3 dB."""
NOISE_DB = -70.0
"""What is never louder and does not change is the noise of a converter."""
STEADY_DB = 6.0
"""Between the 10th and the 95th percentile of its frames; speech has 20 dB and more."""
CLIPPED = 0.001
"""The share of clipped samples from which on it is told."""
_BLOCK_S = 0.2
_FRAME_S = 0.032
_LSB = 1 / 32768
_FULL = 0.999  # of full scale; resamplers and lossy coders leave their ripple on what was cut off
_RIPPLE, _FEW = 1.25, 0.1
_RUN = 3  # samples in a row at the limit: a peak touches it with one or two
_LOUD_ENOUGH = 0.05  # below it a step of 16 bits is no small part of the peak
_CHUNK = 1 << 20


def level_db(samples: NDArray[np.float32]) -> float:
    """How loud the loudest speech in samples [N] is, in dB below full scale; a click of a moment does not count."""
    powers = np.sort(_powers(samples, round(_BLOCK_S * SAMPLE_RATE)))
    power = float(powers[-3] if len(powers) >= 6 else powers[-1]) if len(powers) else 0.0
    return 10 * math.log10(max(power, 1e-20))


def gain(samples: NDArray[np.float32]) -> float:
    """What brings samples [N] to a usual level: a power of two, so that it rounds nothing; 1 for ordinary speech.

    Quiet noise is left quiet: raised, a model would make words of it.
    """
    level = level_db(samples)
    if QUIET_DB <= level <= LOUD_DB or (level < QUIET_DB and is_steady(samples)):
        return 1.0
    return 2.0 ** round((USUAL_DB - level) / (20 * math.log10(2)))


def levelled(clip: Waveform) -> Waveform:
    """A clip at a usual level, for features; ordinary ones come back as they are."""
    factor = gain(clip.samples)
    return clip if factor == 1.0 else Waveform(clip.samples * np.float32(factor), clip.source, clip.warnings)


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether there is nothing in samples [N] but digital silence or the noise of a converter, however quiet speech is.

    Such noise is the last two steps of 16 bits, or below -70 dBFS and steady.
    """
    if _peak(samples) <= 2 * _LSB:
        steps = samples / np.float32(_LSB)
        if bool((steps == np.round(steps)).all()):
            return True
    return level_db(samples) <= NOISE_DB and is_steady(samples)


def is_steady(samples: NDArray[np.float32]) -> bool:
    """Whether the level of samples [N] hardly changes where they are not zero: noise and hum do so, speech never."""
    # Differences, because the slow drift of a converter is no sound and would hide how steady its noise is.
    powers = _powers(np.diff(samples), round(_FRAME_S * SAMPLE_RATE))
    powers = powers[powers > 0]
    if not len(powers):
        return True
    low, high = np.percentile(10 * np.log10(powers), [10, 95])
    return bool(high - low < STEADY_DB)


def clipped_share(samples: NDArray[np.float32]) -> float:
    """The share of samples [N] that stand in a row at full scale, or at the recording's own peak: tops are cut off."""
    peak = _peak(samples)
    if peak < _LOUD_ENOUGH:
        return 0.0
    limit = np.float32(min(_FULL, peak - _LSB))
    count = beyond = 0
    for first in range(0, len(samples), _CHUNK):
        levels = np.abs(samples[first : first + _CHUNK])
        beyond += int((levels > _RIPPLE).sum())
        at = levels >= limit
        edges = np.flatnonzero(np.diff(np.concatenate(([False], at, [False])).astype(np.int8)))
        runs = edges[1::2] - edges[::2]
        count += int(runs[runs >= _RUN].sum())
    # Floats go on beyond full scale where nothing is cut off.
    return count / len(samples) if beyond <= _FEW * count else 0.0


def _peak(samples: NDArray[np.float32]) -> float:
    return max((float(np.abs(samples[at : at + _CHUNK]).max()) for at in range(0, len(samples), _CHUNK)), default=0.0)


def _powers(samples: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """The mean power of each `size` samples; a shorter rest counts by itself only where it is all there is."""
    whole = len(samples) // size
    if not whole:
        return np.square(samples, dtype=np.float64).mean(keepdims=True) if len(samples) else np.zeros(0)
    step = max(1, _CHUNK // size)
    rows = samples[: whole * size].reshape(whole, size)
    parts = [np.square(rows[at : at + step], dtype=np.float64).mean(axis=1) for at in range(0, whole, step)]
    powers: NDArray[np.float64] = np.concatenate(parts)
    return powers
