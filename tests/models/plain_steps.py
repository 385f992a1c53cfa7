"""Tokens read one by one behind prompts in a key-value cache, as a decode loop does, greedily and without an end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redline.models.ar import ArModel
from redline.models.granite import GraniteLM, KVCache


class Reader:
    """The rows of a cache, each in the slot of its number."""

    def __init__(self, lm: GraniteLM, rows: int, places: int) -> None:
        self.lm = lm
        self.cache = KVCache(lm.config, rows, places, lm.model.embed_tokens.weight)
        self.lengths = [0] * rows

    def prefill(self, model: ArModel, prompts: Sequence[Sequence[int]], audio: Tensor) -> Tensor:
        """Prompts into the first slots -> hidden states [B, L, H]."""
        self.lengths[: len(prompts)] = map(len, prompts)
        return model.prefill(prompts, audio, self.cache, torch.arange(len(prompts)))

    def extend(self, embeddings: Tensor, counts: Sequence[int]) -> Tensor:
        """So many of the next places of each of the first B rows: [B, L, H] -> [B, L, H]."""
        B, L, _ = embeddings.shape
        places = torch.tensor(self.lengths[:B])[:, None] + torch.arange(L)
        self.lengths[:B] = [length + count for length, count in zip(self.lengths, counts, strict=False)]
        visible = torch.arange(self.cache.keys.shape[3]) <= places[..., None]
        return self.lm.advance(embeddings, places, places, visible, self.cache)

    def step(self, ids: Sequence[int]) -> Tensor:
        """One token of each of the first B rows -> logits [B, V]."""
        hidden = self.extend(self.lm.embed(torch.tensor(ids)[:, None]), [1] * len(ids))
        return self.lm.logits(hidden[:, 0])
