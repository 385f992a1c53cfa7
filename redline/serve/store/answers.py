"""The answers to a job's windows, kept in the database: what was recognized before a kill is not recognized again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from threading import Lock
from typing import Any

from redline.formats.json import value_of
from redline.types import Hypothesis, Span


class JobAnswers:
    """The `AnswerStore` of one job: what was kept, and what is new since the last heartbeat."""

    def __init__(self, rows: Iterable[Any], model: str) -> None:
        """`rows` are those of the answers' table; answers of another `model` are not taken."""
        self._known = {row.window_id: row for row in rows if row.model == model}
        self._model = model
        self._new: list[dict[str, Any]] = []
        self._lock = Lock()  # answers come in the scheduler's thread

    def known(self, id: int, window: Span) -> Hypothesis | None:
        row = self._known.get(id)
        if row is None or (row.start, row.end) != (window.start, window.end):
            return None
        answer: Hypothesis = value_of(Hypothesis, json.loads(row.answer), "answer")
        return answer

    def keep(self, id: int, window: Span, answer: Hypothesis) -> None:
        written = json.dumps(asdict(replace(answer, timing=None)), ensure_ascii=False)
        place = {"window_id": id, "model": self._model, "start": window.start, "end": window.end}
        with self._lock:
            self._new.append({**place, "answer": written})

    @contextmanager
    def taken(self) -> Iterator[list[dict[str, Any]]]:
        """The rows that are not in the database yet; they still are not where writing them raises."""
        with self._lock:
            new, self._new = self._new, []
        try:
            yield new
        except BaseException:
            with self._lock:
                self._new = new + self._new
            raise
