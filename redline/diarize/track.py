"""The speaker embeddings along a clip, of those spans that are asked for.

N windows, M spans, E dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TimeSpan = tuple[float, float]
"""Start and end in seconds."""


@dataclass(frozen=True, eq=False)
class VoiceTrack:
    """A clip's windows: their middles in seconds [N], and what embeds those of them that a mask [N] marks.

    That gives their speaker embeddings, unit vectors [n, E]. A window in a pause is in no span, and never computed.
    """

    middles_s: Tensor
    embed: Callable[[Tensor], Tensor]

    @property
    def embeddings(self) -> Tensor:
        """Of all windows, unit vectors [N, E]."""
        return self.embed(torch.ones(len(self.middles_s), dtype=torch.bool))

    def __call__(self, spans: Sequence[TimeSpan]) -> Tensor:
        """Of each span the mean embedding of the windows in it, unit vectors [M, E].

        A window is in a span if its middle is; where there is none the nearest counts.
        """
        starts, ends = torch.tensor(spans, dtype=torch.float32).T[..., None]  # [M, 1] each
        inside = (self.middles_s >= starts) & (self.middles_s <= ends)  # [M, N]
        nearest = (self.middles_s - (starts + ends) / 2).abs().argmin(dim=1)
        chosen = torch.where(inside.any(dim=1, keepdim=True), inside, F.one_hot(nearest, len(self.middles_s)).bool())
        inside_any = chosen.any(dim=0)
        embeddings = self.embed(inside_any)
        return F.normalize(chosen[:, inside_any].to(embeddings) @ embeddings, dim=-1)

    def moved(self, offset_s: float) -> VoiceTrack:
        """The same some seconds later."""
        return replace(self, middles_s=self.middles_s + offset_s)
