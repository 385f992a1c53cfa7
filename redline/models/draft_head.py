"""The CTC head with which an encoder drafts in the language model's tokens (arXiv 2603.11243)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.dropout import Dropout
from redline.models.invariant import Linear, linear

if TYPE_CHECKING:
    from redline.models.conformer import EncoderOutput

CHAR_BLANK = 0
"""The blank's row of the encoder's character head."""
LOGIT_ROWS = 256
"""Positions of which the logits of a whole vocabulary exist at once; of 2B's they take 100 MB."""


def posterior_pool(hidden: Tensor, not_blank: Tensor, mask: Tensor, window: int) -> Tensor:
    """Mean of each window of frames weighted by 1 - P(blank): [B, T, D] -> [B, ceil(T / window), D] in float32."""
    extra = -hidden.shape[1] % window
    weights = F.pad(not_blank.float().masked_fill(~mask, 0.0), (0, extra)).unflatten(1, (-1, window))  # [B, W, w]
    frames = F.pad(hidden.float().masked_fill(~mask[..., None], 0.0), (0, 0, 0, extra)).unflatten(1, (-1, window))
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
    # One frame after the other: the order of a sum over a dimension depends on the sizes of the others.
    pooled: Tensor = weights[:, :, 0, None] * frames[:, :, 0]
    for place in range(1, window):
        pooled = pooled + weights[:, :, place, None] * frames[:, :, place]
    return pooled


class DraftHead(nn.Module):
    """CTC over tokens on posterior-pooled frames: row i writes token i, and row `blank` nothing.

    Files whose rows are in another order are brought into this one where they are read, and back where they are
    written.
    """

    def __init__(self, hidden_dim: int, rows: int, *, blank: int, window: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blank = blank
        self.window = window
        layer = Linear(hidden_dim, rows)
        self.weight, self.bias = layer.weight, layer.bias
        self.dropout = Dropout(dropout)

    @property
    def rows(self) -> int:
        """Labels it tells apart, the blank among them."""
        return len(self.weight)

    def pool(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> pooled states [B, W, D] and lengths [B]."""
        posterior = encoded.mid_logits.softmax(dim=-1, dtype=torch.float32)
        pooled = posterior_pool(encoded.hidden, 1.0 - posterior[..., CHAR_BLANK], encoded.mask, self.window)
        return pooled.to(encoded.hidden.dtype), -(-encoded.lengths // self.window)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled states [..., D] -> logits [..., rows]."""
        return linear(self.dropout(pooled), self.weight, self.bias)

    def forward(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> logits [B, W, rows] and lengths [B]."""
        pooled, lengths = self.pool(encoded)
        return self.logits(pooled), lengths
