"""The data of the package: Waveform -> Request -> Hypothesis -> Segment -> Transcript, and the protocol Recognizer.

Times are seconds; they are computed from whole samples and rounded once, to milliseconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, replace
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from redline.errors import RedlineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from redline.formats.subtitle_options import SubtitleOptions

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside the package, in Hz."""

EditOp = Literal["keep", "replace", "insert", "delete"]
TaskName = Literal["transcribe", "translate"]


def listed(items: str | Iterable[str] | None) -> tuple[str, ...]:
    """The items of a list; a text is a list with commas, as on the command line, and None an empty one.

    Without this a text in place of a list would be taken letter by letter.
    """
    if isinstance(items, str):
        return tuple(part for each in items.split(",") if (part := each.strip()))
    return tuple(items or ())


class JsonRecord:
    """A dataclass whose fields are the keys of a JSON object."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; the keys are always all present."""
        return asdict(self, dict_factory=_with_lists)


class JsonRow(JsonRecord):
    """A `JsonRecord` for a row of a manifest, where empty texts, empty lists and None are left out."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_without_empty)


def _with_lists(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


def _without_empty(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in _with_lists(items).items() if value not in (None, "", [])}


_SEGMENT_KEYS = ("id", "start", "end", "text", "draft", "confidence", "speaker", "edits", "words", "accepted")
_TRANSCRIPT_KEYS = ("text", "language", "duration", "model", "task", "segments", "turns", "warnings")


@dataclass(frozen=True)
class Notice(JsonRecord):
    """Warning about a result: a `code` for programs, a `message` for people, and the seconds that it is about."""

    code: str
    message: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Waveform:
    """Mono float32 samples [N] at 16 kHz, the name of their source, and what went wrong in decoding them."""

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
class Edit(JsonRecord):
    """Edit operation on one draft token, or an insertion before draft position `at`.

    `draft` and `text` are decoded token text, with the leading space of a token that starts a word; `draft` is empty
    for an insertion, `text` for a deletion.
    """

    op: EditOp
    draft: str
    text: str
    at: int


@dataclass(frozen=True)
class Word(JsonRecord):
    """One word with its times in seconds."""

    start: float
    end: float
    text: str
    confidence: float | None = None
    speaker: str | None = None


def share(words: Sequence[str], start: float, end: float) -> list[Word]:
    """Words that share a span of time in proportion to their characters."""
    marks = list(accumulate(map(len, words), initial=0))
    times = [round(start + (end - start) * mark / max(1, marks[-1]), 3) for mark in marks]
    return [Word(*span, word) for span, word in zip(pairwise(times), words, strict=True)]


WordTimes = Callable[[], tuple[Word, ...]]
"""Forced alignment on demand: words with times from the start of their clip; none where the text cannot be aligned."""


@dataclass(frozen=True)
class Turn(JsonRecord):
    """Speaker turn: the text of one speaker between two changes of speaker."""

    speaker: str
    start: float
    end: float
    text: str


def joined_turns(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Turns in order, neighbours of one speaker as one."""
    groups = [(speaker, list(own)) for speaker, own in groupby(turns, key=lambda turn: turn.speaker)]
    return tuple(
        Turn(speaker, own[0].start, own[-1].end, " ".join(turn.text for turn in own)) for speaker, own in groups
    )


@dataclass(frozen=True)
class Overlap(JsonRecord):
    """Overlapped speech: another speaker talks at the same time, from `start` to `end` in seconds."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class SpeakerEmbedding:
    """Speaker embedding of one speaker of a clip: a unit vector, and the seconds of speech it was computed from."""

    speaker: str
    vector: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Hypothesis:
    """Recognition result of one clip: its text, and what the model can add to it (None or () where it cannot).

    `draft` is the CTC output before it was edited or verified, `language` is identified, `turns` are all of the text by
    speaker, `tagged` is the model's output with its tags, `accepted` the acceptance rate of speculative decoding (share
    of draft tokens that stand). `speaker_embeddings` are those of the turns; names hold for this clip alone. `overlaps`
    has each stretch of overlapped speech once for either of its speakers. `timing` aligns the words where they were not
    asked for, for subtitles.
    """

    text: str
    draft: str | None = None
    edits: tuple[Edit, ...] = ()
    confidence: float | None = None
    words: tuple[Word, ...] = ()
    warnings: tuple[Notice, ...] = ()
    language: str | None = None
    turns: tuple[Turn, ...] = ()
    tagged: str | None = None
    accepted: float | None = None
    speaker_embeddings: tuple[SpeakerEmbedding, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    timing: WordTimes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Task:
    """What to do with the speech: the verb, its languages (None: the model decides), and what else is wanted.

    `languages` are several of which one is spoken, where `language` is None: the model finds it among them.
    `words` are word timestamps, `speakers` diarization, `keywords` contextual biasing (names and terms to expect; a
    text is a list with commas), `prompt` is an instruction in place of the model's own, and `prefix` the transcript of
    the beginning of the clip, which the answer begins with.
    """

    name: TaskName = "transcribe"
    language: str | None = None
    target_language: str | None = None
    words: bool = False
    speakers: bool = False
    keywords: tuple[str, ...] = ()
    prompt: str | None = None
    prefix: str | None = None
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("keywords", "languages"):
            if (given := getattr(self, name)) is None or isinstance(given, Iterable):  # the recognizer refuses others
                object.__setattr__(self, name, listed(given))


@dataclass(frozen=True)
class Segment(JsonRecord):
    """One window of the recording, from `start` to `end` in seconds, with its result as in `Hypothesis`.

    The first segment of a window has all of its `tagged` output. Neither that nor `language` is in the JSON.
    """

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
    language: str | None = None
    tagged: str | None = None
    overlaps: tuple[Overlap, ...] = ()
    timing: WordTimes | None = field(default=None, compare=False, repr=False)

    def aligned_words(self) -> tuple[Word, ...]:
        """All words with their times in the recording, asked for or not; none where they cannot be aligned."""
        if self.words or self.timing is None:
            return self.words
        return tuple(
            replace(word, start=round(self.start + word.start, 3), end=round(self.start + word.end, 3))
            for word in self.timing()
        )

    def to_dict(self, all_edits: bool = False) -> dict[str, Any]:
        """A JSON-ready dictionary; edits that kept a token are left out without `all_edits`, and no `overlaps`."""
        edits = tuple(edit for edit in self.edits if all_edits or edit.op != "keep")
        values = JsonRecord.to_dict(replace(self, edits=edits, timing=None))
        return {key: values[key] for key in (*_SEGMENT_KEYS, *(["overlaps"] if self.overlaps else []))}


@dataclass(frozen=True)
class Transcript(JsonRecord):
    """The result for a whole recording: its text, segments, turns and warnings."""

    text: str
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    duration: float = 0.0
    model: str = ""
    task: TaskName = "transcribe"
    turns: tuple[Turn, ...] = ()
    warnings: tuple[Notice, ...] = ()

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
        """A JSON-ready dictionary of docs/transcript.schema.json; the keys are always all present.

        Draft tokens that were kept are among the edits only with `all_edits`: they are most of them.
        """
        values = JsonRecord.to_dict(replace(self, segments=()))
        values["segments"] = [segment.to_dict(all_edits) for segment in self.segments]
        return {key: values[key] for key in _TRANSCRIPT_KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Transcript:
        """The transcript that `to_dict` was called on, but for `Segment.timing`; raises `DataError` for other data."""
        from redline.formats.json import transcript_from_dict  # a type may not import upwards at load

        return transcript_from_dict(values)

    def save(
        self,
        path: str | Path,
        *,
        all_edits: bool = False,
        show_edits: bool = False,
        subtitles: SubtitleOptions | str | None = None,
        speaker_names: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the transcript in the format of the suffix.

        With `all_edits` json lists the tokens that were kept, too; with `show_edits` docx and md show the edits of the
        draft as tracked changes. `subtitles` is the style of .srt and .vtt, or its name: netflix, bbc, youtube.
        `speaker_names` maps labels to names, {"1": "Ana"}. Subtitles that could not be aligned and labels that nobody
        has give a warning.
        """
        from redline import formats

        named = formats.rename_speakers(self, speaker_names or {})
        saved = formats.save_transcript(named, path, all_edits=all_edits, show_edits=show_edits, subtitles=subtitles)
        notices = formats.subtitle_notices(self, [saved.suffix.removeprefix(".").lower()])
        for notice in (*named.warnings[len(self.warnings) :], *notices):
            warnings.warn(notice.message, stacklevel=2)
        return saved

    @staticmethod
    def load(path: str | Path) -> Transcript:
        """Read a saved transcript: all of it from .json, what the format holds from .srt .vtt .tsv .ctm .rttm .audacity
        .textgrid."""
        from redline import formats

        return formats.load_transcript(path)


@dataclass(frozen=True)
class Request:
    """One clip of speech and what is wanted of it; `id` is the caller's number."""

    clip: Waveform
    task: Task = Task()
    id: int = 0


@dataclass(frozen=True)
class ClipLimits:
    """The longest clip in seconds that a recognizer takes, and whether each clip needs the one before it.

    With `needs_previous` the audio of its predecessor stands in front of a clip, whose task has the tagged answer to
    that as its `prefix`, so that speaker numbers go on.
    """

    max_s: float
    needs_previous: bool = False


@runtime_checkable
class Recognizer(Protocol):
    """Speech recognizer of single clips, batched: requests in, hypotheses out, in order."""

    name: str
    languages: tuple[str, ...]

    def limits(self, task: Task) -> ClipLimits:
        """How long a clip may be for this task; raises `UnsupportedTaskError` for what the model cannot do."""
        ...

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """One answer per request, in order; tasks, languages and keywords may differ from request to request.

        An answer never depends on the other requests; a request that fails gives its own error in its place.
        """
        ...
