"""Inverse text normalisation: spelled numbers as digits ("twenty three cats" -> "23 cats"), by the library text2num."""

from __future__ import annotations

from dataclasses import replace

from redline.errors import RedlineError, packages_of
from redline.types import Segment, Transcript
from redline.word_rewriting import RewrittenTimes, rewritten

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
    timing = None if segment.timing is None else RewrittenTimes(segment.timing, text)
    return replace(segment, text=text, words=rewritten(segment.words, text), timing=timing)
