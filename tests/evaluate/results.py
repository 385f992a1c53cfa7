"""Results of a run, made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from redline.errors import NotAudioError
from redline.evaluate.metrics.alignment import Errors, align_words, count_errors, total
from redline.evaluate.result import Result
from redline.manifest import Utterance
from redline.testing import tone
from redline.types import Task, Turn, Waveform, Word

SPEAKERS = (
    Turn("ann", 0.0, 1.0, "Good morning."),
    Turn("bob", 1.0, 2.0, "Good evening!"),
    Turn("ann", 2.0, 3.0, "Well"),
)
UTTERANCE_FIELDS = ("source", "speaker", "keywords", "turns", "words")


def utterance(text: str, id: str = "u", language: str = "en", **fields: Any) -> Utterance:
    return Utterance(id, Path(f"{id}.wav"), text, 1.0, language, **fields)


def result(reference: str, edited: str, draft: str | None = None, **fields: Any) -> Result:
    """A result; the fields of an utterance are its reference's, `answer_words` and `answer_turns` the answer's own."""
    own = {"source": "s", **{key: fields.pop(key) for key in UTTERANCE_FIELDS if key in fields}}
    answer = {key: fields.pop(f"answer_{key}") for key in ("words", "turns") if f"answer_{key}" in fields}
    row = utterance(reference, fields.pop("id", "u"), fields.pop("language", "en"), **own)
    return Result(row, edited=edited, draft=draft, duration=fields.pop("duration", 1.0), **answer, **fields)


def prompted(*keywords: str) -> Task:
    return Task(language="en", keywords=keywords)


def timed(text: str, shift: float = 0.0, step: float = 0.5) -> tuple[Word, ...]:
    """Words of equal length, one after the other."""
    return tuple(
        Word(round(n * step + shift, 3), round((n + 1) * step + shift, 3), word) for n, word in enumerate(text.split())
    )


def best_pairing(
    reference: Mapping[str, str], hypothesis: Mapping[str, str], reference_sort: object, hypothesis_sort: object
) -> SimpleNamespace:
    """What meeteval counts, by trying every pairing of speakers."""
    if max(len(reference), len(hypothesis)) > 6:
        raise RuntimeError("Are you sure?\nso many speakers")
    size = max(len(reference), len(hypothesis))
    left = [*reference.values(), *[""] * (size - len(reference))]
    right = [*hypothesis.values(), *[""] * (size - len(hypothesis))]
    tries = [
        total(count_errors(align_words(*pair)) for pair in zip(left, order, strict=True))
        for order in itertools.permutations(right)
    ]
    best = min(tries, key=lambda errors: errors.count, default=Errors())
    return SimpleNamespace(
        errors=best.count,
        insertions=best.insertions,
        deletions=best.deletions,
        substitutions=best.substitutions,
        length=best.length,
        missed_speaker=max(0, len(reference) - len(hypothesis)),
        falarm_speaker=max(0, len(hypothesis) - len(reference)),
    )


def load_tone(path: Path) -> Waveform:
    """A tone as long as the number in the file's name."""
    if path.stem == "bad":
        raise NotAudioError(f"{path.name}: not audio")
    return tone(float(path.stem))
