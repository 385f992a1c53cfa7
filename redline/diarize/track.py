"""The speaker embeddings along a clip, and those of any span of it.

N windows, M spans, E dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TimeSpan = tuple[float, float]
"""Start and end in seconds."""


@dataclass(frozen=True, eq=False)
class VoiceTrack:
    """Speaker embeddings of a clip's windows [N, E], unit vectors, and the middles of these windows in seconds [N]."""

    middles_s: Tensor
    embeddings: Tensor

    def __call__(self, spans: Sequence[TimeSpan]) -> Tensor:
        """Of each span the mean embedding of the windows in it, unit vectors [M, E].

        A window is in a span if its middle is; where there is none the nearest counts.
        """
        starts, ends = torch.tensor(spans, dtype=torch.float32).T[..., None]  # [M, 1] each
        inside = (self.middles_s >= starts) & (self.middles_s <= ends)  # [M, N]
        nearest = (self.middles_s - (starts + ends) / 2).abs().argmin(dim=1)
        chosen = torch.where(inside.any(dim=1, keepdim=True), inside, F.one_hot(nearest, len(self.middles_s)).bool())
        return F.normalize(chosen.to(self.embeddings) @ self.embeddings, dim=-1)

    def moved(self, offset_s: float) -> VoiceTrack:
        """The same some seconds later."""
        return replace(self, middles_s=self.middles_s + offset_s)
