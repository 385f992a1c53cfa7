"""Keyword recall, precision and F1: which keywords of the references are recognized, and which where nobody said them.

A keyword is recognized when its normalised words stand together in the normalised text. Every keyword of a data set is
looked for in every text of its language: recognized where it was not said, it is a false alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redline.evaluate.metrics.alignment import Errors, compare_errors
from redline.evaluate.result import Result
from redline.keywords import Keyword
from redline.normalize import normalised

KEYWORD_COUNTS = ("hits", "misses", "false_alarms", "distractors", "distractors_heard")
"""Keywords by what became of them; distractors were in a prompt but not said: false alarms if recognized."""
KeywordCounts = dict[str, int]


def score_keywords(results: Sequence[Result]) -> dict[str, Any] | None:
    """Counts and rates of the keywords of all results; None where no reference has any."""
    return keyword_rates(count_keywords(results)) if any(result.utterance.keywords for result in results) else None


def keyword_rates(counts: Sequence[KeywordCounts]) -> dict[str, Any]:
    """The sums of counts, with recall, precision and F1."""
    sums = {name: sum(each[name] for each in counts) for name in KEYWORD_COUNTS}
    recall = sums["hits"] / max(1, sums["hits"] + sums["misses"])
    precision = sums["hits"] / max(1, sums["hits"] + sums["false_alarms"])
    f1 = 2 * precision * recall / (precision + recall) if sums["hits"] else 0.0
    return {**sums, "recall": recall, "precision": precision, "f1": f1}


def count_keywords(results: Sequence[Result]) -> list[KeywordCounts]:
    """What became of all keywords of all results in each of them."""
    known: dict[str, set[str]] = {}
    for result in results:
        language = result.spoken_language
        known.setdefault(language, set()).update(_normalised(result.utterance.keywords, language))
    counts = []
    for result in results:
        language = result.spoken_language
        distractors = _normalised(result.distractors, language)
        candidates = known[language] | distractors
        most = longest_keyword(candidates)
        own = _normalised(result.utterance.keywords, language)
        spoken = candidates & (own | phrases(result.utterance.text, language, most))
        recognized = candidates & phrases(result.edited, language, most)
        distractors -= spoken
        groups = (spoken & recognized, spoken - recognized, recognized - spoken, distractors, distractors & recognized)
        counts.append(dict(zip(KEYWORD_COUNTS, map(len, groups), strict=True)))
    return counts


def _normalised(keywords: Iterable[str], language: str) -> set[str]:
    return {words for keyword in keywords if (words := normalised_keyword(keyword, language))}


def normalised_keyword(keyword: str, language: str) -> str:
    """The phrase of a keyword, as texts are compared."""
    return normalised(Keyword.parse(keyword).phrase, language)


def longest_keyword(keywords: Iterable[str]) -> int:
    """The number of words of the longest keyword."""
    return max((len(keyword.split()) for keyword in keywords), default=0)


def phrases(text: str, language: str, most: int) -> set[str]:
    """Every run of at most `most` words of a text, normalised."""
    words = normalised(text, language).split()
    return {" ".join(words[at : at + size]) for size in range(1, most + 1) for at in range(len(words) - size + 1)}


def describe_keywords(score: dict[str, Any]) -> str:
    line = (
        f"F1 {100 * score['f1']:.1f} %, recall {100 * score['recall']:.1f} %, precision {100 * score['precision']:.1f} "
        f"% ({score['hits']} of {score['hits'] + score['misses']} heard, {score['false_alarms']} false alarms)"
    )
    return line + (f"; {_distractors(score)} distractors heard" if score["distractors"] else "")


def _distractors(score: dict[str, Any]) -> str:
    return f"{score['distractors_heard']} of {score['distractors']}" if score["distractors"] else "none"


def compare_keywords(first: Sequence[Result], second: Sequence[Result]) -> dict[str, Any] | None:
    """The keywords of two systems on the same utterances, in the same order; None where no utterance has any.

    The 95 % interval of the difference in recall is that of a paired bootstrap. `text` has all of it in words.
    """
    if not any(result.utterance.keywords for result in first):
        return None
    counts = [count_keywords(results) for results in (first, second)]
    before, after = map(keyword_rates, counts)
    missed = [
        [Errors(deletions=item["misses"], length=item["hits"] + item["misses"]) for item in each] for each in counts
    ]
    misses = compare_errors(*missed)
    significant = misses["significant"]
    difference, (low, high) = 0.0 - misses["difference"], (0.0 - bound for bound in reversed(misses["interval"]))
    line = (
        f"keyword recall {100 * before['recall']:.1f} -> {100 * after['recall']:.1f} %, {100 * difference:+.1f} points "
        f"(95 % from {100 * low:+.1f} to {100 * high:+.1f}, {'' if significant else 'not '}significant); "
        f"precision {100 * before['precision']:.1f} -> {100 * after['precision']:.1f} %, "
        f"F1 {100 * before['f1']:.1f} -> {100 * after['f1']:.1f} %"
    )
    if before["distractors"] or after["distractors"]:
        line += f"; distractors heard {_distractors(before)} -> {_distractors(after)}"
    return {
        "first": before,
        "second": after,
        "recall_difference": difference,
        "recall_interval": [low, high],
        "significant": significant,
        "text": line,
    }
