"""Inverse text normalisation: spelled numbers as digits ("twenty three cats" -> "23 cats"), by the library text2num."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from redline.errors import RedlineError, packages_of
from redline.types import Segment, Transcript, Word, WordTimes, share

ITN_LANGUAGES = ("ca", "de", "en", "es", "fr", "it", "nl", "pt")
"""Languages whose numbers are known."""


def inverse_normalize(text: str, language: str) -> str:
    """A text with its spelled numbers as digits; single numbers up to three stay words, as in "one of us".

    Years said in pairs become two numbers ("nineteen ninety nine" -> "19 99"). Raises `RedlineError` for a language
    that is not known, or when text2num is not installed.
    """
    if language not in ITN_LANGUAGES:
        known = ", ".join(ITN_LANGUAGES)
        raise RedlineError(f"numbers of {language!r} are not known; known are {known}: leave digits out")
    with packages_of("digits", "writing digits"):
        from text_to_num import alpha2digit
    return str(alpha2digit(text, language))


def with_itn(transcript: Transcript, language: str | None = None) -> Transcript:
    """A transcript whose texts and words have digits; drafts and edits stay as the model wrote them."""
    language = transcript.language or language or "en"
    segments = tuple(segment_with_itn(segment, language) for segment in transcript.segments)
    return replace(transcript, text=inverse_normalize(transcript.text, language), segments=segments)


def segment_with_itn(segment: Segment, language: str) -> Segment:
    text = inverse_normalize(segment.text, language)
    timing = None if segment.timing is None else _TimingWithItn(segment.timing, text)
    return replace(segment, text=text, words=words_with_itn(segment.words, text), timing=timing)


def words_with_itn(words: Sequence[Word], text: str) -> tuple[Word, ...]:
    """Words of a text -> those of the same text with digits.

    "23" lasts from the start of "twenty" to the end of "three", is as certain as the less certain of them, and has the
    speaker of the first. No words stay none.
    """
    tokens = text.split()
    written: list[Word] = []
    matcher = SequenceMatcher(None, [word.text for word in words], tokens, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes() if words else ():
        spoken = words[a:b] or words[max(0, a - 1) : max(0, a - 1) + 1]  # what is only added shares with the one before
        known = [word.confidence for word in spoken if word.confidence is not None]
        like = replace(spoken[0], confidence=min(known, default=None))
        timed = share(tokens[c:d], spoken[0].start if a < b else spoken[-1].end, spoken[-1].end)
        written += (
            words[a:b] if kind == "equal" else [replace(like, start=w.start, end=w.end, text=w.text) for w in timed]
        )
    return tuple(written)


@dataclass(frozen=True)
class _TimingWithItn:
    """Words with digits, aligned when they are asked for."""

    timing: WordTimes
    text: str

    def __call__(self) -> tuple[Word, ...]:
        return words_with_itn(self.timing(), self.text)
