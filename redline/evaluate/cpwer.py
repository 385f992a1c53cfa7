"""Who said what: cpWER, the word error rate when the words of each speaker are one text.

The speakers of an answer carry names of their own, so they are paired with those of the reference in the way that makes
the fewest errors; a word given to the wrong speaker is then a deletion here and an insertion there. Source: Watanabe et
al., CHiME-6, arXiv 2004.09249; counted by meeteval (von Neumann et al., arXiv 2307.11394).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from redline.errors import DataError, RedlineError
from redline.evaluate.run import Result
from redline.evaluate.wer import Errors, normalizer
from redline.types import Turn

MISSING = "counting needs meeteval, which is not installed: pip install 'redline[speakers]'"


@dataclass(frozen=True)
class SpeakerScore:
    """How well the words of a group of utterances were given to their speakers."""

    errors: Errors = Errors()
    utterances: int = 0
    """Those that are scored: reference and answer name speakers, or the answer has no text at all."""
    left_out: int = 0
    """Those with speakers in the reference whose answer has text but names nobody, since nobody asked it to."""
    untagged: int = 0
    """Those that are scored as the words of one speaker, because the answer names nobody though it was asked to."""
    speakers: int = 0
    """Speakers of the references, counted in each utterance."""
    missed: int = 0
    """Speakers of the references that no speaker of the answer stands for."""
    invented: int = 0
    """Speakers of the answers that stand for nobody."""

    def __str__(self) -> str:
        """The score in a line."""
        if not self.utterances:
            return f"no number: {self.left_out} references name speakers, but the model names none"
        line = (
            f"{100 * self.errors.rate:.2f} % ({self.errors.count} errors in {self.errors.length} words of "
            f"{self.speakers} speakers in {self.utterances} utterances; speakers: {self.missed} missed, "
            f"{self.invented} invented)"
        )
        line += f"; {self.untagged} answers name nobody" if self.untagged else ""
        return line + (f"; {self.left_out} answers without speakers left out" if self.left_out else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; cpwer is null where nothing could be scored."""
        return {
            "cpwer": self.errors.rate if self.utterances and self.errors.length else None,
            "insertions": self.errors.insertions,
            "deletions": self.errors.deletions,
            "substitutions": self.errors.substitutions,
            "words": self.errors.length,
            "utterances": self.utterances,
            "left_out": self.left_out,
            "untagged": self.untagged,
            "speakers": self.speakers,
            "missed": self.missed,
            "invented": self.invented,
        }


def installed() -> bool:
    """Whether meeteval is there, so that its lack can be told before the work."""
    return find_spec("meeteval") is not None


def score(results: Iterable[Result]) -> SpeakerScore | None:
    """The cpWER of all utterances whose reference names speakers; None where none does.

    Raises `RedlineError` when there is something to count and meeteval is not installed.
    """
    asked = [result for result in results if result.item is not None and result.utterance.turns]
    if not asked:
        return None
    # A model that names speakers and hears nothing loses every word; one that names none is not judged by its silence.
    names = any(result.turns for result in asked)
    found = SpeakerScore()
    for result in asked:
        assert result.item is not None
        text = result.item.edited.strip()
        if result.turns or (names and (not text or result.task.speakers)):
            heard = result.turns or (Turn("", 0.0, result.item.duration, text),)
            try:
                one = score_turns(result.utterance.turns, heard, normalizer(result.item.language))
            except DataError as error:
                raise DataError(f"{result.utterance.id}: {error}") from error
            found = replace(
                found,
                errors=found.errors + one.errors,
                utterances=found.utterances + 1,
                speakers=found.speakers + one.speakers,
                missed=found.missed + one.missed,
                invented=found.invented + one.invented,
                untagged=found.untagged + (not result.turns and bool(text)),
            )
        else:
            found = replace(found, left_out=found.left_out + 1)
    return found


def score_turns(said: Sequence[Turn], heard: Sequence[Turn], normalize: Callable[[str], str]) -> SpeakerScore:
    """The cpWER of one utterance; the reference is put in order of time, the answer is taken in its own."""
    try:
        from meeteval.wer import cp_word_error_rate
    except ImportError as error:
        raise RedlineError(MISSING) from error
    references = _texts(sorted(said, key=lambda turn: turn.start), normalize)
    hypotheses = _texts(heard, normalize)
    try:
        # Texts carry no times, so there is nothing to sort by; saying so keeps meeteval from logging it.
        rate = cp_word_error_rate(references, hypotheses, reference_sort=False, hypothesis_sort=False)
    except RuntimeError as error:  # meeteval refuses more than 20 speakers
        raise DataError(
            f"{len(references)} speakers in the reference and {len(hypotheses)} in the answer are too many for one "
            f"utterance ({str(error).splitlines()[0]}); cut the recording into parts"
        ) from error
    return SpeakerScore(
        Errors(rate.insertions, rate.deletions, rate.substitutions, rate.length),
        utterances=1,
        speakers=len(references),
        missed=rate.missed_speaker,
        invented=rate.falarm_speaker,
    )


def _texts(turns: Iterable[Turn], normalize: Callable[[str], str]) -> dict[str, str]:
    """The normalised text of each speaker; those who say no word are left out.

    A speaker's turns are joined first, so that it makes no difference where a model ends one.
    """
    texts: dict[str, list[str]] = {}
    for turn in turns:
        texts.setdefault(turn.speaker, []).append(turn.text)
    joined = {speaker: normalize(" ".join(parts)).strip() for speaker, parts in texts.items()}
    return {speaker: text for speaker, text in joined.items() if text}
