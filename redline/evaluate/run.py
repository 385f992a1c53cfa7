"""Run a recognizer over a manifest and keep what was heard beside what was said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from redline import audio
from redline.errors import AudioError
from redline.evaluate.wer import ScoredUtterance
from redline.longform import pipeline
from redline.manifest import Utterance
from redline.types import (
    SAMPLE_RATE,
    Hypothesis,
    Notice,
    Recognizer,
    Segment,
    Span,
    Task,
    Transcript,
    Turn,
    Waveform,
    Word,
)

DEFAULT = "en"
"""Language of an utterance that names none."""
UNNAMED = "unnamed"
BATCH_S = 120.0
"""Seconds of audio, with padding, that the recognizer gets at once."""


@dataclass(frozen=True)
class Result:
    """What came of one utterance: an item to score, or the reason why there is none."""

    utterance: Utterance
    item: ScoredUtterance | None = None
    failure: str | None = None
    warnings: tuple[Notice, ...] = ()
    words: tuple[Word, ...] = ()
    """What was heard with its times, where the recognizer tells; seconds from the start of the utterance."""
    turns: tuple[Turn, ...] = ()
    """What was heard by whom, where the recognizer tells."""
    language: str | None = None
    """The language that was found, where the recognizer tells."""
    task: Task = Task()
    """What was asked."""
    tagged: str | None = None
    """The answer as the model wrote it, with its tags, where it wrote one and was asked once."""


@dataclass
class Clock:
    """Seconds that the recognizer worked, that files took to read, and that the audio lasts."""

    busy_s: float = 0.0
    audio_s: float = 0.0
    reading_s: float = 0.0
    first_s: float = 0.0
    """Seconds of the first call, which also warms the recognizer up."""

    @property
    def rtfx(self) -> float:
        """Times faster than real time, without reading files."""
        return self.audio_s / self.busy_s if self.busy_s > 0 else 0.0

    @property
    def rtfx_with_reading(self) -> float:
        """Times faster than real time when reading and decoding files counts."""
        return self.audio_s / (self.busy_s + self.reading_s) if self.busy_s > 0 else 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count the time inside the block as reading."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.reading_s += time.perf_counter() - started

    @contextmanager
    def timing(self, waves: Sequence[Waveform]) -> Iterator[None]:
        """Count the time inside the block as work on `waves`."""
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self.first_s = self.first_s or took
        self.busy_s += took
        self.audio_s += sum(wave.duration for wave in waves)


def task_of(utterance: Utterance) -> Task:
    """What is asked about an utterance where nothing else is wanted: its text."""
    return Task(language=utterance.language or DEFAULT)


def run(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    clock: Clock,
    load: Callable[[Path], Waveform] = audio.load,
    tasks: Sequence[Task] | None = None,
) -> Iterator[list[Result]]:
    """Recognize every utterance, longest first, and give the results of each batch as it is done.

    An utterance no longer than a window goes to the recognizer whole, without speech detection; a longer one is cut
    by the pipeline. A file or clip that fails is a `Result` with its failure. `tasks` has what is asked about each
    utterance, None the text only; those that are asked the same share batches. Raises `UnsupportedTaskError`.
    """
    asked: dict[Task, list[int]] = {}
    for index, one in enumerate(utterances):
        asked.setdefault(task_of(one) if tasks is None else tasks[index], []).append(index)
    # An unknown duration is taken for the longest clip, so that such rows do not all meet in one batch.
    lengths = {
        index: round((utterances[index].duration or recognizer.limits(task).max_s) * SAMPLE_RATE)
        for task, mine in asked.items()
        for index in mine
    }
    for task in sorted(asked, key=lambda task: (task.language or "", -max(lengths[index] for index in asked[task]))):
        mine = asked[task]
        for group in pipeline.batches([lengths[index] for index in mine], BATCH_S * SAMPLE_RATE):
            yield _batch(recognizer, [utterances[mine[index]] for index in group], task, clock, load)


def _batch(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    task: Task,
    clock: Clock,
    load: Callable[[Path], Waveform],
) -> list[Result]:
    results: list[Result] = []
    short: list[tuple[Utterance, Waveform]] = []
    for utterance in utterances:
        try:
            with clock.reading():
                wave = clip(load(utterance.audio), utterance)
        except AudioError as error:
            results.append(Result(utterance, failure=str(error)))
            continue
        if wave.duration <= recognizer.limits(task).max_s:
            short.append((utterance, wave))
            continue
        with clock.timing([wave]):
            (transcript,) = pipeline.transcribe_many(recognizer, [wave], task)
        results.append(_result(utterance, wave, transcript, task))
    if short:
        waves = [wave for _, wave in short]
        with clock.timing(waves):
            hypotheses = pipeline.recognize(recognizer, waves, task)
        results += [_result(*heard, one, task) for heard, one in zip(short, hypotheses, strict=True)]
    return results


def clip(wave: Waveform, utterance: Utterance) -> Waveform:
    """The part of a recording that an utterance is."""
    end = len(wave.samples) if utterance.end is None else round(utterance.end * SAMPLE_RATE)
    return wave.part(Span(round(utterance.start * SAMPLE_RATE), end))


def _result(utterance: Utterance, wave: Waveform, answer: Hypothesis | Transcript | Exception, task: Task) -> Result:
    if isinstance(answer, Exception):
        return Result(utterance, failure=f"{utterance.audio}: {answer}", task=task)
    sure = answer.confidence if isinstance(answer, Hypothesis) else None
    item = ScoredUtterance(
        utterance.source or UNNAMED,
        utterance.language or DEFAULT,
        wave.duration,
        utterance.text,
        answer.text,
        answer.draft,
        utterance.speaker,
        sure,
        utterance.keywords,
        tuple(key for key in task.keywords if key not in {own.strip() for own in utterance.keywords}),
    )
    warnings = (*wave.warnings, *answer.warnings)
    # A transcript's language is the one that was asked for; only a hypothesis tells what was found.
    found = answer.language if isinstance(answer, Hypothesis) else None
    return Result(
        utterance,
        item,
        warnings=warnings,
        words=words_of(answer),
        turns=turns_of(answer),
        language=found,
        task=task,
        tagged=answer.tagged if isinstance(answer, Hypothesis) else None,
    )


def words_of(answer: Hypothesis | Transcript) -> tuple[Word, ...]:
    """The timed words of an answer; none where the recognizer tells no times."""
    if isinstance(answer, Hypothesis):
        return answer.words
    return tuple(word for segment in answer.segments for word in segment.words)


def turns_of(answer: Hypothesis | Transcript) -> tuple[Turn, ...]:
    """The turns of an answer: its own, or those its words or its segments tell; none where no speaker is named."""
    if answer.turns:
        return answer.turns
    pieces: list[Word | Segment] = []
    if isinstance(answer, Hypothesis):
        pieces += answer.words
    else:
        for segment in answer.segments:
            pieces += segment.words if any(word.speaker for word in segment.words) else [segment]
    if not any(piece.speaker for piece in pieces):
        return ()
    turns = []
    # What the recognizer gives to nobody stays nobody's, and costs errors: to guess a speaker here would flatter it.
    for speaker, group in groupby(pieces, key=lambda piece: piece.speaker or ""):
        said = list(group)
        turns.append(Turn(speaker, said[0].start, said[-1].end, " ".join(piece.text.strip() for piece in said)))
    return tuple(turns)
