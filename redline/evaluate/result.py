"""The hypothesis of a model for an utterance, beside its reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from redline.evaluate.metrics.alignment import AlignedPair, Errors, align_words, count_errors
from redline.manifest import Utterance
from redline.normalize import normalised
from redline.types import JsonRecord, Notice, Task, Turn, Word

DEFAULT_LANGUAGE = "en"  # of an utterance that names none
UNNAMED = "unnamed"  # source of an utterance that names none
SYNTHETIC = "synthetic"  # source of speech made from text: its scores are never mixed with those of human voices

_JSON_KEYS = (
    *("id", "audio", "start", "source", "speaker", "reference", "draft", "edited"),
    *("confidence", "unread", "prompted", "tagged", "failure", "warnings"),
)


@dataclass(frozen=True)
class Result(JsonRecord):
    """The answer of a model to one utterance, or the reason why there is none."""

    utterance: Utterance
    task: Task = Task()
    edited: str = ""
    draft: str | None = None  # None for a model that writes none
    duration: float = 0.0
    confidence: float | None = None
    words: tuple[Word, ...] = ()  # where times are known; seconds from the start of the utterance
    turns: tuple[Turn, ...] = ()  # where speakers are named
    language: str | None = None  # where it is identified
    unread: tuple[int, int] = (0, 0)  # segments whose draft is the text unseen by a language model, of how many
    tagged: str | None = None  # the answer as the model wrote it, where it writes tags
    warnings: tuple[Notice, ...] = ()
    failure: str | None = None

    @property
    def source(self) -> str:
        return self.utterance.source or UNNAMED

    @property
    def spoken_language(self) -> str:
        return self.utterance.language or DEFAULT_LANGUAGE

    @property
    def distractors(self) -> tuple[str, ...]:
        """Keywords of the prompt that are not the utterance's own."""
        return tuple(keyword for keyword in self.task.keywords if keyword not in self.utterance.keywords)

    @property
    def key(self) -> tuple[str, Path, float]:
        """What tells it from the other utterances of a data set."""
        return self.utterance.id, self.utterance.audio, self.utterance.start

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the reference and what was recognized."""
        row = self.utterance
        values = asdict(row) | JsonRecord.to_dict(self) | {"audio": str(row.audio), "source": self.source}
        values |= {"reference": row.text, "prompted": list(self.task.keywords)}
        return {key: values[key] for key in _JSON_KEYS} | ({} if self.failure is None else {"edited": None})

    @cached_property
    def normalised(self) -> dict[str, str]:
        """Reference, edited text and draft (empty without one) as they are compared."""
        texts = {"reference": self.utterance.text, "edited": self.edited, "draft": self.draft or ""}
        return {name: normalised(text, self.spoken_language) for name, text in texts.items()}

    @cached_property
    def pairs(self) -> list[AlignedPair]:
        """The edited text aligned with the reference."""
        return align_words(self.normalised["reference"], self.normalised["edited"])

    @cached_property
    def draft_pairs(self) -> list[AlignedPair] | None:
        """The draft aligned with the reference."""
        return None if self.draft is None else align_words(self.normalised["reference"], self.normalised["draft"])

    @cached_property
    def errors(self) -> Errors:
        return count_errors(self.pairs)
