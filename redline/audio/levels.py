"""Loudness of a recording: level in dBFS, gain normalization of clips, silence, clipping and declipping.

Log-mel features move with the level, and below a floor all of them are one value, so no model is deaf to loudness.
The meters are fed a recording block by block, of any sizes; the functions take it whole.
"""

from __future__ import annotations

import math
from copy import copy

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
_LEVEL_BLOCK = round(0.2 * SAMPLE_RATE)
_FRAME = 512  # 32 ms
_CLIPPING_FRAME = 1 << 19  # 33 s, within which the peak is known before samples are compared with it
_LSB = 1 / 32768
_FULL = 0.999  # of full scale; resamplers and lossy coders leave their ripple on what was cut off
_HIGHEST = 8.0  # times what is left of a top: 18 dB
_RIPPLE, _FEW = 1.25, 0.1
_RUN = 3  # samples in a row at the limit: a peak touches it with one or two
_LOUD_ENOUGH = 0.05  # below it a step of 16 bits is no small part of the peak

Samples = NDArray[np.float32]
_NOTHING: Samples = np.zeros(0, np.float32)


class _Frames:
    """Frames [n, size] of a signal that comes in blocks of any length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rest = _NOTHING
        """The samples behind the last whole frame, fewer than a frame."""

    def feed(self, samples: Samples) -> Samples:
        """The frames that samples [N] complete."""
        joined = np.concatenate((self.rest, samples)) if len(self.rest) else samples
        whole = len(joined) // self.size * self.size
        self.rest = joined[whole:].copy()
        return joined[:whole].reshape(-1, self.size)


class LevelMeter:
    """Level of the loudest speech in dBFS; a click of a moment does not count."""

    def __init__(self, samples: Samples = _NOTHING) -> None:
        self._frames = _Frames(_LEVEL_BLOCK)
        self._loudest = np.zeros(0)  # powers of the three loudest blocks, falling
        self._count = 0
        self.feed(samples)

    def feed(self, samples: Samples) -> None:
        """Measure the next samples [N]."""
        powers = _powers(self._frames.feed(samples))
        self._count += len(powers)
        self._loudest = np.sort(np.append(self._loudest, powers))[:-4:-1]

    @property
    def is_settled(self) -> bool:
        """Whether the level can only rise."""
        return self._count >= 6

    @property
    def level_db(self) -> float:
        """Of all that was fed: the third loudest fifth of a second, of less than 1.2 s the loudest."""
        powers = self._loudest if self._count else _powers(self._frames.rest[np.newaxis])
        return 10 * math.log10(max(float(powers[2 if self.is_settled else 0]), 1e-20))


class SteadinessMeter:
    """Whether the level hardly changes where samples are not zero: noise and hum do so, speech never."""

    def __init__(self, samples: Samples = _NOTHING) -> None:
        self._frames = _Frames(_FRAME)
        self._last = _NOTHING
        self._powers = [np.zeros(0)]  # 8 bytes for each 32 ms
        self.feed(samples)

    def feed(self, samples: Samples) -> None:
        """Measure the next samples [N]."""
        # Differences, because the slow drift of a converter is no sound and would hide how steady its noise is.
        joined = np.concatenate((self._last, samples))
        self._last = joined[-1:].copy()
        self._powers.append(_powers(self._frames.feed(np.diff(joined))))

    @property
    def is_steady(self) -> bool:
        powers = np.concatenate(self._powers)
        powers = powers if len(powers) else _powers(self._frames.rest[np.newaxis])
        powers = powers[powers > 0]
        if not len(powers):
            return True
        low, high = np.percentile(10 * np.log10(powers), [10, 95])
        return bool(high - low < STEADY_DB)


class SilenceMeter:
    """Digital silence and the noise of a converter, told from speech however quiet.

    Such noise is the last two steps of 16 bits, or below -70 dBFS and steady. Sound that is louder ends the measuring.
    """

    def __init__(self, samples: Samples = _NOTHING) -> None:
        self._level = LevelMeter()
        self._steadiness = SteadinessMeter()
        self._is_in_last_bits = True
        self._is_loud = False
        self.feed(samples)

    def feed(self, samples: Samples) -> None:
        """Measure the next samples [N]."""
        if self._is_loud:
            return
        self._level.feed(samples)
        self._is_loud = self._level.is_settled and self._level.level_db > NOISE_DB
        if not self._is_loud:
            self._steadiness.feed(samples)
            steps = samples / np.float32(_LSB)
            self._is_in_last_bits &= bool((np.abs(steps) <= 2).all() and (steps == np.round(steps)).all())

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing else in all that was fed."""
        is_noise = self._is_in_last_bits or (self._level.level_db <= NOISE_DB and self._steadiness.is_steady)
        return not self._is_loud and is_noise


class ClippingMeter:
    """Share of samples that stand in a row at full scale, or at the recording's own peak: tops are cut off.

    The peak is that of all up to now and of the half minute in which a sample stands.
    """

    def __init__(self, samples: Samples = _NOTHING) -> None:
        self._frames = _Frames(_CLIPPING_FRAME)
        self._peak = 0.0
        self._samples = self._clipped = self._beyond = 0
        self.feed(samples)

    def feed(self, samples: Samples) -> None:
        """Measure the next samples [N]."""
        for frame in self._frames.feed(samples):
            self._measure(frame)

    @property
    def share(self) -> float:
        """Of all that was fed, 0 to 1."""
        meter = copy(self)
        meter._measure(self._frames.rest)
        # Floats go on beyond full scale where nothing is cut off.
        is_clipped = meter._clipped and meter._beyond <= _FEW * meter._clipped
        return meter._clipped / meter._samples if is_clipped else 0.0

    def _measure(self, samples: Samples) -> None:
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
    """Level in dBFS of the loudest speech in samples [N]."""
    return LevelMeter(samples).level_db


def is_silent(samples: Samples) -> bool:
    """Whether samples [N] hold nothing but digital silence or the noise of a converter."""
    return SilenceMeter(samples).is_silent


def clipped_share(samples: Samples) -> float:
    """Share of clipped samples in samples [N], 0 to 1."""
    return ClippingMeter(samples).share


def gain(samples: Samples) -> float:
    """Gain factor that brings samples [N] to a usual level: a power of two, which rounds nothing.

    1 for ordinary speech and for quiet noise: raised, a model would make words of it.
    """
    level = level_db(samples)
    if QUIET_DB <= level <= LOUD_DB or (level < QUIET_DB and SteadinessMeter(samples).is_steady):
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


def _powers(frames: Samples) -> NDArray[np.float64]:
    """Mean power of each frame [n, size] -> [n]; 0 of an empty one."""
    if not frames.size:
        return np.zeros(len(frames))
    powers: NDArray[np.float64] = np.square(frames, dtype=np.float64).mean(axis=1)
    return powers
