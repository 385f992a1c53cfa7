"""Run a recognizer over a manifest and keep what was heard beside what was said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline import audio
from redline.errors import AudioError, DataError
from redline.evaluate.score import Item
from redline.longform import pipeline
from redline.types import SAMPLE_RATE, Hypothesis, Notice, Recognizer, Span, Task, Transcript, Waveform

BATCH_S = 120.0
"""Seconds of audio, with padding, that the recognizer gets at once."""


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest that can be scored; `start` and `end` in seconds are a part of the file."""

    path: Path
    text: str
    language: str
    source: str
    duration: float
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Result:
    """What came of one utterance: an item to score, or the reason why there is none."""

    utterance: Utterance
    item: Item | None = None
    failure: str | None = None
    warnings: tuple[Notice, ...] = ()


@dataclass
class Clock:
    """Seconds that the recognizer worked and seconds of audio it got; reading files is not counted."""

    busy_s: float = 0.0
    audio_s: float = 0.0

    @property
    def rtfx(self) -> float:
        """Times faster than real time."""
        return self.audio_s / self.busy_s if self.busy_s > 0 else 0.0

    @contextmanager
    def timing(self, waves: Sequence[Waveform]) -> Iterator[None]:
        """Count the time inside the block as work on `waves`."""
        started = time.perf_counter()
        yield
        self.busy_s += time.perf_counter() - started
        self.audio_s += sum(wave.duration for wave in waves)


def read_manifest(
    path: Path, *, split: str | None = None, language: str | None = None, limit: int | None = None
) -> tuple[list[Utterance], int]:
    """The utterances of a split and language, and how many of them have no text and are left out.

    Raises `DataError` when the file cannot be read or nothing in it matches.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error}); give a file with one JSON a line") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    wanted = [
        row
        for row in rows
        if (split is None or row.get("split") == split) and (language is None or row.get("language") == language)
    ]
    if not wanted:
        splits = ", ".join(sorted({str(row.get("split")) for row in rows})) or "none"
        languages = ", ".join(sorted({str(row.get("language")) for row in rows})) or "none"
        raise DataError(
            f"{path}: none of {len(rows)} rows has split {split or 'any'} and language {language or 'any'}; "
            f"it has splits {splits} and languages {languages}"
        )
    with_text = [row for row in wanted if str(row.get("text") or "").strip()]
    utterances = [_utterance(path.parent, row) for row in with_text[:limit]]
    return utterances, len(wanted) - len(with_text)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); a manifest has one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        raise DataError(f"{path}:{number}: no 'audio'; each line needs at least audio and text")
    return row


def _utterance(folder: Path, row: dict[str, Any]) -> Utterance:
    start, end = float(row.get("start") or 0.0), row.get("end")
    return Utterance(
        path=folder / row["audio"],
        text=str(row["text"]),
        language=str(row.get("language") or "en"),
        source=str(row.get("source") or "unnamed"),
        duration=float(row.get("duration") or (end - start if end else 0.0)),
        start=start,
        end=None if end is None else float(end),
    )


def run(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    clock: Clock,
    load: Callable[[Path], Waveform] = audio.load,
) -> Iterator[list[Result]]:
    """Recognize every utterance, longest first, and give the results of each batch as it is done.

    An utterance of at most `max_clip_s` goes to the recognizer whole, without speech detection; a longer one is cut by
    the pipeline. A file or clip that fails is a `Result` with its failure.
    """
    # An unknown duration is taken for the longest clip, so that such rows do not all meet in one batch.
    lengths = [round((one.duration or recognizer.max_clip_s) * SAMPLE_RATE) for one in utterances]
    for language in sorted({one.language for one in utterances}):
        task = Task(language=language)
        mine = [index for index, one in enumerate(utterances) if one.language == language]
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
            wave = _part(load(utterance.path), utterance)
        except AudioError as error:
            results.append(Result(utterance, failure=str(error)))
            continue
        if wave.duration <= recognizer.max_clip_s:
            short.append((utterance, wave))
            continue
        with clock.timing([wave]):
            (transcript,) = pipeline.transcribe_many(recognizer, [wave], task)
        results.append(_result(utterance, wave, transcript))
    if short:
        waves = [wave for _, wave in short]
        with clock.timing(waves):
            hypotheses = pipeline.recognize(recognizer, waves, task)
        results += [_result(utterance, wave, one) for (utterance, wave), one in zip(short, hypotheses, strict=True)]
    return results


def _part(wave: Waveform, utterance: Utterance) -> Waveform:
    end = len(wave.samples) if utterance.end is None else round(utterance.end * SAMPLE_RATE)
    return wave.part(Span(round(utterance.start * SAMPLE_RATE), end))


def _result(utterance: Utterance, wave: Waveform, answer: Hypothesis | Transcript | Exception) -> Result:
    if isinstance(answer, Exception):
        return Result(utterance, failure=f"{utterance.path}: {answer}")
    item = Item(utterance.source, utterance.language, wave.duration, utterance.text, answer.text, answer.draft)
    return Result(utterance, item, warnings=(*wave.warnings, *answer.warnings))
