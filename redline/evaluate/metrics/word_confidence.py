"""Whether the confidence of words is honest: calibration, and how well it tells wrong words from right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.evaluate.metrics.alignment import align_words
from redline.evaluate.result import Result
from redline.normalize import normalised
from redline.types import Word

BINS = 10


def score_word_confidence(results: Sequence[Result]) -> dict[str, Any] | None:
    """ECE and AUC of all words with a confidence; None where no answer has any.

    ECE is the expected calibration error (arXiv 1706.04599) in ten bins of equal width: how far, on average, the
    confidence of a word is from the share of words like it that are right. AUC is the share of pairs of a right and a
    wrong word in which the right one is more certain; None where all are right, or all wrong. `bins` are mean
    confidence, share of right words and their number.
    """
    pairs = [
        (word.confidence, right)
        for result in results
        for word, right in zip(result.words, right_words(result), strict=True)
        if word.confidence is not None and right is not None
    ]
    if not pairs:
        return None
    confidence, right = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    return {
        "ece": expected_calibration_error(confidence, right),
        "auc": separation(confidence, right),
        "words": len(pairs),
        "right": float(right.mean()),
        "bins": [[float(mean), float(share), count] for mean, share, count in _bins(confidence, right)],
    }


def right_words(result: Result) -> list[bool | None]:
    """Whether each word of an answer is in the reference where it stands; None for what normalisation takes away."""
    return compared_words(result.words, result.normalised["reference"], result.spoken_language)


def compared_words(words: Sequence[Word], reference: str, language: str) -> list[bool | None]:
    """The same for words and a normalised reference."""
    tokens = [(at, token) for at, word in enumerate(words) for token in normalised(word.text, language).split()]
    verdicts: list[bool | None] = [None] * len(words)
    places = iter(tokens)
    for pair in align_words(reference, " ".join(token for _, token in tokens)):
        if pair.hypothesis:
            at, _ = next(places)
            verdicts[at] = verdicts[at] is not False and pair.kind == "equal"
    return verdicts


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Mean distance of confidence and share of right words over bins, weighed by their words: [N], [N] -> 0 to 1."""
    return float(sum(abs(mean - share) * count for mean, share, count in _bins(confidence, right)) / len(confidence))


def separation(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve of right words against wrong ones; ties count half."""
    order = np.unique(confidence, return_inverse=True)[1]
    wrong_at, right_at = (np.bincount(order[right == verdict], minlength=order.max() + 1) for verdict in (0, 1))
    if not wrong_at.sum() or not right_at.sum():
        return None
    below = np.cumsum(wrong_at) - wrong_at
    return float(((below + wrong_at / 2) * right_at).sum() / (wrong_at.sum() * right_at.sum()))


def _bins(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    masks = [places == place for place in range(BINS)]
    return [(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in masks if m.any()]


def describe_word_confidence(score: dict[str, Any]) -> str:
    ranked = "all alike" if score["auc"] is None else f"wrong words told with an AUC of {score['auc']:.3f}"
    judged = f"{score['words']} words, {100 * score['right']:.1f} % right"
    return f"calibration error {100 * score['ece']:.1f} % (ECE), {ranked}; {judged}"
