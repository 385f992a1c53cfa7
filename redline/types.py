"""The nouns of the package: Waveform -> Hypothesis -> Transcript, and the protocol Recognizer.

Times are seconds at this surface; they are computed from whole samples and rounded once, to milliseconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from redline.errors import RedlineError

SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the package."""

EditOp = Literal["keep", "replace", "insert", "delete"]


def listed(items: str | Iterable[str] | None) -> tuple[str, ...]:
    """The items of a list; a text is a list with commas, as on the command line, and None an empty one.

    Without this a text in place of a list would be taken letter by letter.
    """
    if isinstance(items, str):
        return tuple(part for each in items.split(",") if (part := each.strip()))
    return tuple(items or ())


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


WordTimes = Callable[[], tuple[Word, ...]]
"""Words of a text with their times from the start of its clip, worked out when called; none where nobody said them."""


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
class SpeakerEmbedding:
    """How one speaker of a clip sounds: a unit vector, and the seconds that were heard."""

    speaker: str
    vector: tuple[float, ...]
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
    speaker_embeddings: tuple[SpeakerEmbedding, ...] = ()
    """How the speakers of the turns sound, where they were told by that; names hold for this clip alone."""
    timing: WordTimes | None = field(default=None, compare=False, repr=False)
    """Where no words were asked for: when they are said, for subtitles."""


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
    """Names and terms to expect; a text is a list with commas."""
    prompt: str | None = None
    """An instruction in place of the model's own."""
    prefix: str | None = None
    """What the answer begins with: the beginning of the clip, already written down."""

    def __post_init__(self) -> None:
        if self.keywords is None or isinstance(self.keywords, Iterable):  # what is none is refused by whoever is asked
            object.__setattr__(self, "keywords", listed(self.keywords))


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
    language: str | None = None
    """What the recognizer found to be spoken; None where it does not tell."""
    tagged: str | None = None
    """The answer as the model wrote it, with its tags, in the first segment of a window; None where it writes none."""
    timing: WordTimes | None = field(default=None, compare=False, repr=False)
    """Where no words were asked for: when they are said, counted from `start`."""

    def aligned_words(self) -> tuple[Word, ...]:
        """All words with their times in the recording, asked for or not; none where they cannot be told.

        Aligning them takes a few hundredths of the time that recognizing them took. Not in JSON unless asked for.
        """
        if self.words or self.timing is None:
            return self.words
        return tuple(
            replace(word, start=round(self.start + word.start, 3), end=round(self.start + word.end, 3))
            for word in self.timing()
        )

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
        """Write the transcript; the suffix (.txt .srt .vtt .json) names the format, `all_edits` is as in `to_dict`.

        Subtitles whose times could not be aligned with the sound are told in a Python warning.
        """
        from redline import formats  # a type may not import upwards when the package is loaded

        saved = formats.save(self, path, all_edits=all_edits)
        for notice in formats.subtitle_notices(self, [saved.suffix.removeprefix(".").lower()]):
            warnings.warn(notice.message, stacklevel=2)
        return saved


@dataclass(frozen=True)
class Request:
    """One clip of speech and what is wanted of it; `id` is the caller's number."""

    clip: Waveform
    task: Task = Task()
    id: int = 0


@dataclass(frozen=True)
class ClipLimits:
    """What a recognizer takes at once: the longest clip in seconds, and whether each clip needs the one before it.

    With `needs_previous` a clip is recognized after its predecessor, whose audio stands in front of it and whose tagged
    answer is the task's `prefix`: numbers of speakers then go on.
    """

    max_s: float
    needs_previous: bool = False


@runtime_checkable
class Recognizer(Protocol):
    """Anything that turns clips of seconds into hypotheses, in order."""

    name: str
    languages: tuple[str, ...]

    def limits(self, task: Task) -> ClipLimits:
        """How long a clip may be for this task; raises `UnsupportedTaskError` for what the model cannot do."""
        ...

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """One answer per request, in order; tasks, languages and keywords may differ from request to request.

        An answer never depends on the other requests, and a request that fails gives its own error in its place.
        """
        ...
