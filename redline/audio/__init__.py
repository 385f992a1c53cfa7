"""The one door for sound: path, bytes, stream or array in, bounded mono 16 kHz `Waveform` out.

`reader` makes every source a seekable run of bytes, `content` tells by the bytes what they are, `decode` lets FFmpeg's
libraries decode them, `collector` mixes, resamples and keeps the limits; `isolation` has that done in a process of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from redline.audio import arrays, isolation
from redline.audio.collector import LOUDEST, AudioOptions, Samples, seen
from redline.audio.decode import decode, too_large
from redline.audio.reader import open_reader
from redline.errors import AudioError
from redline.types import Waveform

__all__ = ["LOUDEST", "AudioOptions", "Source", "load"]


class _GivesArray(Protocol):
    """A tensor of any library."""

    def __array__(self) -> NDArray[Any]: ...


Source = str | Path | bytes | BinaryIO | NDArray[Any] | Mapping[str, Any] | _GivesArray


def load(
    source: Source,
    *,
    sample_rate: int | None = None,
    options: AudioOptions = AudioOptions(),  # noqa: B008
) -> Waveform:
    """Read a recording from a path, bytes, a binary stream (from where it stands) or an array.

    An array or tensor is [N] or [N, channels] of float16/32/64 (full scale 1), int16, int32 or uint8 (scaled to that)
    and needs `sample_rate`, which is refused elsewhere. `{"array": ..., "sampling_rate": ...}` and `{"bytes": ...}`, as
    data sets give them, are taken too. Channels are mixed down to their mean, or to the loudest where they cancel each
    other, unless `options.channel` names one. Samples beyond full scale are left as they are up to `LOUDEST`. A gap in
    the recording's own time line becomes silence, so that times stay true. What was lost and what was chosen is told in
    `Waveform.warnings`: `truncated`, `damaged`, `unread`, `time_jump`, `unknown_length`, `several_streams`,
    `phase_inverted`. Raises `AudioError` and its kinds, naming the input.
    """
    if not isinstance(options, AudioOptions):
        raise AudioError(f"options is {seen(options)}; allowed is an AudioOptions, for example AudioOptions(channel=0)")
    held, sample_rate = arrays.unwrap(source, sample_rate)
    if isinstance(held, np.ndarray):
        return arrays.load_array(held, sample_rate, options)
    with ExitStack() as stack:
        reader = open_reader(held, options, stack)
        if sample_rate is not None:
            raise AudioError(f"{reader.name}: sample_rate is for arrays only; a recording states its own, leave it out")
        samples = Samples()
        try:
            notices = (isolation.decode if options.isolated else decode)(reader, options, samples.take)
        except MemoryError:
            raise too_large(reader.name) from None
        return Waveform(samples.array(), reader.name, notices)
