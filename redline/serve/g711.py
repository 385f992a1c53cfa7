"""G.711: the companded samples of telephony, one byte each, as 16-bit PCM (ITU-T G.711)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _mulaw_table() -> NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return np.where(code & 0x80, -size, size).astype(np.int16)


def _alaw_table() -> NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    step, chord = (code & 0x0F) << 4, code >> 4 & 7
    size = np.where(chord == 0, step + 8, step + 0x108 << np.maximum(chord - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


_MULAW, _ALAW = _mulaw_table(), _alaw_table()


def mulaw_to_pcm(data: bytes) -> NDArray[np.int16]:
    """μ-law (PCMU) bytes -> samples [n]."""
    return _MULAW[np.frombuffer(data, np.uint8)]


def alaw_to_pcm(data: bytes) -> NDArray[np.int16]:
    """A-law (PCMA) bytes -> samples [n]."""
    return _ALAW[np.frombuffer(data, np.uint8)]
