"""What was heard in each window -> one Transcript of the recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from redline.diarize import link
from redline.errors import RecognitionError, RedlineError
from redline.types import Hypothesis, Notice, Segment, Span, SpeakerEmbedding, Task, Transcript, Turn, Waveform


@dataclass(frozen=True)
class WindowResult:
    """One window and the hypothesis or the error that came of it."""

    span: Span
    outcome: Hypothesis | RedlineError


def stitch(
    wave: Waveform, heard: Sequence[WindowResult], *, model: str, task: Task, notices: Sequence[Notice] = ()
) -> Transcript:
    """Windows of one recording -> its transcript: segments in time order, texts joined by single spaces.

    A window that failed becomes a warning with its start and end. Raises `RecognitionError` when all failed.
    """
    heard = same_speakers(sorted(heard, key=lambda one: one.span.start))
    failures = [one.outcome for one in heard if isinstance(one.outcome, Exception)]
    if failures and len(failures) == len(heard):
        raise RecognitionError(
            f"{wave.source}: the recognizer failed on all parts ({len(heard)}); first error: {describe(failures[0])}"
        ) from failures[0]
    segments: list[Segment] = []
    warnings = [*wave.warnings, *notices]
    for one in heard:
        warnings += notices_of(one)
        segments += segments_of(one, len(segments))
    return Transcript(
        text=" ".join(segment.text for segment in segments),
        segments=tuple(segments),
        language=(task.target_language if task.name == "translate" else None) or task.language or _spoken(heard),
        duration=wave.duration,
        model=model,
        task=task.name,
        turns=tuple(turns_of(segments)),
        warnings=tuple(warnings),
    )


def same_speakers(heard: Sequence[WindowResult]) -> list[WindowResult]:
    """Windows in order of time, in which a voice that was heard before has the name it had there."""
    known: tuple[SpeakerEmbedding, ...] = ()
    named = []
    for one in heard:
        known, one = recalled(known, one)
        named.append(one)
    return named


def recalled(
    known: tuple[SpeakerEmbedding, ...], heard: WindowResult
) -> tuple[tuple[SpeakerEmbedding, ...], WindowResult]:
    """A window with the names of the voices known so far, and what is known after it."""
    if isinstance(heard.outcome, Exception) or not heard.outcome.voices:
        return known, heard
    known, outcome = link.link(known, heard.outcome)
    return known, replace(heard, outcome=outcome)


def _spoken(heard: Sequence[WindowResult]) -> str | None:
    """The language that was found in most of the time; None where the recognizer tells none."""
    samples: Counter[str] = Counter()
    for one in heard:
        if isinstance(one.outcome, Hypothesis) and one.outcome.language is not None and one.outcome.text.strip():
            samples[one.outcome.language] += one.span.end - one.span.start
    return max(samples, key=lambda language: samples[language]) if samples else None


def segments_of(heard: WindowResult, id: int) -> list[Segment]:
    """The segments of a window from number `id` on, in times of the recording: one, or one per turn where speakers
    were told; none when it has no text."""
    if isinstance(heard.outcome, Exception):
        return []
    outcome = shifted(heard.outcome, heard.span.start_s)
    text = " ".join(outcome.text.split())
    if not text:
        return []
    whole = Segment(
        id=id,
        start=heard.span.start_s,
        end=heard.span.end_s,
        text=text,
        draft=outcome.draft,
        edits=outcome.edits,
        confidence=outcome.confidence,
        words=outcome.words,
        accepted=outcome.accepted,
        timing=outcome.timing,
    )
    if not outcome.turns:
        return [whole]
    segments, first = [], 0
    for number, turn in enumerate(outcome.turns):
        last = first + len(turn.text.split())
        segments.append(
            replace(
                whole,
                id=id + number,
                start=turn.start,
                end=turn.end,
                text=turn.text,
                draft=None,
                edits=(),
                speaker=turn.speaker or None,
                words=outcome.words[first:last],
                timing=None,  # whoever tells turns tells the times of their words
            )
        )
        first = last
    return segments


def turns_of(segments: Sequence[Segment]) -> list[Turn]:
    """Who speaks when: neighbouring segments of one speaker are one turn; those of nobody are none."""
    turns: list[Turn] = []
    last: str | None = None
    for segment in segments:
        if segment.speaker is not None:
            turn = Turn(segment.speaker, segment.start, segment.end, segment.text)
            if segment.speaker == last:
                before = turns.pop()
                turn = Turn(turn.speaker, before.start, turn.end, f"{before.text} {turn.text}")
            turns.append(turn)
        last = segment.speaker
    return turns


def shifted(hypothesis: Hypothesis, offset_s: float) -> Hypothesis:
    """The hypothesis with the times of its words and turns moved by `offset_s`, none before 0."""

    def moved(time: float) -> float:
        return max(0.0, round(time + offset_s, 3))

    return replace(
        hypothesis,
        words=tuple(replace(word, start=moved(word.start), end=moved(word.end)) for word in hypothesis.words),
        turns=tuple(replace(turn, start=moved(turn.start), end=moved(turn.end)) for turn in hypothesis.turns),
    )


def notices_of(heard: WindowResult) -> list[Notice]:
    """What the user should know about a window; times are of the recording."""
    start, end = heard.span.start_s, heard.span.end_s
    if isinstance(heard.outcome, Exception):
        return [Notice("failed", f"this part could not be transcribed: {describe(heard.outcome)}", start, end)]
    notices = [
        replace(
            notice,
            start=start if notice.start is None else round(start + notice.start, 3),
            end=end if notice.end is None else round(start + notice.end, 3),
        )
        for notice in heard.outcome.warnings
    ]
    if not heard.outcome.text.strip():
        draft = (heard.outcome.draft or "").strip()
        draft = f"; the draft was {draft!r}" if draft else ""
        notices.append(Notice("empty-text", f"speech was found here but no text came of it{draft}", start, end))
    return notices


def describe(error: Exception) -> str:
    """An error in one line, never empty."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
