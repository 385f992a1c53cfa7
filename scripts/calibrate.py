#!/usr/bin/env python3
"""Calibrate the confidence of a checkpoint's words: fit the maps on speech that nobody trained on, and write its file.

    scripts/calibrate.py --model tiny --data manifest.jsonl --data more/manifest.jsonl --split dev
    scripts/calibrate.py --model tiny-multi --data manifest.jsonl --split dev --language all --chart confidence.png

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
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from redline import audio, load_model
from redline.checkpoints.folder import resolve
from redline.checkpoints.word_confidence import save_word_confidence
from redline.decoding.word_confidence import ALIGNED, ConfidenceMaps, LogisticMap, WordEvidence, word_features
from redline.engine.scheduler import batches_by_length
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
BATCH_S = 60.0
BINS, LEAST_IN_BIN = 10, 20


@dataclass(frozen=True)
class Recorder(ConfidenceMaps):
    """Leaves confidences as they are and remembers what a map would have seen."""

    seen: list[WordEvidence] = field(default_factory=list)

    def confidence(self, word: Word, evidence: WordEvidence) -> float:
        self.seen.append(evidence)
        return word.confidence or 0.0


@dataclass(frozen=True)
class Judged:
    """One word of an answer."""

    source: str
    fold: int
    word: Word
    evidence: WordEvidence
    right: bool


def judge(recognizer: ModelRecognizer, rows: Sequence[Utterance]) -> Iterator[Judged]:
    """The words of some utterances with what decides their confidence, and whether they are right."""
    recorder = Recorder(LogisticMap(0.0, (0.0,) * len(ALIGNED)))
    recognizer.word_confidence = recorder
    requests = [
        Request(clip(audio.load(row.audio), row), Task(language=row.language or "en", words=True), number)
        for number, row in enumerate(rows)
    ]
    answers, seen = recognizer.recognize(requests), iter(recorder.seen)
    for row, answer in zip(rows, answers, strict=True):
        if not isinstance(answer, Hypothesis):
            raise answer
        language = row.language or "en"
        verdicts = compared_words(answer.words, normalised(row.text, language), language)
        fold = zlib.crc32((row.id or str(row.audio)).encode()) % FOLDS
        for word, evidence, right in zip(answer.words, islice(seen, len(answer.words)), verdicts, strict=True):
            if right is not None and word.confidence:
                yield Judged(row.source or "unnamed", fold, word, evidence, right)


def fit(words: Sequence[Judged], *known: str) -> LogisticMap | None:
    """Logistic regression of whether words are right, by their alignment and what else is to be known of them.

    None where it is of too few.
    """
    words = [each for each in words if all(getattr(each.evidence, name) is not None for name in known)]
    if known and len(words) < LEAST_WORDS:
        return None
    rows = [word_features(each.word, [getattr(each.evidence, name) for name in known]) for each in words]
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
    """All maps of which enough is known."""
    aligned = fit(words)
    assert aligned is not None
    return ConfidenceMaps(aligned, fit(words, "tokens"), fit(words, "draft"), fit(words, "tokens", "draft"))


def confidences(words: Sequence[Judged]) -> dict[str, list[float]]:
    """Of each word before and after, by maps that have not seen its utterance."""
    maps = [maps_of([each for each in words if each.fold != fold]) for fold in range(FOLDS)]

    def judged(*known: str) -> list[float]:
        only = [WordEvidence(**{name: getattr(each.evidence, name) for name in known}) for each in words]
        return [maps[each.fold].confidence(each.word, own) for each, own in zip(words, only, strict=True)]

    return {
        "before": [each.word.confidence or 0.0 for each in words],
        "alignment alone": judged(),
        "with the editor": judged("tokens"),
        "with the draft": judged("draft"),
        "after": judged("tokens", "draft"),
    }


def table(words: Sequence[Judged], columns: dict[str, list[float]]) -> list[str]:
    """ECE and AUC of each source."""
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


def draw(path: Path, words: Sequence[Judged], columns: dict[str, list[float]], title: str) -> None:
    """How many words are right of those with about the same confidence, and how many such words there are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    figure.suptitle(title)
    edges = np.linspace(0, 1, BINS + 1)
    left.plot([0, 1], [0, 1], color="#888888", linestyle="--", label="as it should be")
    for name, color in (("before", "#d98e04"), ("after", "#0b6e4f")):
        bins = np.clip((np.array(columns[name]) * BINS).astype(int), 0, BINS - 1)
        there = [at for at in range(BINS) if (bins == at).sum() >= LEAST_IN_BIN]
        mean = [np.mean(np.array(columns[name])[bins == at]) for at in there]
        share = [np.mean([word.right for word, own in zip(words, bins, strict=True) if own == at]) for at in there]
        left.plot(mean, share, marker="o", color=color, label=name)
    for kind, color in ((True, "#9ad1bb"), (False, "#c0392b")):
        mine = [each for each, word in zip(columns["after"], words, strict=True) if word.right == kind]
        right.hist(mine, bins=edges, color=color, alpha=0.7, label="right" if kind else "wrong")
    left.set(xlabel="confidence", ylabel="share of right words", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="confidence after", ylabel="words", xlim=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, action="append", help="a manifest; may be repeated")
    parser.add_argument("--split", help="which rows: such as no weights were trained on")
    parser.add_argument("--language", default="en", help="which rows; 'all' for every one (default: en)")
    parser.add_argument("--every", type=int, default=1, help="take each so many rows only")
    parser.add_argument("--model", default="tiny", help="a bundled model, a folder or a hub id")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, help="folder to write word_confidence.json into (default: the model's)")
    parser.add_argument("--chart", type=Path, help="PNG of how honest the confidences are")
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
    done = 0
    for batch in batches_by_length([row.duration or MAX_DRAFT_CLIP_S for row in rows], BATCH_S):
        words += judge(recognizer, [rows[at] for at in batch])
        done += len(batch)
        print(f"{done} of {len(rows)} utterances, {len(words)} words", file=sys.stderr)
    if len(words) < LEAST_WORDS or len({each.right for each in words}) < 2:
        raise SystemExit(f"{len(words)} words, too few to fit on: at least {LEAST_WORDS}, some right and some wrong")
    columns = confidences(words)
    print(*table(words, columns), sep="\n")
    if given.chart is not None:
        draw(given.chart, words, columns, f"{given.model}, {len(words):,} words of {given.split or 'all'}")
    if not given.dry_run:
        sources = {source: sum(each.source == source for each in words) for source in {each.source for each in words}}
        fitted_on = {"split": given.split, "words": dict(sorted(sources.items()))}
        print(save_word_confidence(maps_of(words), given.out or resolve(given.model), fitted_on))


if __name__ == "__main__":
    main()
