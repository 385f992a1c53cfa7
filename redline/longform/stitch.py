"""Hypotheses of windows in time order -> the segments, notices and transcript of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from redline.diarize import link
from redline.diarize.diarizer import Diarizer
from redline.errors import RecognitionError, RedlineError, UnsupportedTaskError
from redline.types import (
    Edit,
    Hypothesis,
    Notice,
    Overlap,
    Segment,
    Span,
    SpeakerEmbedding,
    Task,
    Transcript,
    Turn,
    Word,
    WordTimes,
    joined_turns,
)

_SAME = ("draft", "edits", "confidence", "words", "accepted", "language", "tagged", "timing")  # in both


class Stitcher:
    """The segments and notices of the windows so far; speakers keep their names from window to window."""

    def __init__(self, model: str, task: Task, diarizer: Diarizer | None = None) -> None:
        """With a `diarizer` words get speakers: as known so far, and in `transcript` of the whole recording."""
        self._model, self._task, self.diarizer = model, task, diarizer
        self._texts: list[tuple[Span, Hypothesis]] = []  # of windows whose speakers are not known before the end
        self.segments: list[Segment] = []
        self.notices: list[Notice] = []
        self.windows = self._failures = 0
        self._error: RedlineError | None = None
        self._speakers: tuple[SpeakerEmbedding, ...] = ()
        self._languages: Counter[str] = Counter()  # samples in which each was spoken

    def add(self, span: Span, outcome: Hypothesis | RedlineError) -> None:
        """The next window: its segments get times of the recording; a failed window becomes a notice."""
        self.windows += 1
        if isinstance(outcome, RedlineError):
            self._failures += 1
            if self._error is None or isinstance(outcome, UnsupportedTaskError):
                self._error = outcome
        else:
            if self.diarizer is not None:
                outcome = self.diarizer.add(self.windows - 1, span.start_s, outcome)
                self._texts.append((span, outcome))
            elif outcome.speaker_embeddings:
                self._speakers, outcome = link.link(self._speakers, outcome)
            if outcome.language is not None and outcome.text.strip():
                self._languages[outcome.language] += span.end - span.start
            self.segments += segments_of(span, outcome, len(self.segments))
        self.notices += notices_of(span, outcome)

    def transcript(self, source: str, duration_s: float, warnings: Sequence[Notice]) -> Transcript:
        """Texts joined by single spaces; `warnings` come before those of the windows, `source` is for messages.

        Raises `RecognitionError` when every window failed, and `UnsupportedTaskError` when one was refused.
        """
        if isinstance(self._error, UnsupportedTaskError):
            raise self._error
        if self._error is not None and self._failures == self.windows:
            failed = f"the recognizer failed on all parts ({self.windows}); first error: {described(self._error)}"
            raise RecognitionError(f"{source}: {failed}") from self._error
        of_speakers: tuple[Notice, ...] = ()
        if self.diarizer is not None:
            finished, of_speakers = self.diarizer.finish(), self.diarizer.notices
            self.segments = []
            for span, outcome in self._texts:
                self.segments += segments_of(span, finished.get(span.start_s, outcome), len(self.segments))
        task, spoken = self._task, next((language for language, _ in self._languages.most_common(1)), None)
        turns = (Turn(segment.speaker or "", segment.start, segment.end, segment.text) for segment in self.segments)
        return Transcript(
            text=" ".join(segment.text for segment in self.segments),
            segments=tuple(self.segments),
            language=(task.target_language if task.name == "translate" else None) or task.language or spoken,
            duration=duration_s,
            model=self._model,
            task=task.name,
            turns=tuple(turn for turn in joined_turns(turns) if turn.speaker),  # the segments of nobody are none
            warnings=(*warnings, *self.notices, *of_speakers),
        )


def segments_of(span: Span, hypothesis: Hypothesis, id: int) -> list[Segment]:
    """The segments of a window from number `id` on, in times of the recording: one, or one per turn where speakers
    were asked for; none when it has no text."""
    hypothesis = shifted(hypothesis, span.start_s)
    text = " ".join(hypothesis.text.split())
    if not text:
        return []
    same = {name: getattr(hypothesis, name) for name in _SAME}
    whole = Segment(id, span.start_s, span.end_s, text, **same)
    segments, first = [], 0
    counts = [len(turn.text.split()) for turn in hypothesis.turns]
    drafts = drafts_of(hypothesis, counts)
    for number, (turn, (draft, edits)) in enumerate(zip(hypothesis.turns, drafts, strict=True)):
        last = first + counts[number]
        segments.append(
            replace(
                whole,
                id=id + number,
                start=turn.start,
                end=turn.end,
                text=turn.text,
                draft=draft,
                edits=edits,
                speaker=turn.speaker or None,
                words=hypothesis.words[first:last],
                overlaps=_overlaps_with(turn, hypothesis.overlaps),
                tagged=None if number else hypothesis.tagged,
                timing=None,  # a hypothesis with turns has their words with times
            )
        )
        first = last
    return segments or [whole]


def _overlaps_with(turn: Turn, overlaps: Sequence[Overlap]) -> tuple[Overlap, ...]:
    """Where others speak during a turn."""
    inside = (
        replace(each, start=max(each.start, turn.start), end=min(each.end, turn.end))
        for each in overlaps
        if each.speaker != turn.speaker
    )
    return tuple(each for each in inside if each.start < each.end)


def drafts_of(hypothesis: Hypothesis | Segment, counts: Sequence[int]) -> list[tuple[str | None, tuple[Edit, ...]]]:
    """The draft and the edits of each turn, of which the turns' so many words came; the first turn has all of what
    cannot be shared out."""
    draft, edits = hypothesis.draft, hypothesis.edits
    rest: list[tuple[str | None, tuple[Edit, ...]]] = [(None if draft is None else "", ())] * (len(counts) - 1)
    if not edits:
        words = (draft or "").split()
        if draft is None or len(words) != sum(counts):
            return [(draft, ()), *rest] if counts else []
        ends = [0, *accumulate(counts)]
        return [(" ".join(words[first:last]), ()) for first, last in pairwise(ends)]
    if "".join(edit.text for edit in edits).split() != hypothesis.text.split():
        return [(draft, edits), *rest] if counts else []
    parts: list[list[Edit]] = [[] for _ in counts]
    turn, words_left, base = 0, counts[0] if counts else 0, 0
    seen = ""  # of the text, before this edit
    for edit in edits:
        begun = len((seen + edit.text).split()) - len(seen.split())
        seen += edit.text
        while begun > words_left and turn + 1 < len(parts):
            begun -= words_left
            turn, words_left = turn + 1, counts[turn + 1]
            base = edit.at
        words_left -= begun
        if parts:
            parts[turn].append(replace(edit, at=edit.at - base))
    return [("".join(edit.draft for edit in part).strip(), tuple(part)) for part in parts]


def shifted(hypothesis: Hypothesis, offset_s: float) -> Hypothesis:
    """The hypothesis with the times of its words and turns moved by `offset_s`, none before 0."""

    def moved(time: float) -> float:
        return max(0.0, round(time + offset_s, 3))

    return replace(
        hypothesis,
        words=tuple(replace(word, start=moved(word.start), end=moved(word.end)) for word in hypothesis.words),
        turns=tuple(replace(turn, start=moved(turn.start), end=moved(turn.end)) for turn in hypothesis.turns),
        overlaps=tuple(replace(each, start=moved(each.start), end=moved(each.end)) for each in hypothesis.overlaps),
    )


def begun(hypothesis: Hypothesis, start_s: float) -> Hypothesis:
    """The hypothesis of what begins at `start_s` of its clip, in times from there on, none before 0."""
    timing = None if hypothesis.timing is None else LaterTimes(hypothesis.timing, start_s)
    return replace(shifted(hypothesis, -start_s), timing=timing)


@dataclass(frozen=True)
class LaterTimes:
    """`WordTimes` from `start_s` of the clip on, none before 0."""

    timing: WordTimes
    start_s: float

    def __call__(self) -> tuple[Word, ...]:
        return shifted(Hypothesis("", words=self.timing()), -self.start_s).words


def ended(hypothesis: Hypothesis, end_s: float) -> Hypothesis:
    """The hypothesis with no word and no turn behind `end_s`: there was nothing but silence."""
    most = round(end_s, 3)
    return replace(
        hypothesis,
        words=tuple(replace(word, start=min(most, word.start), end=min(most, word.end)) for word in hypothesis.words),
        turns=tuple(replace(turn, start=min(most, turn.start), end=min(most, turn.end)) for turn in hypothesis.turns),
    )


def notices_of(span: Span, outcome: Hypothesis | RedlineError) -> list[Notice]:
    """What the user should know about a window; times are of the recording."""
    start, end = span.start_s, span.end_s
    if isinstance(outcome, RedlineError):
        return [Notice("failed", f"this part could not be transcribed: {described(outcome)}", start, end)]
    notices = [
        replace(
            notice,
            start=start if notice.start is None else round(start + notice.start, 3),
            end=end if notice.end is None else round(start + notice.end, 3),
        )
        for notice in outcome.warnings
    ]
    if not outcome.text.strip():
        draft = (outcome.draft or "").strip()
        draft = f"; the draft was {draft!r}" if draft else ""
        notices.append(Notice("empty-text", f"speech was found here but no text came of it{draft}", start, end))
    return notices


def described(error: Exception) -> str:
    """An error in one line, never empty."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
