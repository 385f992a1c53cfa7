"""The nouns of the package: Waveform -> Hypothesis -> Transcript, and the protocol Recognizer.

Times are seconds at this surface; they are computed from whole samples and rounded once, to milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the package."""

EditOp = Literal["keep", "replace", "insert", "delete"]


@dataclass(frozen=True)
class Notice:
    """Something the user should know about a result: a `code` for programs, a `message` for people."""

    code: str
    message: str
    start: float | None = None
    end: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Waveform:
    """Mono float32 samples [N] at 16 kHz, where they came from, and what went wrong on the way."""

    samples: NDArray[np.float32]
    source: str = "<array>"
    warnings: tuple[Notice, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds, to the millisecond."""
        return round(len(self.samples) / SAMPLE_RATE, 3)

    def part(self, span: Span) -> Waveform:
        """The samples of one span, sharing memory with the whole."""
        return Waveform(self.samples[span.start : span.end], self.source)


@dataclass(frozen=True)
class Span:
    """A half-open range of samples: `start` <= n < `end`."""

    start: int
    end: int

    @property
    def start_s(self) -> float:
        return round(self.start / SAMPLE_RATE, 3)

    @property
    def end_s(self) -> float:
        return round(self.end / SAMPLE_RATE, 3)


@dataclass(frozen=True)
class Edit:
    """What the editor did with one draft token, or what it put before draft position `at`.

    `draft` and `text` are decoded token text, with the leading space of a token that starts a word;
    `draft` is empty for an insertion, `text` for a deletion.
    """

    op: EditOp
    draft: str
    text: str
    at: int

    def to_dict(self) -> dict[str, Any]:
        return {"op": self.op, "draft": self.draft, "text": self.text, "at": self.at}


@dataclass(frozen=True)
class Word:
    """One word with its times in seconds."""

    start: float
    end: float
    text: str
    confidence: float | None = None
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "confidence": self.confidence,
            "speaker": self.speaker,
        }


@dataclass(frozen=True)
class Turn:
    """What one speaker said without a break."""

    speaker: str
    start: float
    end: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {"speaker": self.speaker, "start": self.start, "end": self.end, "text": self.text}


@dataclass(frozen=True)
class Voice:
    """How one speaker of a clip sounds: a unit vector, and the seconds that were heard."""

    speaker: str
    direction: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Hypothesis:
    """What a recognizer heard in one clip."""

    text: str
    draft: str | None = None
    edits: tuple[Edit, ...] = ()
    confidence: float | None = None
    words: tuple[Word, ...] = ()
    warnings: tuple[Notice, ...] = ()
    language: str | None = None
    """What the recognizer found to be spoken; None where it does not tell."""
    turns: tuple[Turn, ...] = ()
    """All of the text by speaker, where speakers were asked for."""
    tagged: str | None = None
    """The answer as the model wrote it, with its tags; None where it writes none."""
    accepted: float | None = None
    """Share of the draft's tokens that the language model let stand; None where no draft was verified."""
    voices: tuple[Voice, ...] = ()
    """How the speakers of the turns sound, where they were told by that; names hold for this clip alone."""


@dataclass(frozen=True)
class Task:
    """What to do with the speech: the verb and its languages (None: the model decides), and what else is wanted."""

    name: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    target_language: str | None = None
    words: bool = False
    """Tell when each word is said."""
    speakers: bool = False
    """Tell who speaks."""
    keywords: tuple[str, ...] = ()
    """Names and terms to expect."""
    prompt: str | None = None
    """An instruction in place of the model's own."""
    prefix: str | None = None
    """What the answer begins with: the beginning of the clip, already written down."""


@dataclass(frozen=True)
class Segment:
    """One span of the recording and what was heard in it; `start` and `end` in seconds."""

    id: int
    start: float
    end: float
    text: str
    draft: str | None = None
    edits: tuple[Edit, ...] = ()
    confidence: float | None = None
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    accepted: float | None = None
    """Share of the draft's tokens that the language model let stand; None where no draft was verified."""

    def to_dict(self, all_edits: bool = False) -> dict[str, Any]:
        edits = [edit for edit in self.edits if all_edits or edit.op != "keep"]
        return {
            "id": self.id,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "draft": self.draft,
            "confidence": self.confidence,
            "speaker": self.speaker,
            "edits": [edit.to_dict() for edit in edits],
            "words": [word.to_dict() for word in self.words],
            "accepted": self.accepted,
        }


@dataclass(frozen=True)
class Transcript:
    """The text of a whole recording, with its segments and everything worth a warning."""

    text: str
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    duration: float = 0.0
    model: str = ""
    task: str = "transcribe"
    turns: tuple[Turn, ...] = ()
    warnings: tuple[Notice, ...] = field(default=())

    @property
    def words(self) -> tuple[Word, ...]:
        """All words with their times, where they were asked for."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def draft(self) -> str | None:
        """The draft of the whole recording, or None where the model writes none."""
        drafts = [segment.draft for segment in self.segments if segment.draft is not None]
        return " ".join(part for part in drafts if part) if drafts else None

    def to_dict(self, all_edits: bool = False) -> dict[str, Any]:
        """A JSON-ready dictionary; the keys are always all present.

        Draft tokens that the editor kept are among the edits only with `all_edits`: they are most of them.
        """
        return {
            "text": self.text,
            "language": self.language,
            "duration": self.duration,
            "model": self.model,
            "task": self.task,
            "segments": [segment.to_dict(all_edits) for segment in self.segments],
            "turns": [turn.to_dict() for turn in self.turns],
            "warnings": [notice.to_dict() for notice in self.warnings],
        }

    def save(self, path: str | Path, *, all_edits: bool = False) -> Path:
        """Write the transcript; the suffix (.txt .srt .vtt .json) names the format, `all_edits` is as in `to_dict`."""
        from redline import formats  # a type may not import upwards when the package is loaded

        return formats.save(self, path, all_edits=all_edits)


@runtime_checkable
class Recognizer(Protocol):
    """Anything that turns clips of seconds into hypotheses, in order."""

    name: str
    languages: tuple[str, ...]

    def window_s(self, task: Task) -> float:
        """The longest clip that it takes, in seconds."""
        ...

    def carries(self, task: Task) -> bool:
        """Whether a clip needs the one before it, and its answer as the task's `prefix`: numbers of speakers do."""
        ...

    def recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        """One hypothesis per clip; a clip's answer never depends on its neighbours."""
        ...
