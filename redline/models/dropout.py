"""Dropout whose masks cost little on CPUs, where drawing one number an element takes a quarter of a training step."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.invariant import Layer

LEVELS = 1 << 16


class Dropout(Layer, nn.Dropout):
    """`nn.Dropout`; on CPUs a mask takes 16 bits an element of a fast generator, so that `p` is exact to 1/65,536.

    The generator is seeded by torch's, so `torch.manual_seed` decides the masks as before.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0.0, 1.0) or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        draw = np.random.SFC64(int(torch.randint(1 << 62, ())))
        bits = torch.from_numpy(draw.random_raw(-(-x.numel() // 4)).view(np.int16))[: x.numel()].view(x.shape)
        kept = (bits >= dropped - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
        return x * kept
