"""Errors of word times: how far the words that were recognized are from where the reference has them.

AAS is the mean absolute error of word ends, as the reports of the Plus model give it (arXiv 2604.22817); elsewhere the
name is also used for the mean of starts and ends together (arXiv 2301.12343), which is why both errors are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from redline.evaluate.metrics.alignment import align_words
from redline.evaluate.result import Result
from redline.normalize import normalised
from redline.types import Word

LIMITS_MS = (20, 50, 100, 200)
ANY = Word(0.0, 0.0, "")


def score_word_times(results: Sequence[Result]) -> dict[str, Any] | None:
    """Errors in milliseconds of all utterances whose reference has word times; None where none has.

    Of `words` of the references, without those that normalisation takes away, `matched` are recognized; only their
    times are compared, and the errors are None where there are none. `late_ms` is the mean error of ends with its sign,
    `shift_ms` the mean absolute error of starts and ends together. `left_out` are answers with text but no times.
    """
    timed = [result for result in results if result.utterance.words]
    if not timed:
        return None
    has_times = any(result.words for result in timed)
    scored = [result for result in timed if result.words or (has_times and not result.edited.strip())]
    pairs: list[tuple[Word, Word]] = []
    words = 0
    for result in scored:
        # Word by word on both sides: a normaliser that sees a whole text may join words, and their times would be lost.
        reference = _tokens(result.utterance.words, result.spoken_language)
        words += len({number for number, _ in reference})
        matches = match_words(reference, _tokens(result.words, result.spoken_language))
        pairs += [(result.utterance.words[at], result.words[there]) for at, there in matches]
    left_out = len(timed) - len(scored)
    return {**_errors(pairs), "matched": len(pairs), "words": words, "utterances": len(scored), "left_out": left_out}


def match_words(reference: Sequence[tuple[int, str]], hypothesis: Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    """Tokens, each with the number of its word -> the words that are the same in both, by number in either.

    A word counts when all of its tokens stand beside those of one word: "do not" is no match for "don't", since neither
    of its words begins and ends where the other does.
    """
    pairs = align_words(*(" ".join(token for _, token in tokens) for tokens in (reference, hypothesis)))
    left, right = (iter([number for number, _ in tokens]) for tokens in (reference, hypothesis))
    equal: Counter[tuple[int, int]] = Counter()
    for pair in pairs:
        words = next(left) if pair.reference else -1, next(right) if pair.hypothesis else -1
        equal[words] += pair.kind == "equal"
    sizes = [Counter(number for number, _ in tokens) for tokens in (reference, hypothesis)]
    return [(here, there) for (here, there), count in equal.items() if 0 < count == sizes[0][here] == sizes[1][there]]


def _tokens(words: Sequence[Word], language: str) -> list[tuple[int, str]]:
    return [(number, token) for number, word in enumerate(words) for token in normalised(word.text, language).split()]


def _errors(pairs: Sequence[tuple[Word, Word]]) -> dict[str, Any]:
    """Errors of the second word of each pair against the first, in milliseconds; None where there is no pair."""
    differences = [(answer.start - word.start, answer.end - word.end) for word, answer in pairs or [(ANY, ANY)]]
    starts, ends = np.round(1000 * np.array(differences), 3).T
    numbers = {
        "aas_ms": np.mean(abs(ends)),
        "median_end_ms": np.median(abs(ends)),
        "mean_start_ms": np.mean(abs(starts)),
        "median_start_ms": np.median(abs(starts)),
        "shift_ms": np.mean(abs(np.concatenate((starts, ends)))),
        "late_ms": np.round(np.mean(ends), 3),
        **{f"within_{limit}_ms": np.mean(abs(ends) <= limit) for limit in LIMITS_MS},
    }
    return {name: float(number) if pairs else None for name, number in numbers.items()}


def describe_word_times(score: dict[str, Any]) -> str:
    if not score["utterances"]:
        return f"no number: {score['left_out']} references have word times, but the model tells none"
    line = f"no number: none of {score['words']} reference words was heard right"
    if score["matched"]:
        near = ", ".join(f"{100 * score[f'within_{limit}_ms']:.1f} % within {limit} ms" for limit in LIMITS_MS)
        late = score["late_ms"]
        line = (
            f"ends off by {score['aas_ms']:.1f} ms (AAS), median {score['median_end_ms']:.1f} ms, {near}; "
            f"starts off by {score['mean_start_ms']:.1f} ms; {score['matched']} of {score['words']} words matched; "
            f"ends are {abs(late):.1f} ms {'late' if late >= 0 else 'early'} on average"
        )
    return line + (f"; {score['left_out']} answers without times left out" if score["left_out"] else "")
