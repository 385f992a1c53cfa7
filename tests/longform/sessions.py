"""A session, fed and answered at once."""

from __future__ import annotations

import random
from collections.abc import Callable

from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer
from redline.types import ClipLimits, Task, Transcript
from tests.longform.conftest import Samples

Talk = Callable[..., Samples]
LIMITS = ClipLimits(12.0)
ALL = SessionOptions(vad=None)


def answer_all(session: Session, recognizer: FakeRecognizer, shuffled: random.Random | None = None) -> None:
    """Answer what is ready, in time order or in another."""
    while requests := session.ready():
        if shuffled is not None:
            shuffled.shuffle(requests)
        for request in requests:
            session.put(request.id, recognizer.answer(request))


def transcript(
    samples: Samples,
    recognizer: FakeRecognizer,
    task: Task = Task(),  # noqa: B008
    options: SessionOptions = SessionOptions(),  # noqa: B008
    limits: ClipLimits = LIMITS,
) -> Transcript:
    session = Session(limits, task, options, model="fake")
    session.feed(samples)
    session.close()
    answer_all(session, recognizer)
    return session.finish()
