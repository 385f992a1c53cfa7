"""Microphone simulation: one microphone for all who speak, the band of a telephone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redline.types import SAMPLE_RATE

MOST_GAIN = math.log(10.0)
"""20 dB: what a microphone did not hear cannot be made louder for ever."""


def through_one_microphone(
    speakers: Sequence[str | None], sounds: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """The sounds of some speakers, filtered so that the mean spectrum of each speaker is that between all of them."""
    own = {}
    for speaker in dict.fromkeys(speakers):
        sound_of = np.concatenate([sound for name, sound in zip(speakers, sounds, strict=True) if name == speaker])
        own[speaker] = np.log(mean_spectrum(sound_of) + 1e-9)  # [257]
    middle = np.mean(list(own.values()), axis=0)
    filtered = []
    for speaker, sound in zip(speakers, sounds, strict=True):
        gain = np.exp(np.clip((middle - own[speaker]) / 2, -MOST_GAIN, MOST_GAIN))
        spectrum = np.fft.rfft(sound)
        spectrum *= np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(gain)), gain)
        filtered.append(np.fft.irfft(spectrum, len(sound)))
    return filtered


def mean_spectrum(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean power of each of 257 bands of equal width."""
    count = max(1, len(sound) // 512)
    frames = np.resize(sound, (count, 512)) * np.hanning(512)
    power: NDArray[np.float64] = np.mean(np.square(np.abs(np.fft.rfft(frames))), axis=0)
    return power


def in_band(sound: NDArray[np.float64], band_hz: tuple[float, float]) -> NDArray[np.float64]:
    """The sound without what lies below or above a band."""
    spectrum, hertz = np.fft.rfft(sound), np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    spectrum[(hertz < band_hz[0]) | (hertz > band_hz[1])] = 0.0
    return np.fft.irfft(spectrum, len(sound))
