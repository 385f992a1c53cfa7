"""Speaker embedding networks for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.diarize.embedder import SpeakerEmbedder
from redline.features import N_MELS


def hearing_all_bands(head: SpeakerEmbedder) -> SpeakerEmbedder:
    """A network with random weights whose bands are pairs of mel bands."""
    head.bands.copy_(torch.eye(N_MELS)[:, ::2] + torch.eye(N_MELS)[:, 1::2])
    return head.eval()


class ByPitch(SpeakerEmbedder):
    """In place of the network: a window's loudest band is its voice."""

    def __init__(self) -> None:
        super().__init__(40)
        hearing_all_bands(self)

    def forward(self, mel: Tensor) -> Tensor:
        return F.normalize(mel.mean(dim=1).square(), dim=-1)
