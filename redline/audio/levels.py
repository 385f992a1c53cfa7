"""How loud a recording is: raised or lowered to where models have learned to hear, silent, or clipped.

Log-mel features move with the level, and below a floor all of them are one value, so no model is deaf to loudness.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from redline.types import SAMPLE_RATE, Waveform

QUIET_DB, LOUD_DB = -42.0, -6.0
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
_HIGHEST = 8.0  # times what is left of a top: 18 dB
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
    """A clip at a usual level, its cut off tops drawn in, for features; an ordinary one comes back as it is."""
    samples = restored(clip.samples)
    factor = gain(samples)
    if factor != 1.0:
        samples = samples * np.float32(factor)
    return clip if samples is clip.samples else Waveform(samples, clip.source, clip.warnings)


def restored(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples [N] with a curve in place of each top that is cut off, the cubic that goes on as its two ends do.

    What is not clipped comes back as it is. It is no more than a guess, but one without the harmonics of a flat top.
    """
    if clipped_share(samples) < CLIPPED:
        return samples
    limit = _limit(samples)
    firsts, ends = _runs(samples, limit)
    inside = (firsts >= 2) & (ends + 2 <= len(samples)) & (ends - firsts >= 2)
    firsts, ends = firsts[inside], ends[inside]
    sizes = ends - firsts
    at = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # place of each sample in its run
    x = samples.astype(np.float64)
    left, right = x[firsts - 1], x[ends]
    rise, fall = (left - x[firsts - 2]) * (sizes + 1), (x[ends + 1] - right) * (sizes + 1)
    left, right, rise, fall = (np.repeat(part, sizes) for part in (left, right, rise, fall))
    t = (at + 1) / np.repeat(sizes + 1, sizes)
    curve = (2 * t**3 - 3 * t**2 + 1) * left + (t**3 - 2 * t**2 + t) * rise
    curve += (3 * t**2 - 2 * t**3) * right + (t**3 - t**2) * fall
    places = np.repeat(firsts, sizes) + at
    sign = np.sign(x[places])
    x[places] = sign * np.clip(sign * curve, limit, _HIGHEST * limit)
    return x.astype(np.float32)


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
    if _peak(samples) < _LOUD_ENOUGH:
        return 0.0
    limit = _limit(samples)
    count = beyond = 0
    for first in range(0, len(samples), _CHUNK):
        part = samples[first : first + _CHUNK]
        firsts, ends = _runs(part, limit)
        sizes = ends - firsts
        count += int(sizes[sizes >= _RUN].sum())
        beyond += int((np.abs(part) > _RIPPLE).sum())
    # Floats go on beyond full scale where nothing is cut off.
    return count / len(samples) if beyond <= _FEW * count else 0.0


def _limit(samples: NDArray[np.float32]) -> float:
    """The level at which tops would be cut off."""
    return min(_FULL, _peak(samples) - _LSB)


def _runs(samples: NDArray[np.float32], limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First sample and the one behind the last of each stretch of one sign at or beyond a limit."""
    sides = np.sign(samples) * (np.abs(samples) >= np.float32(limit))
    edges = np.flatnonzero(np.diff(sides, prepend=0.0, append=0.0))
    firsts, ends = edges, np.append(edges[1:], len(samples))
    at = (firsts < len(samples)) & (sides[np.minimum(firsts, len(samples) - 1)] != 0)
    return firsts[at], ends[at]


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
