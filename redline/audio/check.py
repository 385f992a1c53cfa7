"""Checks of a `Waveform` that a caller built by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from redline.audio.options import LOUDEST
from redline.errors import AudioError
from redline.types import SAMPLE_RATE, Waveform

REMEDY = f"give the array itself with its sample_rate, or mono float32 samples at {SAMPLE_RATE} Hz"


def checked_waveform(wave: Waveform) -> Waveform:
    """The waveform, if it holds mono float32 samples that are numbers, as `load` makes them; raises `AudioError`."""
    samples: Any = wave.samples
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"{wave.source}: samples are a {type(samples).__name__}, not a numpy array; {REMEDY}")
    if type(samples) is not np.ndarray and isinstance(samples, np.ma.MaskedArray):  # numpy.ma takes time to load
        raise AudioError(f"{wave.source}: samples are a masked array; fill it first")
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise AudioError(f"{wave.source}: samples are {samples.dtype} of shape {samples.shape}; {REMEDY}")
    loudest = float(np.abs(samples).max(initial=0.0))  # NaN where one of them is
    if not loudest <= LOUDEST:
        count = int(np.count_nonzero(~np.isfinite(samples)))
        seen = f"{count} samples that are NaN or infinite" if count else f"a sample of {loudest:g}"
        raise AudioError(f"{wave.source}: {seen}; full scale is 1 and at most {LOUDEST:g} is believed: repair it")
    return wave
