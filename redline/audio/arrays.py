"""Sound that is in memory already: arrays, tensors, and the dictionaries and decoders that data sets hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.audio.decode import Blocks
from redline.audio.options import AudioOptions, is_whole, safe_repr
from redline.audio.resample import MonoResampler, to_float
from redline.errors import AudioError, AudioLimitError, EmptyAudioError

NAME = "<array>"
_BLOCK = 1 << 16
_LEAST_INT32 = 1 << 16
"""An int32 recording whose samples are all smaller is below -90 dB of full scale."""


def unwrap(source: Any, sample_rate: Any) -> tuple[Any, Any]:
    """What a caller's object holds, an array as a numpy array, and its sample rate; anything else is left as it is.

    Known are tensors and whatever else gives an array, `{"array": ..., "sampling_rate": ...}` and
    `{"bytes": ..., "path": ...}` as data sets give, and the decoders of newer data sets. A `path` in a dictionary is
    not opened: it may come from anyone.
    """
    if isinstance(source, Mapping):
        if source.get("array") is not None and source.get("sampling_rate") is not None:
            array = source["array"]
            array = np.asarray(array) if isinstance(array, list | tuple) else array
            return _array(array), _agreed(source["sampling_rate"], sample_rate)
        if isinstance(source.get("bytes"), bytes):
            return source["bytes"], sample_rate
        raise AudioError(
            f"a dictionary with the keys {', '.join(str(key)[:40] for key in [*source][:10]) or 'none'}: needed are "
            "array and sampling_rate, or bytes; a path in it is not opened, give it as a path"
        )
    if hasattr(source, "get_all_samples"):
        samples = source.get_all_samples()  # [channels, N]
        return _array(samples.data).T, _agreed(samples.sample_rate, sample_rate)
    return _array(source), sample_rate


def _agreed(stated: Any, given: Any) -> Any:
    stated = stated.item() if hasattr(stated, "item") else stated
    if given is not None and given != stated:
        raise AudioError(f"{NAME}: sample_rate is {given}, but the recording itself says {stated}; leave it out")
    return stated


def _array(source: Any) -> Any:
    """A numpy array of what gives one; what does not is left as it is."""
    if isinstance(source, np.ndarray) or not hasattr(source, "__array__") or isinstance(source, type):
        return source
    try:
        if hasattr(source, "detach"):  # a tensor, which may be on another device, in bfloat16, part of a graph
            source = source.detach().cpu()
            source = source.float() if source.dtype.is_floating_point else source
        return np.asarray(source)
    except Exception as error:  # whatever foreign code can raise
        what = f"{type(source).__name__} gives no array ({type(error).__name__}: {str(error)[:200]})"
        raise AudioError(f"{NAME}: {what}; convert it to a numpy array of float32 first") from error


def convert_array(array: NDArray[Any], sample_rate: Any, options: AudioOptions) -> Blocks:
    """Check, mix down and resample an array [N] or [N, channels]; raises `AudioError` and its kinds."""
    if sample_rate is None:
        raise AudioError(f"{NAME}: no sample rate; say it with sample_rate=, for example sample_rate=16000")
    if not is_whole(sample_rate) or abs(sample_rate) >= 2**63:
        allowed = "allowed is a whole number, for example 16000"
        raise AudioError(f"{NAME}: sample_rate is {safe_repr(sample_rate)}; {allowed}")
    if options.track:
        raise AudioError(f"{NAME}: track {options.track} asked for, but an array is one track; leave it out")
    rows = _checked(array, options)
    output = MonoResampler(NAME, options)
    for start in range(0, len(rows), _BLOCK):
        output.add(to_float(rows[start : start + _BLOCK].T), int(sample_rate))
        yield from output.blocks()
    yield from output.finish()
    return tuple(output.notices())


def _checked(array: NDArray[Any], options: AudioOptions) -> NDArray[Any]:
    """The array as [N, channels], if its shape and type are allowed."""
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise AudioError(f"{NAME}: some samples are masked; fill them, for example with array.filled(0)")
        array = np.ma.getdata(array)
    array = np.asarray(array)  # a matrix stays two-dimensional whatever is taken from it
    if array.ndim not in (1, 2):
        raise AudioError(f"{NAME}: shape {array.shape}; allowed are [N] and [N, channels]")
    if array.dtype.kind != "f" and array.dtype.newbyteorder("=") not in (np.int16, np.int32, np.uint8):
        allowed = "allowed are float, int16, int32 and uint8: convert them, and scale floats to -1..1"
        raise AudioError(f"{NAME}: samples of type {array.dtype}; {allowed}")
    if array.size == 0:
        raise EmptyAudioError(f"{NAME}: shape {array.shape}, 0 audio frames; give at least one sample")
    rows = array if array.ndim == 2 else array[:, np.newaxis]
    if rows.shape[1] > options.max_channels:
        allowed = f"allowed are [N, 1 to {options.max_channels} channels]; transpose an array of [channels, N]"
        raise AudioLimitError(f"{NAME}: shape {array.shape} has {rows.shape[1]} channels; {allowed}")
    if array.dtype.itemsize == 4 and array.dtype.kind == "i":
        peak = max(int(array.max()), -int(array.min()))
        # Silence of a 24-bit converter, which is as quiet, has zeros in its lowest 8 bits.
        if 0 < peak < _LEAST_INT32 and np.any(array & 0xFF):
            what = f"int32 samples of at most {peak}, where full scale is {1 << 31}: they look like 16-bit values"
            raise AudioError(f"{NAME}: {what}, and would be silent; convert them with array.astype(numpy.int16)")
    return rows
