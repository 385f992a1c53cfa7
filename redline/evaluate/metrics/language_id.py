"""Language identification: the confusion matrix of recognizers that tell the language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redline.evaluate.result import Result


def score_language_id(results: Sequence[Result]) -> dict[str, Any] | None:
    """Identified languages where the manifest tells the spoken one; None where the recognizer identifies none.

    `counts` has a row for each language of the references and a column for each that was identified; `accuracy` is the
    share of utterances on its diagonal.
    """
    pairs = Counter(
        (result.utterance.language, result.language)
        for result in results
        if result.language is not None and result.utterance.language
    )
    if not pairs:
        return None
    languages = sorted({language for pair in pairs for language in pair})
    counts = {spoken: {identified: pairs[spoken, identified] for identified in languages} for spoken in languages}
    right = sum(pairs[language, language] for language in languages)
    return {"accuracy": right / pairs.total(), "counts": counts}


def describe_language_id(score: dict[str, Any]) -> str:
    """The score in a line: the share, then which language was taken for which."""
    line = f"{100 * score['accuracy']:.1f} % right"
    confusions = [
        f"{spoken} taken for {identified} {number} x"
        for spoken, row in score["counts"].items()
        for identified, number in row.items()
        if number and identified != spoken
    ]
    return "; ".join([line, ", ".join(confusions)]) if confusions else line
