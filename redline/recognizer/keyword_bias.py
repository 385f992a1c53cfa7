"""Keywords as the ids that a draft would spell them with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from redline import prompts, punctuation
from redline.decoding.biasing import Keywords
from redline.decoding.keyword_patches import KeywordBias
from redline.tokenizer import Tokenizer


def keyword_bias(
    tokenizer: Tokenizer,
    keywords: Sequence[str],
    boost: float,
    device: torch.device,
    most: int = prompts.MAX_KEYWORDS,
) -> KeywordBias | None:
    """What favours these words in a search by `boost` nats a token, as given and in small letters; None without any.

    Raises `UnsupportedTaskError` for more than `most`, or too long ones.
    """
    words = prompts.checked_keywords(keywords, most)
    if not words or not boost:
        return None

    def found(ids: Sequence[int]) -> list[tuple[int, int]]:
        return punctuation.keyword_spans(tokenizer.pieces(ids), words)

    return KeywordBias(_tree(tokenizer, words, boost).to(device), tokenizer.word_starts, found)


@lru_cache(maxsize=8)
def _tree(tokenizer: Tokenizer, keywords: tuple[str, ...], boost: float) -> Keywords:
    words = [form for word in keywords for form in dict.fromkeys((word, word.lower()))]
    inside, first = ([tokenizer.encode(space + word) for word in words] for space in (" ", ""))
    return Keywords(inside, first, tokenizer.word_starts, boost)
