"""Decoded frames as rows of channels, whatever their layout in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from redline.audio.collector import to_float

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler

_SAFE_PLANES = 7
"""PyAV looks for the last plane of a frame by walking to an empty pointer, and a frame has room for eight pointers:
with more planes than this it reads what lies behind them."""


class Packer:
    """Makes frames packed, all channels of a sample side by side, where they have too many planes to be read."""

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None

    def block(self, frame: AudioFrame) -> NDArray[np.float32]:
        """One frame as [n, channels]; its rate and number of channels have been checked."""
        channels = frame.layout.nb_channels
        if not frame.format.is_planar:
            return to_float(frame.to_ndarray().reshape(-1, channels))
        if channels <= _SAFE_PLANES:
            return to_float(frame.to_ndarray().T)
        parts = [to_float(part.to_ndarray().reshape(-1, channels)) for part in self._packed(frame)]
        return np.concatenate(parts) if parts else np.zeros((0, channels), np.float32)

    def _packed(self, frame: AudioFrame) -> list[AudioFrame]:
        import av

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._kind:
            self._resampler, self._kind = av.AudioResampler(format=frame.format.packed), kind
        return self._resampler.resample(frame)
