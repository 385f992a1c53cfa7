"""OpenAI's own client against a running server, and recordings for it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from openai import AsyncOpenAI, OpenAI

from redline.errors import RedlineError
from redline.testing import FakeRecognizer
from redline.types import Hypothesis, Request, Turn, Word

from .conftest import RunningServer


def openai_of(server: RunningServer, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30.0, **options})


def async_openai_of(server: RunningServer) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30.0)


def data_url(recording: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(recording).decode()


class Talk(FakeRecognizer):
    """Hears `uh, two <number of the clip>` of two speakers in turn, with times and confidences where asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"languages": ("en", "de"), "max_clip_s": 2.5, **options})
        self.asked: list[Request] = []

    def answer(self, request: Request) -> Hypothesis | RedlineError:
        self.asked.append(request)
        number, end = len(self.asked), request.clip.duration
        text, task = f"uh, two {number}", request.task
        turns = (Turn(str(number % 2 + 1), 0.0, end, text),) if task.speakers else ()
        times = np.linspace(0.0, end, 4).round(3).tolist()
        words = tuple(
            Word(start, stop, word, confidence)
            for start, stop, word, confidence in zip(times, times[1:], text.split(), (0.5, 1.0, 0.0), strict=False)
        )
        words = words if task.words or task.speakers else ()
        language = task.target_language or task.language or (*task.languages, "de")[0]
        return Hypothesis(text, "uh two", confidence=0.8, words=words, turns=turns, language=language)
