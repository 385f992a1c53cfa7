"""Loudness of a recording: level in dBFS, gain normalization of clips, silence, clipping and declipping.

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
"""The share of clipped samples from which on a notice is given."""
CLIPPING_BLOCK = 1 << 19
"""33 s, within which the peak is known before samples are compared with it."""
_LEVEL_BLOCK = round(0.2 * SAMPLE_RATE)
_SETTLED = 6  # blocks from which on the loudest two do not count
_FRAME = 512  # 32 ms
_LSB = 1 / 32768
_FULL = 0.999  # of full scale; resamplers and lossy coders leave their ripple on what was cut off
_HIGHEST = 8.0  # times what is left of a top: 18 dB
_RIPPLE, _FEW = 1.25, 0.1
_RUN = 3  # samples in a row at the limit: a peak touches it with one or two
_LOUD_ENOUGH = 0.05  # below it a step of 16 bits is no small part of the peak

Samples = NDArray[np.float32]


class ClippingMeter:
    """Share of samples that stand in a row at full scale, or at the recording's own peak: tops are cut off.

    It is fed blocks of `CLIPPING_BLOCK` samples, the last one shorter, and the peak is that of all up to now.
    """

    def __init__(self) -> None:
        self._peak = 0.0
        self._samples = self._clipped = self._beyond = 0

    @property
    def share(self) -> float:
        """Of all that was fed, 0 to 1."""
        # Floats go on beyond full scale where nothing is cut off.
        is_clipped = self._clipped and self._beyond <= _FEW * self._clipped
        return self._clipped / self._samples if is_clipped else 0.0

    def skip(self, samples: int) -> None:
        """So many samples of digital silence."""
        self._samples += samples

    def feed(self, samples: Samples) -> None:
        """Measure the next block [N]."""
        before, peak = self._peak, _peak(samples)
        self._peak = max(before, peak)
        self._samples += len(samples)
        if peak < max(_limit(self._peak), _LOUD_ENOUGH):
            return
        if _limit(self._peak) > _limit(before) + _LSB / 2:
            self._clipped = 0  # what stood in a row was no top of this recording
        firsts, ends = _runs(samples, _limit(self._peak))
        sizes = ends - firsts
        self._clipped += int(sizes[sizes >= _RUN].sum())
        self._beyond += int((np.abs(samples) > _RIPPLE).sum())


def level_db(samples: Samples) -> float:
    """Level in dBFS of the loudest speech in samples [N]: the third loudest fifth of a second, as clicks do not count.

    Of less than 1.2 s it is the loudest.
    """
    powers = np.sort(_powers(samples, _LEVEL_BLOCK))
    return 10 * math.log10(max(float(powers[-3 if len(powers) >= _SETTLED else -1]), 1e-20))


def is_steady(samples: Samples) -> bool:
    """Whether the level hardly changes where samples [N] are not zero: noise and hum do so, speech never."""
    # Differences, because the slow drift of a converter is no sound and would hide how steady its noise is.
    powers = _powers(np.diff(samples), _FRAME)
    powers = powers[powers > 0]
    if not len(powers):
        return True
    low, high = np.percentile(10 * np.log10(powers), [10, 95])
    return bool(high - low < STEADY_DB)


def is_silent(samples: Samples) -> bool:
    """Whether samples [N] hold nothing but digital silence or the noise of a converter, told from speech however quiet.

    Such noise is the last two steps of 16 bits, or below -70 dBFS and steady.
    """
    is_quiet = level_db(samples) <= NOISE_DB
    if not is_quiet and len(samples) >= _SETTLED * _LEVEL_BLOCK:
        return False
    steps = samples / np.float32(_LSB)
    in_last_bits = bool((np.abs(steps) <= 2).all() and (steps == np.round(steps)).all())
    return in_last_bits or (is_quiet and is_steady(samples))


def clipped_share(samples: Samples) -> float:
    """Share of clipped samples in samples [N], 0 to 1."""
    meter = ClippingMeter()
    for start in range(0, len(samples), CLIPPING_BLOCK):
        meter.feed(samples[start : start + CLIPPING_BLOCK])
    return meter.share


def gain(samples: Samples) -> float:
    """Gain factor that brings samples [N] to a usual level: a power of two, which rounds nothing.

    1 for ordinary speech and for quiet noise: raised, a model would make words of it.
    """
    level = level_db(samples)
    if QUIET_DB <= level <= LOUD_DB or (level < QUIET_DB and is_steady(samples)):
        return 1.0
    return 2.0 ** round((USUAL_DB - level) / (20 * math.log10(2)))


def levelled(clip: Waveform) -> Waveform:
    """Gain normalization and declipping of a clip, for features; an ordinary one comes back as it is."""
    samples = restored(clip.samples)
    factor = gain(samples)
    if factor != 1.0:
        samples = samples * np.float32(factor)
    return clip if samples is clip.samples else Waveform(samples, clip.source, clip.warnings)


def restored(samples: Samples) -> Samples:
    """Declipping: samples [N] with a curve in place of each cut off top, the cubic that goes on as its two ends do.

    What is not clipped comes back as it is. It is no more than a guess, but one without the harmonics of a flat top.
    """
    if clipped_share(samples) < CLIPPED:
        return samples
    limit = _limit(_peak(samples))
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


def _limit(peak: float) -> float:
    """The level at which tops would be cut off, in a recording of this peak."""
    return min(_FULL, peak - _LSB)


def _runs(samples: Samples, limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First sample and the one behind the last of each stretch of one sign at or beyond a limit; there is one."""
    at = np.flatnonzero(np.abs(samples) >= np.float32(limit))
    is_same = (np.diff(at) == 1) & (np.signbit(samples[at[1:]]) == np.signbit(samples[at[:-1]]))
    borders = np.flatnonzero(~is_same)
    return at[np.append(0, borders + 1)], at[np.append(borders, -1)] + 1


def _peak(samples: Samples) -> float:
    return float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))


def _powers(samples: Samples, size: int) -> NDArray[np.float64]:
    """Mean power of each whole frame of samples [N]; where there is none, of all of them, 0 of nothing."""
    whole = len(samples) // size * size
    frames = samples[:whole].reshape(-1, size) if whole else samples[np.newaxis]
    if not frames.size:
        return np.zeros(1)
    powers: NDArray[np.float64] = np.square(frames, dtype=np.float64).mean(axis=1)
    return powers
