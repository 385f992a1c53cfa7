"""Recordings and recognizers that tests of the server share."""

from __future__ import annotations

import io
import threading
import time
import wave
from collections.abc import Callable, Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from redline.errors import RedlineError
from redline.testing import FakeRecognizer, tone
from redline.types import Hypothesis, Request, Waveform

ROUTE = "/v1/audio/transcriptions"


def pcm(*waves: Waveform) -> NDArray[np.int16]:
    """Samples [N, channels] of waveforms of one length."""
    return np.stack([(wave.samples * 32767).astype(np.int16) for wave in waves], axis=1)


def wav_of(samples: NDArray[np.int16]) -> bytes:
    """A file of samples [N, channels] at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def wav(seconds: float) -> bytes:
    """A recording of a tone."""
    return wav_of(pcm(tone(seconds)))


class Held(FakeRecognizer):
    """Answers when it is let go."""

    def __init__(self, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.begun, self.go_on = threading.Event(), threading.Event()

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().recognize(requests)


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a function gives true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def finished(client: httpx.Client, id: str, seconds: float = 60.0) -> dict[str, object]:
    """A job, once it is over."""
    job: dict[str, object] = {}

    def is_over() -> bool:
        job.update(client.get(f"/v1/jobs/{id}").json())
        return job["state"] not in ("queued", "running")

    until(is_over, seconds)
    return job
