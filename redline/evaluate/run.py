"""Transcribe a manifest, as users would transcribe its files, and keep each hypothesis beside its reference."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from redline import audio
from redline.engine.recordings import Recording, Sound, WaveformSound
from redline.errors import RedlineError
from redline.evaluate.result import DEFAULT_LANGUAGE, Result
from redline.manifest import Utterance
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Segment, Span, Task, Transcript, Waveform


@dataclass
class Clock:
    """Seconds that all took, that files took to read, that the first result took (warming up too), and of audio."""

    wall_s: float = 0.0
    reading_s: float = 0.0
    first_s: float = 0.0
    audio_s: float = 0.0

    @contextmanager
    def counting(self, what: Literal["wall_s", "reading_s"]) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)

    @property
    def rtfx(self) -> float:
        """Times faster than real time, without reading files."""
        return self.audio_s / (self.wall_s - self.reading_s) if self.wall_s > self.reading_s else 0.0

    @property
    def rtfx_with_reading(self) -> float:
        """Times faster than real time when reading and decoding files counts."""
        return self.audio_s / self.wall_s if self.wall_s > 0 else 0.0


def task_of(utterance: Utterance) -> Task:
    """What is asked about an utterance where nothing else is wanted: its text."""
    return Task(language=utterance.language or DEFAULT_LANGUAGE)


def run(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    clock: Clock,
    load: Callable[[Path], Waveform] = audio.load,
    tasks: Sequence[Task] | None = None,
) -> Iterator[Result]:
    """Transcribe every utterance, longest first, and give each result as it is done.

    An utterance gets the transcript that its file, or its part of a file, gets from `transcribe`. A recording that
    fails is a `Result` with its failure. `tasks` has what is asked about each utterance, None the text only. Raises
    `UnsupportedTaskError`.
    """
    row_tasks = [task_of(row) for row in utterances] if tasks is None else tasks
    pairs = sorted(zip(utterances, row_tasks, strict=True), key=lambda pair: -(pair[0].duration or 0.0))

    @contextmanager
    def opened(utterance: Utterance) -> Iterator[Sound]:
        with clock.counting("reading_s"):
            wave = clip(load(utterance.audio), utterance)
        yield WaveformSound(wave)

    recordings = (Recording(partial(opened, utterance), transcriber.session(task)) for utterance, task in pairs)
    results = transcriber.run(recordings)
    for utterance, task in pairs:
        with clock.counting("wall_s"):
            answer = next(results)
        clock.first_s = clock.first_s or clock.wall_s - clock.reading_s
        result = _result(utterance, answer, task)
        clock.audio_s += result.duration
        yield result


def clip(wave: Waveform, utterance: Utterance) -> Waveform:
    """The part of a recording that an utterance is."""
    if utterance.start == 0.0 and utterance.end is None:
        return wave
    end = len(wave.samples) if utterance.end is None else round(utterance.end * SAMPLE_RATE)
    return wave.part(Span(round(utterance.start * SAMPLE_RATE), end))


def _result(utterance: Utterance, answer: Transcript | RedlineError, task: Task) -> Result:
    if isinstance(answer, RedlineError):
        return Result(utterance, task, failure=str(answer))
    tagged = [segment.tagged for segment in answer.segments if segment.tagged is not None]
    unread = [each for each in answer.segments if each.accepted is not None and each.confidence is None]
    return Result(
        utterance,
        task,
        edited=answer.text,
        draft=answer.draft,
        duration=answer.duration,
        confidence=_confidence(answer.segments),
        words=answer.words,
        turns=answer.turns,
        language=_language(answer.segments),
        unread=(len(unread), len(answer.segments)),
        tagged=" ".join(tagged) if tagged else None,
        warnings=answer.warnings,
    )


def _confidence(segments: Sequence[Segment]) -> float | None:
    """The recognizer's confidence, weighed by the length of segments where there are several."""
    known = [(each.confidence, each.end - each.start) for each in segments if each.confidence is not None]
    total_s = sum(length for _, length in known)
    return round(sum(confidence * length for confidence, length in known) / total_s, 3) if total_s else None


def _language(segments: Sequence[Segment]) -> str | None:
    """The language that was found in most of the time; a transcript's own is the one that was asked for."""
    milliseconds: Counter[str] = Counter()
    for segment in segments:
        if segment.language is not None:
            milliseconds[segment.language] += round(1000 * (segment.end - segment.start))
    return max(milliseconds, key=milliseconds.__getitem__, default=None)
