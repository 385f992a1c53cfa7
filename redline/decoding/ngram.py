"""The n-gram LM of a draft: token n-grams with back-off (Katz, 1987), looked up in sorted tables on any device.

An n-gram's key is one int64: its tokens, newest lowest, a fixed number of bits each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        """All n-grams."""
        return sum(len(keys) for keys in self.keys)

    def to(self, device: torch.device | str) -> NgramLM:
        """Move the tables; returns itself."""
        for tables in (self.keys, self.probs, self.backoffs):
            tables[:] = [table.to(device) for table in tables]
        return self

    def advance(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """The histories after one more token each, both [N]."""
        return ((histories << self.bits) | tokens) & ((1 << (self.bits * (self.order - 1))) - 1)

    def score(self, histories: Tensor, tokens: Tensor) -> Tensor:
        """Natural log of each token's probability after its history: [N] int64 each -> [N] float32.

        The longest n-gram that is known counts; every history that had to be shortened on the way adds its weight.
        """
        whole = (histories << self.bits) | tokens
        result = torch.zeros(len(whole), device=whole.device)
        left = torch.arange(len(whole), device=whole.device)
        for order in range(self.order, 0, -1):
            keys = whole[left] & ((1 << (self.bits * order)) - 1)
            at, known = _find(self.keys[order - 1], keys)
            result[left[known]] += self.probs[order - 1][at[known]]
            left, keys = left[~known], keys[~known]
            if not len(left):
                return result
            if order > 1:
                at, known = _find(self.keys[order - 2], keys >> self.bits)
                result[left[known]] += self.backoffs[order - 2][at[known]]
        result[left] += self.unknown
        return result


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
