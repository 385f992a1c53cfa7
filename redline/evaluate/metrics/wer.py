"""Word and character error rates (WER, CER) of each source, draft and edited text side by side.

Texts are normalised first, with Whisper's rules for English and its basic rules (lower case, no punctuation) for other
languages, as the Open ASR leaderboard does. Rates are fractions: 0.25 is 25 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from redline.evaluate.metrics.alignment import align_characters, align_words, bootstrap_interval, count_errors, total
from redline.evaluate.result import SYNTHETIC, Result
from redline.normalize import normalised

ALL_HUMAN = "all human speech"


def score_wer(texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """WER with its 95 % bootstrap interval, CER and counts of pairs of normalised texts; infinite rates are None."""
    texts = list(texts)
    words = [count_errors(align_words(*pair)) for pair in texts]
    characters = total(count_errors(align_characters(*pair)) for pair in texts)
    errors = total(words)
    interval = bootstrap_interval([each.count for each in words], [each.length for each in words])
    rates = (errors.rate, characters.rate, *(interval if errors.length else [errors.rate] * 2))
    wer, cer, low, high = (rate if np.isfinite(rate) else None for rate in rates)
    counts = {name: getattr(errors, name) for name in ("insertions", "deletions", "substitutions")}
    return {"wer": wer, "wer_interval": [low, high], "cer": cer, **counts, "words": errors.length}


def word_error_counts(reference: str, text: str, language: str | None) -> tuple[int, int]:
    """Words of a reference, and word errors of a text; both are normalised first."""
    counts = count_errors(align_words(*(normalised(each, language or "en") for each in (reference, text))))
    return counts.length, counts.count


def describe_wer(score: dict[str, Any]) -> str:
    """The rate with its interval; "-" for an infinite one."""
    if score["wer"] is None:
        return "-"
    low, high = score["wer_interval"]
    return f"{100 * score['wer']:.2f} % ({100 * low:.1f}-{100 * high:.1f})"


def error_count(score: dict[str, Any]) -> int:
    return int(score["insertions"] + score["deletions"] + score["substitutions"])


def wer_report(group: str, results: Sequence[Result]) -> dict[str, Any]:
    """The scores of a group of utterances; the draft is scored where every answer with a text has one.

    Without a text a recognizer was not asked, or nothing is left of its draft, which then counts as empty.
    `relative_reduction` is the part of the draft's word errors that editing removed, negative when it added some; None
    where there was none.
    """
    edited = score_wer((result.normalised["reference"], result.normalised["edited"]) for result in results)
    draft = reduction = None
    drafted = any(result.draft is not None for result in results)
    if drafted and all(result.draft is not None or not result.edited.strip() for result in results):
        draft = score_wer((result.normalised["reference"], result.normalised["draft"]) for result in results)
        if before := error_count(draft):
            reduction = (before - error_count(edited)) / before
    return {
        "group": group,
        "utterances": len(results),
        "hours": round(sum(result.duration for result in results) / 3600, 4),
        "draft": draft,
        "edited": edited,
        "relative_reduction": reduction,
    }


def wer_reports(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One report per source, and one of all human speech where it has several sources."""
    sources = sorted({result.source for result in results})
    groups = {source: [result for result in results if result.source == source] for source in sources}
    human = [result for result in results if result.source != SYNTHETIC]
    if len({result.source for result in human}) > 1:
        groups[ALL_HUMAN] = human
    return [wer_report(group, members) for group, members in groups.items()]
