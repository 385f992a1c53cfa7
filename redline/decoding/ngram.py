"""The n-gram LM of a draft: token n-grams with back-off (Katz, 1987), looked up in sorted tables on any device.

An n-gram's key is one int64: its tokens, newest lowest, a fixed number of bits each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.decoding.ctc_beam import BeamOptions
from redline.errors import ConfigError


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
        self.keys = [torch.from_numpy(grams.keys) for grams in orders]
        self.probs = [torch.from_numpy(grams.probs) for grams in orders]
        self.backoffs = [torch.from_numpy(grams.backoffs) for grams in orders]
        self.unknown = float(min(grams.probs.min() for grams in orders))

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram."""
        return len(self.keys)

    @property
    def count(self) -> int:
        return sum(len(keys) for keys in self.keys)

    def to(self, device: torch.device | str) -> NgramLM:
        """Move the tables; returns itself."""
        for tables in (self.keys, self.probs, self.backoffs):
            tables[:] = [table.to(device) for table in tables]
        if "_bigrams" in vars(self):
            self._bigrams = self._bigrams.to(device)
        return self

    def pool(self, size: int) -> ScorePool | None:
        """A pool for searches with `size` living histories; None where the vocabulary is large."""
        return ScorePool(self, size) if self.boundary < self.vocab_size <= POOLED_TOKENS else None

    def advance(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """The histories after one more token each, both [N]."""
        return ((histories << self.bits) | tokens) & self._mask(self.order - 1)

    def score(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """Natural log of each token's probability after its history: [N] int64 each -> [N] float32.

        That of the longest n-gram that is known; each history that has to be shortened for it adds its weight.
        """
        whole = (histories << self.bits) | tokens
        result = torch.full(whole.shape, self.unknown, device=whole.device)
        for order, (keys, probs) in enumerate(zip(self.keys, self.probs, strict=True), start=1):
            if order > 1:
                result = result + self._backoff(histories, order)
            at, known = _find(keys, whole & self._mask(order))
            result = torch.where(known, probs[at], result)
        return result

    def score_all(self, histories: Tensor) -> Tensor:
        """What `score` gives for every token of the vocabulary: [K] -> [K, V]; for small vocabularies."""
        rows = self._bigrams[histories & self._mask(1)]
        for order in range(3, self.order + 1):
            rows += self._backoff(histories, order)[:, None]
            self._put_followers(rows, histories, order)
        return rows

    @cached_property
    def _bigrams(self) -> Tensor:
        """Scores of all tokens after each token, [V, V]."""
        single = torch.arange(self.vocab_size, device=self.keys[0].device)
        at, known = _find(self.keys[0], single)
        rows = torch.where(known, self.probs[0][at], self.unknown).repeat(self.vocab_size, 1)
        if self.order > 1:
            rows += self._backoff(single, 2)[:, None]
            self._put_followers(rows, single, 2)
        return rows

    def _backoff(self, histories: Tensor, order: int) -> Tensor:
        """The weight of n-grams shorter than `order` after each history, [N]."""
        at, known = _find(self.keys[order - 2], histories & self._mask(order - 1))
        return self.backoffs[order - 2][at].masked_fill(~known, 0.0)

    def _put_followers(self, rows: Tensor, histories: Tensor, order: int) -> None:
        """Write what n-grams of an order say of the tokens behind each history [K] into its row of [K, V]."""
        keys, before = self.keys[order - 1], (histories & self._mask(order - 1)) << self.bits
        first, end = torch.searchsorted(keys, before), torch.searchsorted(keys, before + (1 << self.bits))
        ends = (end - first).cumsum(0)
        place = torch.arange(int(ends[-1]) if len(ends) else 0, device=keys.device)  # of each follower among all
        row = torch.searchsorted(ends, place, right=True)
        at = place + (end - ends)[row]
        rows[row, keys[at] & self._mask(1)] = self.probs[order - 1][at]

    def _mask(self, order: int) -> int:
        return int((1 << (self.bits * order)) - 1)


class ScorePool:
    """The scores of all tokens after each history that a search has come to; a history is scored once, not per frame.

    Its plain twin is `NgramLM.score`. For vocabularies of which a row of scores is small.
    """

    def __init__(self, lm: NgramLM, size: int) -> None:
        """For searches in which up to `size` histories are alive."""
        self.lm, self.used = lm, 0
        self.rows = torch.empty(max(LEAST_ROWS, 3 * size), lm.vocab_size, device=lm.keys[0].device)

    def add(self, histories: Tensor) -> Tensor:
        """The rows of histories, [N] -> [N]."""
        new, places = histories.unique(return_inverse=True)
        first, self.used = self.used, self.used + len(new)
        self.rows[first : self.used] = self.lm.score_all(new)
        return first + cast(Tensor, places)

    def keep(self, alive: Tensor) -> Tensor:
        """Forget all rows but these where there may be no space for as many again; returns where they are then."""
        if self.used + alive.numel() <= len(self.rows):
            return alive
        kept, places = alive.unique(return_inverse=True)
        self.rows[: len(kept)] = self.rows[kept]
        self.used = len(kept)
        return cast(Tensor, places)


def bits_for(vocab_size: int, order: int) -> int:
    """Bits of one token in a key; raises `ConfigError` when n-grams of that order do not fit into an int64."""
    bits = max(1, (vocab_size - 1).bit_length())
    if bits * order > 63:
        raise ConfigError(f"order {order} with {vocab_size} tokens; at most {63 // bits} tokens fit into an n-gram")
    return bits


def _find(table: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Where each key would be in a sorted table, and whether it is there."""
    at = torch.searchsorted(table, keys).clamp(max=len(table) - 1)
    return at, table[at] == keys
