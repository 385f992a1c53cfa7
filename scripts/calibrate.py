#!/usr/bin/env python3
"""Calibrate the confidence of a checkpoint's words: fit the maps on speech that nobody trained on, and write its file.

    scripts/calibrate.py --model tiny --data manifest.jsonl --data more/manifest.jsonl --split dev

Each utterance of up to 30 s is recognized once. The table compares the confidences before with those after, each word
judged by maps that were fitted without its utterance; what is written is fitted on all. `word_confidence.json` goes
beside the weights, or with --out into another folder. It holds for these weights: fit it again when they change.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from redline import audio, load_model
from redline.checkpoints.folder import resolve
from redline.checkpoints.word_confidence import save_word_confidence
from redline.decoding.word_confidence import ALIGNED, ConfidenceMaps, LogisticMap, word_features
from redline.evaluate.metrics.word_confidence import compared_words, expected_calibration_error, separation
from redline.evaluate.run import clip
from redline.manifest import Utterance, read_manifest
from redline.normalize import normalised
from redline.recognizer.common import MAX_DRAFT_CLIP_S, ModelRecognizer
from redline.types import Hypothesis, Request, Task, Word

FOLDS = 5
DECAY = 1e-3
"""Of the weights, in units of standard deviations: more than a regulariser is not needed for four numbers."""
LEAST_WORDS = 500


@dataclass(frozen=True)
class Recorder(ConfidenceMaps):
    """Leaves confidences as they are and remembers what a map would have seen."""

    seen: list[float | None] = field(default_factory=list)

    def confidence(self, word: Word, token_log_prob: float | None) -> float:
        self.seen.append(token_log_prob)
        return word.confidence or 0.0


@dataclass(frozen=True)
class Judged:
    """One word of an answer."""

    source: str
    fold: int
    word: Word
    token_log_prob: float | None
    right: bool


def judge(recognizer: ModelRecognizer, row: Utterance) -> Iterator[Judged]:
    """The words of one utterance with what decides their confidence, and whether they are right."""
    recorder = Recorder(LogisticMap(0.0, (0.0,) * len(ALIGNED)))
    recognizer.word_confidence = recorder
    language = row.language or "en"
    wave = clip(audio.load(row.audio), row)
    (answer,) = recognizer.recognize([Request(wave, Task(language=language, words=True))])
    if not isinstance(answer, Hypothesis):
        raise answer
    verdicts = compared_words(answer.words, normalised(row.text, language), language)
    fold = zlib.crc32((row.id or str(row.audio)).encode()) % FOLDS
    for word, token, right in zip(answer.words, recorder.seen, verdicts, strict=True):
        if right is not None and word.confidence:
            yield Judged(row.source or "unnamed", fold, word, token, right)


def fit(words: Sequence[Judged], decided: bool) -> LogisticMap:
    """Logistic regression of whether words are right, with or without their token posteriors."""
    rows = [word_features(each.word, each.token_log_prob if decided else None) for each in words]
    x, y = np.array(rows), np.array([each.right for each in words], dtype=float)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    design = np.concatenate((np.ones((len(x), 1)), (x - mean) / spread), axis=1)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = design @ weights
        penalty = DECAY * np.concatenate(([0.0], weights[1:]))
        slope = design.T @ (1 / (1 + np.exp(-scores)) - y) / len(y) + penalty
        return float((np.logaddexp(0, scores) - y * scores).mean() + penalty @ weights / 2), slope

    best = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    weights = best[1:] / spread
    return LogisticMap(float(best[0] - weights @ mean), tuple(map(float, weights)))


def maps_of(words: Sequence[Judged]) -> ConfidenceMaps:
    """Both maps, or the one where nothing is known of tokens."""
    known = [each for each in words if each.token_log_prob is not None]
    return ConfidenceMaps(fit(words, False), fit(known, True) if len(known) >= LEAST_WORDS else None)


def table(words: Sequence[Judged]) -> list[str]:
    """ECE and AUC of each source before and after, by maps that have not seen the utterance."""
    maps = [maps_of([each for each in words if each.fold != fold]) for fold in range(FOLDS)]
    alone = [ConfidenceMaps(each.aligned) for each in maps]
    columns = {
        "before": [each.word.confidence or 0.0 for each in words],
        "alignment alone": [alone[each.fold].confidence(each.word, None) for each in words],
        "after": [maps[each.fold].confidence(each.word, each.token_log_prob) for each in words],
    }
    lines = ["source, words, right: ECE and AUC " + ", ".join(columns)]
    right = np.array([each.right for each in words], dtype=float)
    for source in (None, *sorted({each.source for each in words})):
        mine = np.array([source in (None, each.source) for each in words])
        numbers = []
        for column in columns.values():
            confidence = np.array(column)[mine]
            auc = separation(confidence, right[mine])
            ece = expected_calibration_error(confidence, right[mine])
            numbers.append(f"{ece:6.1%} {'  -  ' if auc is None else f'{auc:.3f}'}")
        lines.append(f"{source or 'all':32s} {mine.sum():6d} {right[mine].mean():6.1%}  {'   '.join(numbers)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, action="append", help="a manifest; may be repeated")
    parser.add_argument("--split", help="which rows: such as no weights were trained on")
    parser.add_argument("--language", default="en", help="which rows; 'all' for every one (default: en)")
    parser.add_argument("--every", type=int, default=1, help="take each so many rows only")
    parser.add_argument("--model", default="tiny", help="a bundled model, a folder or a hub id")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, help="folder to write word_confidence.json into (default: the model's)")
    parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
    given = parser.parse_args()
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)  # before minutes of recognition
    rows = [row for data in given.data for row in read_manifest(data, split=given.split) if row.text.strip()]
    rows = [row for row in rows if given.language in ("all", row.language or "en")]
    rows = [row for row in rows if (row.duration or 0.0) <= MAX_DRAFT_CLIP_S][:: given.every]
    recognizer = load_model(given.model, dtype=given.dtype).recognizer
    if not isinstance(recognizer, ModelRecognizer):
        raise SystemExit(f"{given.model}: its words cannot be calibrated")
    words: list[Judged] = []
    for number, row in enumerate(rows, start=1):
        words += judge(recognizer, row)
        if number % 50 == 0 or number == len(rows):
            print(f"{number} of {len(rows)} utterances, {len(words)} words", file=sys.stderr)
    if len(words) < LEAST_WORDS or len({each.right for each in words}) < 2:
        raise SystemExit(f"{len(words)} words, too few to fit on: at least {LEAST_WORDS}, some right and some wrong")
    print(*table(words), sep="\n")
    if not given.dry_run:
        sources = {source: sum(each.source == source for each in words) for source in {each.source for each in words}}
        fitted_on = {"split": given.split, "words": dict(sorted(sources.items()))}
        print(save_word_confidence(maps_of(words), given.out or resolve(given.model), fitted_on))


if __name__ == "__main__":
    main()
