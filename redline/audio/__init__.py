"""The one door for sound: path, bytes, stream or array in, bounded mono 16 kHz `Waveform` out.

`reader` makes every source a seekable run of bytes, `content` tells by the bytes what they are, `decode` lets FFmpeg's
libraries decode them, `collector` mixes, resamples and keeps the limits; `isolation` has that done in a process of its
own.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from redline.audio import isolation
from redline.audio.collector import LOUDEST, AudioOptions, Collector, Samples, check_rate, seen, to_float
from redline.audio.decode import decode, too_large
from redline.audio.reader import open_reader
from redline.errors import AudioError, AudioLimitError, EmptyAudioError
from redline.types import Waveform

__all__ = ["LOUDEST", "AudioOptions", "load"]

_BLOCK = 1 << 16


def load(
    source: str | Path | bytes | BinaryIO | NDArray[Any],
    *,
    sample_rate: int | None = None,
    options: AudioOptions = AudioOptions(),  # noqa: B008
) -> Waveform:
    """Read a recording from a path, bytes, a binary stream (from where it stands) or an array.

    An array is [N] or [N, channels] of float16/32/64 (full scale 1), int16, int32 or uint8 (scaled to that) and needs
    `sample_rate`, which is refused elsewhere. Channels are mixed down to their mean unless `options.channel` names one.
    Samples beyond full scale are left as they are up to `LOUDEST`. A gap in the recording's own time line becomes
    silence, so that times stay true. What was lost is told in `Waveform.warnings`: `truncated`, `damaged`,
    `unknown_length`, `several_streams`. Raises `AudioError` and its kinds, naming the input.
    """
    if not isinstance(options, AudioOptions):
        raise AudioError(f"options is {seen(options)}; allowed is an AudioOptions, for example AudioOptions(channel=0)")
    if isinstance(source, np.ndarray):
        return _from_array(source, sample_rate, options)
    with ExitStack() as stack:
        reader = open_reader(source, options, stack)
        if sample_rate is not None:
            raise AudioError(f"{reader.name}: sample_rate is for arrays only; a recording states its own, leave it out")
        samples = Samples()
        try:
            notices = (isolation.decode if options.isolated else decode)(reader, options, samples.take)
        except MemoryError:
            raise too_large(reader.name) from None
        return Waveform(samples.array(), reader.name, notices)


def _from_array(array: NDArray[Any], sample_rate: int | None, options: AudioOptions) -> Waveform:
    samples = Samples()
    collector = Collector("<array>", options, samples.take)
    if sample_rate is None:
        raise AudioError("<array>: no sample rate; say it with sample_rate=, for example sample_rate=16000")
    if options.track:
        raise AudioError(f"<array>: track {options.track} asked for, but an array is one track; leave it out")
    rate = check_rate(sample_rate, "<array>")
    if np.ma.isMaskedArray(array):
        if np.ma.is_masked(array):
            raise AudioError("<array>: some samples are masked; fill them, for example with array.filled(0)")
        array = np.ma.getdata(array)
    if array.ndim not in (1, 2):
        raise AudioError(f"<array>: shape {array.shape}; allowed are [N] and [N, channels]")
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.int16, np.int32, np.uint8):
        raise AudioError(
            f"<array>: samples of type {array.dtype}; allowed are float, int16, int32 and uint8: "
            "convert them, and scale floats to -1..1"
        )
    if array.size == 0:
        raise EmptyAudioError(f"<array>: shape {array.shape}, 0 audio frames; give at least one sample")
    rows = array if array.ndim == 2 else array[:, np.newaxis]
    if rows.shape[1] > options.max_channels:
        raise AudioLimitError(
            f"<array>: shape {array.shape} has {rows.shape[1]} channels; at most {options.max_channels} are allowed; "
            "the shape is [N, channels], transpose an array of [channels, N]"
        )
    for start in range(0, len(rows), _BLOCK):
        collector.add(to_float(rows[start : start + _BLOCK]), rate)
    collector.finish()
    return Waveform(samples.array(), warnings=tuple(collector.notices()))
