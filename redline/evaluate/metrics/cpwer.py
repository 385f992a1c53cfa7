"""cpWER: the word error rate when the words of each speaker are one text (concatenated minimum permutation).

The speakers of an answer carry names of their own, so they are paired with those of the reference in the way that makes
the fewest errors; a word given to the wrong speaker is then a deletion here and an insertion there. Source: Watanabe et
al., CHiME-6, arXiv 2004.09249; counted by meeteval (von Neumann et al., arXiv 2307.11394).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from redline.errors import DataError, RedlineError
from redline.evaluate.metrics.wer import error_count
from redline.evaluate.result import Result
from redline.normalize import normalised
from redline.types import Turn

MISSING_MEETEVAL = "counting needs meeteval, which is not installed: pip install 'redline[speakers]'"
CPWER_COUNTS = (
    *("insertions", "deletions", "substitutions", "words", "utterances", "left_out", "untagged"),
    *("speakers", "missed", "invented"),
)


def is_meeteval_installed() -> bool:
    """Whether meeteval is there, so that its lack can be reported before the work."""
    return find_spec("meeteval") is not None


def score_cpwer(results: Sequence[Result]) -> dict[str, Any] | None:
    """The cpWER of all utterances whose reference names speakers; None where none does.

    `cpwer` is None where nothing could be scored. `utterances` are scored, `untagged` of them as the words of one
    speaker because the answer names nobody though it was asked to; `left_out` are those with text that nobody asked for
    speakers. Of the speakers of the references `missed` have no counterpart, and `invented` those of answers.

    Raises `RedlineError` when there is something to count and meeteval is not installed.
    """
    labelled = [result for result in results if result.utterance.turns]
    if not labelled:
        return None
    # A model that names speakers and writes nothing loses every word; one that names none is not judged by its silence.
    names_speakers = any(result.turns for result in labelled)
    counts = Counter(dict.fromkeys(CPWER_COUNTS, 0))
    for result in labelled:
        text = result.edited.strip()
        if not result.turns and not (names_speakers and (result.task.speakers or not text)):
            counts["left_out"] += 1
            continue
        turns = result.turns or (Turn("", 0.0, result.duration, text),)
        try:
            counts.update(cpwer_counts(result.utterance.turns, turns, result.spoken_language))
        except DataError as error:
            raise DataError(f"{result.utterance.id}: {error}") from error
        counts.update(utterances=1, untagged=bool(text) and not result.turns)
    return {"cpwer": error_count(counts) / counts["words"] if counts["words"] else None, **counts}


def cpwer_counts(reference: Sequence[Turn], hypothesis: Sequence[Turn], language: str) -> dict[str, int]:
    """The counts of one utterance; the reference is put in order of time, the answer is taken in its own."""
    try:
        from meeteval.wer import cp_word_error_rate
    except ImportError as error:
        raise RedlineError(MISSING_MEETEVAL) from error
    references = _speaker_texts(sorted(reference, key=lambda turn: turn.start), language)
    hypotheses = _speaker_texts(hypothesis, language)
    try:
        # Texts carry no times, so there is nothing to sort by; saying so keeps meeteval from logging it.
        rate = cp_word_error_rate(references, hypotheses, reference_sort=False, hypothesis_sort=False)
    except RuntimeError as error:  # meeteval refuses more than 20 speakers
        raise DataError(
            f"{len(references)} speakers in the reference and {len(hypotheses)} in the answer are too many for one "
            f"utterance ({str(error).splitlines()[0]}); cut the recording into parts"
        ) from error
    errors = {"insertions": rate.insertions, "deletions": rate.deletions, "substitutions": rate.substitutions}
    speakers = {"speakers": len(references), "missed": rate.missed_speaker, "invented": rate.falarm_speaker}
    return {**errors, "words": rate.length, **speakers}


def _speaker_texts(turns: Iterable[Turn], language: str) -> dict[str, str]:
    """The normalised text of each speaker, whose turns are joined first; those who say no word are left out."""
    texts: dict[str, list[str]] = {}
    for turn in turns:
        texts.setdefault(turn.speaker, []).append(turn.text)
    joined = {speaker: normalised(" ".join(parts), language) for speaker, parts in texts.items()}
    return {speaker: text for speaker, text in joined.items() if text}


def describe_cpwer(score: dict[str, Any]) -> str:
    if not score["utterances"]:
        return f"no number: {score['left_out']} references name speakers, but the model names none"
    rate = "no number" if score["cpwer"] is None else f"{100 * score['cpwer']:.2f} %"
    line = (
        f"{rate} ({error_count(score)} errors in {score['words']} words of "
        f"{score['speakers']} speakers in {score['utterances']} utterances; "
        f"speakers: {score['missed']} missed, {score['invented']} invented)"
    )
    line += f"; {score['untagged']} answers name nobody" if score["untagged"] else ""
    return line + (f"; {score['left_out']} answers without speakers left out" if score["left_out"] else "")
