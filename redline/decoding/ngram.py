"""The n-gram LM of a draft: token n-grams with back-off (Katz, 1987), looked up in sorted tables.

An n-gram's key is one int64: its tokens, newest lowest, a fixed number of bits each, and a bit in front of them, which
says how many there are: so one sorted table has the n-grams of all orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from redline.decoding.ctc_beam import BeamOptions
from redline.errors import ConfigError

if TYPE_CHECKING:
    from redline.types import Floats, Ints


@dataclass(frozen=True)
class DraftOptions(BeamOptions):
    """How drafts are searched for, drawn towards keywords and edited, as a checkpoint's n-gram file states it."""

    keyword_boost: float = 3.0
    """What each token of a keyword is worth, in nats; 0 leaves keywords alone."""
    keep_bias: float = 0.0
    """What the editor adds to the log probability of what stands in a slot, in nats: the margin that an edit needs."""
    sound_weight: float = 0.0
    """What the draft head's log probabilities count for beside the editor's when a slot is decided (log-linear)."""


LEAST_ROWS = 2048
"""Histories that a pool has space for, at least."""
POOLED_TOKENS = 2048
"""The largest vocabulary of which histories keep the scores of all tokens."""
ALONE = DraftOptions(lm_weight=0.0, token_bonus=0.0)
"""Without a language model."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, sorted by key."""

    keys: NDArray[np.int64]
    probs: NDArray[np.float32]
    """Natural logs."""
    backoffs: NDArray[np.float32]
    """Natural logs; 0 where nothing goes on from the n-gram."""


class NgramLM:
    """A back-off model over the tokens of a draft; a history is an int64 that only the model can read."""

    def __init__(self, orders: Sequence[Grams], vocab_size: int, boundary: int, options: DraftOptions) -> None:
        """`boundary` is the token before each text; `options` suit the encoder that the model was made for."""
        self.bits = bits_for(vocab_size, len(orders))
        self.vocab_size = vocab_size
        self.boundary = boundary
        self.options = options
        self.sizes = [len(grams.keys) for grams in orders]
        """How many n-grams each order has."""
        self._keys = np.concatenate([grams.keys | self._front(n) for n, grams in enumerate(orders, start=1)])
        self._probs = np.concatenate([grams.probs for grams in orders])
        self._backoffs = np.concatenate([grams.backoffs for grams in orders])
        self.unknown = self._probs.min()

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram."""
        return len(self.sizes)

    def grams(self, order: int) -> Grams:
        """The n-grams of one order."""
        at = slice(sum(self.sizes[: order - 1]), sum(self.sizes[:order]))
        return Grams(self._keys[at] ^ self._front(order), self._probs[at], self._backoffs[at])

    def pool(self, size: int) -> ScorePool | None:
        """A pool for searches with `size` living histories; None where the vocabulary is large."""
        return ScorePool(self, size) if self.boundary < self.vocab_size <= POOLED_TOKENS else None

    def advance(self, histories: Ints, tokens: Ints) -> Ints:
        """The histories after one more token each, both [N]."""
        return ((histories << self.bits) | tokens) & (self._front(self.order - 1) - 1)

    def score(self, histories: Ints, tokens: Ints) -> Floats:
        """Natural log of each token's probability after its history: [N] int64 each -> [N] float32.

        That of the longest n-gram that is known; each history that has to be shortened for it adds its weight.
        """
        whole = (histories << self.bits) | tokens
        _, _, weights = self._histories(histories)
        result: Floats = self.unknown + weights[0]
        for order, weight in enumerate(weights, start=1):
            at, known = self._find(self._key(whole, order))
            result = np.where(known, self._probs[at] + weight, result)
        return result

    def score_all(self, histories: Ints) -> Floats:
        """What `score` gives for every token of the vocabulary: [K] -> [K, V]; for small vocabularies."""
        unigrams, bigrams = self._short
        at, known, weights = self._histories(histories)
        rows = bigrams[histories & (self._front(1) - 1)] + weights[min(1, self.order - 1), :, None]
        rows = np.where(np.isnan(rows), unigrams + weights[0, :, None], rows)
        # The n-grams of each longer history that is known, the longest last: they write over those of shorter ones.
        length, row = known[1:].nonzero()
        before = self._keys[at[1:][length, row]] << self.bits
        first, end = np.searchsorted(self._keys, before), np.searchsorted(self._keys, before + self._front(1))
        counts = end - first
        behind = np.arange(counts.sum()) + np.repeat(first - (counts.cumsum() - counts), counts)
        scores = self._probs[behind] + np.repeat(weights[length + 2, row], counts)
        rows[np.repeat(row, counts), self._keys[behind] & (self._front(1) - 1)] = scores
        return rows

    @cached_property
    def _short(self) -> tuple[Floats, Floats]:
        """Log probabilities of unigrams [V], and of bigrams [V, V], NaN where one is unknown."""
        tokens = np.arange(self.vocab_size)
        at, known = self._find(self._key(tokens, 1))
        bigrams = np.full((self.vocab_size, self.vocab_size), np.nan, dtype=np.float32)
        if self.order > 1:
            pairs = self.grams(2)
            bigrams[pairs.keys >> self.bits, pairs.keys & (self._front(1) - 1)] = pairs.probs
        return np.where(known, self._probs[at], self.unknown), bigrams

    def _histories(self, histories: Ints) -> tuple[Ints, NDArray[np.bool_], Floats]:
        """Of the last 1, 2, ... tokens of K histories: where each is in the table and whether, [order - 1, K] both, and
        what is added to the log probability of an n-gram of each order behind it, [order, K]."""
        lengths = np.arange(1, self.order)[:, None]
        at, known = self._find(self._key(histories, lengths))
        backoffs = np.where(known, self._backoffs[at], np.float32(0.0))
        weights = np.zeros((self.order, len(histories)), dtype=np.float32)
        weights[:-1] = backoffs[::-1].cumsum(axis=0)[::-1]
        return at, known, weights

    def _find(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Where each key would be in the table, and whether it is there."""
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return at, self._keys[at] == keys

    def _key(self, tokens: Ints, length: int | Ints) -> Ints:
        """The key of the last `length` of tokens, the newest lowest."""
        front = self._front(length)
        return (tokens & (front - 1)) | front

    def _front(self, length: int | Ints) -> Ints:
        """The bit in front of so many tokens."""
        return np.left_shift(np.int64(1), self.bits * length)


class ScorePool:
    """The scores of all tokens after each history that a search has come to; a history is scored once, not per frame.

    Its plain twin is `NgramLM.score`. For vocabularies of which a row of scores is small.
    """

    def __init__(self, lm: NgramLM, size: int) -> None:
        """For searches in which up to `size` histories are alive."""
        self.lm, self.used = lm, 0
        self.rows = np.empty((max(LEAST_ROWS, 3 * size), lm.vocab_size), dtype=np.float32)

    def add(self, histories: Ints) -> Ints:
        """The rows of histories, [N] -> [N]."""
        new, places = np.unique(histories, return_inverse=True)
        first, self.used = self.used, self.used + len(new)
        self.rows[first : self.used] = self.lm.score_all(new)
        return first + places

    def keep(self, alive: Ints) -> Ints:
        """Forget all rows but these where there may be no space for as many again; returns where they are then."""
        if self.used + alive.size <= len(self.rows):
            return alive
        kept, places = np.unique(alive, return_inverse=True)
        self.rows[: len(kept)] = self.rows[kept]
        self.used = len(kept)
        return places.reshape(alive.shape)


def bits_for(vocab_size: int, order: int) -> int:
    """Bits of one token in a key; raises `ConfigError` when n-grams of that order do not fit into an int64."""
    bits = max(1, (vocab_size - 1).bit_length())
    if bits * order > 62:  # and one in front, and a sign
        raise ConfigError(f"order {order} with {vocab_size} tokens; at most {62 // bits} tokens fit into an n-gram")
    return bits
