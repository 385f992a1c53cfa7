"""Texts as they are compared: Whisper's rules for English, its basic rules (lower case, no punctuation) for others.

Scores of an evaluation and those that are watched while a model learns come from the same texts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from redline.errors import RedlineError


@lru_cache
def normalizer(language: str) -> Callable[[str], str]:
    """The normaliser of a language; raises `RedlineError` when the package that has it is not installed."""
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        reason = "scoring needs whisper-normalizer, which is not installed: pip install 'redline[evaluate]'"
        raise RedlineError(reason) from error
    make: Callable[[], Callable[[str], str]] = EnglishTextNormalizer if language == "en" else BasicTextNormalizer
    return make()
