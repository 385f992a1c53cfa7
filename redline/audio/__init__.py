"""Audio input: path, bytes, stream or array in, bounded mono 16 kHz blocks or a whole `Waveform` out.

`source` makes every input random access to a file, `containers` sniffs its format, `demux` and `decode` have FFmpeg's
libraries decode it, `resample` mixes down, resamples and keeps the limits; `isolation` has that done in a worker
process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from redline.audio import arrays
from redline.audio.decode import Blocks, decode_blocks, too_large
from redline.audio.isolation import decode_isolated
from redline.audio.options import LOUDEST, AudioOptions, safe_repr
from redline.audio.parts import only_parts
from redline.audio.source import Bytes, open_source
from redline.errors import AudioError
from redline.types import Notice, Waveform

__all__ = ["LOUDEST", "AudioOptions", "AudioSource", "BlockReader", "load", "open_blocks"]


class _GivesArray(Protocol):
    """A tensor of any library."""

    def __array__(self) -> NDArray[Any]: ...


_USUAL = AudioOptions()
AudioSource = str | Path | bytes | BinaryIO | NDArray[Any] | Mapping[str, Any] | _GivesArray


class BlockReader(Iterator[NDArray[np.float32]]):
    """Mono float32 blocks [n] of a recording at 16 kHz, of 2 s but the last, decoded when they are asked for.

    A context manager: leaving it frees what the recording takes, its worker process too. Raises `AudioError` and its
    kinds where they occur.
    """

    def __init__(self, name: str, blocks: Blocks, stack: ExitStack, source: Bytes | None = None) -> None:
        self.name = name
        self.warnings: tuple[Notice, ...] = ()
        """What was lost and what was chosen; known when the last block has been given."""
        self._blocks, self._stack, self._source = blocks, stack, source

    @property
    def duration_s(self) -> float | None:
        """About how long it is, where its container tells; known from the first block on."""
        return self._source.stated_s if self._source else None

    def __next__(self) -> NDArray[np.float32]:
        try:
            return next(self._blocks)
        except StopIteration as end:
            self.warnings = self.warnings if end.value is None else end.value
            raise StopIteration from None
        except MemoryError:
            raise too_large(self.name) from None

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._blocks.close()
        self._stack.close()


def open_blocks(source: AudioSource, *, sample_rate: int | None = None, options: AudioOptions = _USUAL) -> BlockReader:
    """Open what `load` loads, to be read block by block in bounded memory."""
    if not isinstance(options, AudioOptions):
        raise AudioError(
            f"options is {safe_repr(options)}; allowed is an AudioOptions, such as AudioOptions(channel=0)"
        )
    inner, sample_rate = arrays.unwrap(source, sample_rate)
    with ExitStack() as stack:
        if isinstance(inner, np.ndarray):
            blocks = only_parts(arrays.convert_array(inner, sample_rate, options), options.parts)
            return BlockReader(arrays.NAME, blocks, stack.pop_all())
        opened = open_source(inner, options, stack)
        if sample_rate is not None:
            raise AudioError(f"{opened.name}: sample_rate is for arrays only; a recording states its own, leave it out")
        decode = decode_isolated if options.isolated else decode_blocks
        return BlockReader(opened.name, only_parts(decode(opened, options), options.parts), stack.pop_all(), opened)


def load(source: AudioSource, *, sample_rate: int | None = None, options: AudioOptions = _USUAL) -> Waveform:
    """Read a recording from a path, bytes, a binary stream (from where it stands) or an array.

    An array or tensor is [N] or [N, channels] of float16/32/64 (full scale 1), int16, int32 or uint8 (scaled to that)
    and needs `sample_rate`, which is refused elsewhere. `{"array": ..., "sampling_rate": ...}` and `{"bytes": ...}`, as
    data sets give them, are taken too. Channels are mixed down to their mean, or to the loudest where they cancel each
    other, unless `options.channel` names one. Samples beyond full scale are left as they are up to `LOUDEST`. A gap in
    the recording's own time line becomes silence, so that times stay true. What was lost and what was chosen is in
    `Waveform.warnings`: `truncated`, `damaged`, `unread`, `time_jump`, `unknown_length`, `several_streams`,
    `phase_inverted`. Raises `AudioError` and its kinds, naming the input.
    """
    with open_blocks(source, sample_rate=sample_rate, options=options) as reader:
        samples = bytearray()  # grown by realloc, which moves no memory on Linux; joining lists doubles the peak
        try:
            for block in reader:
                samples += block.data
        except MemoryError:
            raise too_large(reader.name) from None
        return Waveform(np.frombuffer(samples, np.float32), reader.name, reader.warnings)
