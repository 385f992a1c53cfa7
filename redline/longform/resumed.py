"""A session that goes on where a killed process left its recording: windows that were answered are not asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redline.errors import RedlineError
from redline.longform.session import Session
from redline.types import Hypothesis, Notice, Request, Span


class AnswerStore(Protocol):
    """The answers to the windows of one recording, kept where they outlive the process."""

    def known(self, id: int, window: Span) -> Hypothesis | None:
        """The answer to a window that was kept; None where there is none, or the window was another one."""
        ...

    def keep(self, id: int, window: Span, answer: Hypothesis) -> None:
        """Keep the answer to a window."""
        ...


class ResumedSession(Session):
    """The sound is read and cut again, which is cheap and gives the same windows; what was recognized stays.

    The transcript is that of an undisturbed session. Windows that failed are not kept: they are tried again.
    """

    def __init__(self, *arguments: Any, answers: AnswerStore, **options: Any) -> None:
        """Everything else is as for `Session`."""
        super().__init__(*arguments, **options)
        self._store = answers
        self._unanswered: list[Request] = []

    def feed(self, samples: NDArray[np.float32]) -> None:
        super().feed(samples)
        self._replay()

    def close(self, warnings: Sequence[Notice] = ()) -> None:
        super().close(warnings)
        self._replay()

    def ready(self) -> list[Request]:
        requests, self._unanswered = self._unanswered, []
        return requests

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        super().put(id, outcome)
        if isinstance(outcome, Hypothesis):
            self._store.keep(id, self.windows[id], outcome)
        self._replay()

    def _replay(self) -> None:
        """Answer what can be answered; an answer may make the next window ready."""
        while requests := super().ready():
            for request in requests:
                known = self._store.known(request.id, self.windows[request.id])
                if known is None:
                    self._unanswered.append(request)
                else:
                    super().put(request.id, known)
