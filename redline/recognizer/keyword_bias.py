"""Keywords as the ids that a draft would spell them with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from redline import prompts, punctuation
from redline.decoding.biasing import KeywordTrie
from redline.decoding.keyword_patches import KeywordBias, Stretch
from redline.tokenizer import Tokenizer


def keyword_bias(
    tokenizer: Tokenizer, keywords: Sequence[str], boost: float, most: int = prompts.MAX_KEYWORDS
) -> KeywordBias | None:
    """What draws a search towards these words by `boost` nats a token, as given and in small letters; None without any.

    Raises `UnsupportedTaskError` for more than `most`, or too long ones.
    """
    words = prompts.checked_keywords(keywords, most)
    if not words or not boost:
        return None

    def find(ids: Sequence[int]) -> list[Stretch]:
        return punctuation.keyword_spans(tokenizer.pieces(ids), words)

    return KeywordBias(_trie(tokenizer, words, boost), tokenizer.word_starts, find)


@lru_cache(maxsize=64)
def _trie(tokenizer: Tokenizer, keywords: tuple[str, ...], boost: float) -> KeywordTrie:
    words = [form for word in keywords for form in dict.fromkeys((word, word.lower()))]
    inside, first = ([tokenizer.encode(space + word) for word in words] for space in (" ", ""))
    return KeywordTrie.build(inside, first, tokenizer.word_starts, boost)
