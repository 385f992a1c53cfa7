"""Long recordings by many strategies of cutting and joining: word errors, those at seams, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from redline.engine.recordings import Recording, WaveformSound
from redline.errors import RedlineError, UnsupportedTaskError
from redline.evaluate.seams import LongRecording, SegmentErrors, segment_errors
from redline.longform.strategies import Strategy, StrategySession
from redline.normalize import normalised
from redline.transcriber import Transcriber
from redline.types import JsonRecord, Task


@dataclass(frozen=True)
class StrategyScore(JsonRecord):
    """What a strategy gives with a model. Rates are fractions of words; those of seams count the words around them."""

    model: str
    strategy: Strategy
    recordings: int
    hours: float
    windows: int
    words: int
    wer: float
    insertions: int
    deletions: int
    substitutions: int
    seams: int
    errors_at_seams: int
    words_at_seams: int
    wer_elsewhere: float | None
    rtfx: float
    failures: int = 0

    @property
    def errors_per_seam(self) -> float | None:
        """Errors within two words of a seam, for each seam."""
        return self.errors_at_seams / self.seams if self.seams else None


def run_strategy(transcriber: Transcriber, recordings: Sequence[LongRecording], strategy: Strategy) -> StrategyScore:
    """Transcribe all recordings by one strategy, together, and score them.

    Raises `ConfigError` and `UnsupportedTaskError` for a strategy that the model cannot follow.
    """
    recognizer, errors, windows, failures = transcriber.recognizer, list[SegmentErrors](), 0, 0
    sessions = []
    for each in recordings:
        task = Task(language=each.language)
        if strategy.prefix == "previous":
            recognizer.limits(replace(task, prefix="and so"))
        limits = recognizer.limits(task)
        sessions.append(StrategySession(limits, task, transcriber.options, strategy, each.wave, model=transcriber.name))

    def opened(each: LongRecording) -> nullcontext[WaveformSound]:
        return nullcontext(WaveformSound(each.wave))

    started = time.perf_counter()
    flights = (Recording(partial(opened, each), own) for each, own in zip(recordings, sessions, strict=True))
    results = list(transcriber.run(flights))
    spent_s = time.perf_counter() - started
    for each, session, result in zip(recordings, sessions, results, strict=True):
        windows += len(session.windows)
        if isinstance(result, UnsupportedTaskError):
            raise result
        failures += isinstance(result, RedlineError)
        segments = [] if isinstance(result, RedlineError) else [segment.text for segment in result.segments]
        errors.append(segment_errors(each.reference, [normalised(text, each.language) for text in segments]))
    audio_s = sum(each.wave.duration for each in recordings)
    words, wrong = sum(len(each.matched) for each in errors), sum(each.errors for each in errors)
    at_seams, words_at_seams = (sum(counts) for counts in zip(*(each.at_seams for each in errors), strict=True))
    insertions, deletions = sum(each.insertions for each in errors), sum(each.deletions for each in errors)
    elsewhere = words - words_at_seams
    return StrategyScore(
        model=transcriber.name,
        strategy=strategy,
        recordings=len(recordings),
        hours=round(audio_s / 3600, 4),
        windows=windows,
        words=words,
        wer=wrong / max(1, words),
        insertions=insertions,
        deletions=deletions,
        substitutions=wrong - insertions - deletions,
        seams=sum(len(each.seams) for each in errors),
        errors_at_seams=at_seams,
        words_at_seams=words_at_seams,
        wer_elsewhere=(wrong - at_seams) / elsewhere if elsewhere else None,
        rtfx=round(audio_s / max(spent_s, 1e-9), 1),
        failures=failures,
    )


def strategies_of(
    cuts: Sequence[str], windows_s: Sequence[float | None], overlaps_s: Sequence[float], prefixes: Sequence[str]
) -> list[Strategy]:
    """All combinations; a window that goes on from the one before it takes no overlap."""
    make: Callable[..., Strategy] = Strategy
    return [
        make(cut, window_s, overlap_s, prefix)
        for prefix in prefixes
        for cut in cuts
        for window_s in windows_s
        for overlap_s in overlaps_s
        if prefix == "none" or overlap_s == 0
    ]
