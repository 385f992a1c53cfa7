"""G.711, the sound of telephones (ITU-T G.711): bytes of 8 bits at 8 kHz -> 16-bit samples."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

G711_RATE = 8_000
"""Samples per second."""


def _mu_law() -> NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF
    sign, exponent, mantissa = code >> 7, code >> 4 & 7, code & 15
    size = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return np.where(sign, -size, size).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    sign, exponent, mantissa = code >> 7, code >> 4 & 7, code & 15
    size = np.where(exponent, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0), (mantissa << 4) + 8)
    return np.where(sign, size, -size).astype(np.int16)


_TABLES = {"mu": _mu_law(), "a": _a_law()}


def decode_g711(data: bytes, law: Literal["mu", "a"]) -> NDArray[np.int16]:
    """The samples [N] of N bytes."""
    return _TABLES[law][np.frombuffer(data, np.uint8)]
