"""Sounds for tests of long recordings, and a detector that takes a millisecond."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from redline import audio
from redline.longform.vad import SileroVad, frame_levels
from redline.testing import FakeRecognizer
from redline.types import SAMPLE_RATE, Hypothesis, Waveform

Samples = NDArray[np.float32]


@pytest.fixture(scope="session")
def jfk() -> Waveform:
    return audio.load(Path(__file__).parents[1] / "data" / "jfk.flac")


@pytest.fixture
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the network: frames above -40 dB are speech."""
    monkeypatch.setattr(
        SileroVad, "probabilities", lambda self, samples, gain=1.0: (frame_levels(samples) > -40).astype(np.float32)
    )


@pytest.fixture(scope="session")
def talk() -> Callable[..., Samples]:
    """Makes recordings of noise (speech, to `loud_is_speech`) and silence, given as seconds of each in turn."""

    def recording(*seconds: float, seed: int = 0) -> Samples:
        draw = np.random.default_rng(seed)
        parts = [
            draw.standard_normal(round(length * SAMPLE_RATE), dtype=np.float32) * np.float32(0.0 if number % 2 else 0.1)
            for number, length in enumerate(seconds)
        ]
        return np.concatenate([np.zeros(0, dtype=np.float32), *parts])

    return recording


@pytest.fixture
def listener() -> FakeRecognizer:
    """A recognizer whose text depends on every sample of a clip."""

    def respond(clip: Waveform) -> Hypothesis:
        return Hypothesis(f"{len(clip.samples)} {np.abs(clip.samples).sum(dtype=np.float64):.6f}")

    return FakeRecognizer(respond, max_clip_s=12.0)


def reachable_bytes(thing: object) -> int:
    """Bytes of all arrays that an object keeps alive."""
    seen, left, total = set[int](), [thing], 0
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, type | ModuleType | FunctionType):
            continue
        seen.add(id(item))
        total += item.nbytes if isinstance(item, np.ndarray) and item.base is None else 0
        left += [item.base] if isinstance(item, np.ndarray) else gc.get_referents(item)
    return total
