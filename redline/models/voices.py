"""The head that tells voices apart (`out_voices.safetensors`): spans of log-mel features -> directions, one a voice.

It reads the features that every model is given, not the encoder's states, which have learned to forget who speaks.
Frames are seen once; mean and spread of what they show, over whichever spans are asked for, come from running sums
(x-vectors: Snyder et al., ICASSP 2018). Two spans of one voice point the same way.

B batch, T feature frames, C channels, E numbers a direction.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from redline.errors import CheckpointError
from redline.features import DYNAMIC_RANGE, FEATURE_DIM, N_MELS, band_edges
from redline.models import heads
from redline.models.conformer import valid_frames

VOICES = "out_voices.safetensors"
DILATIONS = (1, 2, 3)
LEAST_VARIANCE = 1e-4
NARROW_HZ = (4500.0, 6000.0)
"""Above a telephone's band, and below where sparing codecs end."""

SpanOfFrames = tuple[int, int]


class VoiceHead(nn.Module):
    """Features [B, T, 160] with lengths [B] -> what their frames show, and directions [B, E] of whole clips."""

    def __init__(self, channels: int = 100, size: int = 64) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        widths = (FEATURE_DIM, *[channels] * (len(DILATIONS) - 1))
        kernels = (5, 3, 3)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for width, kernel, dilation in zip(widths, kernels, DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in DILATIONS)
        self.wide = nn.Linear(channels, 2 * channels)
        self.weight = nn.Linear(channels, 1)
        self.out = nn.Linear(4 * channels, size)

    def frames(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What each frame shows [B, T, 2C] and how much it counts [B, T, 1]; nothing past the lengths does."""
        mask = valid_frames(lengths, x.shape[1])[..., None]
        shown = x.masked_fill(~mask, 0.0)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            new = norm(F.relu(conv(shown.transpose(1, 2)).transpose(1, 2)))
            shown = (shown + new if number else new).masked_fill(~mask, 0.0)  # [B, T, C]
        return F.relu(self.wide(shown)), self.weight(shown).float().exp().masked_fill(~mask, 0.0)

    def direction(self, mean: Tensor, square: Tensor) -> Tensor:
        """Weighted means of what is shown and of its square, [..., 2C] each -> unit vectors [..., E]."""
        spread = (square - mean.square()).clamp(min=LEAST_VARIANCE).sqrt()
        return F.normalize(self.out(torch.cat((mean, spread), dim=-1)), dim=-1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Directions [B, E] of clips or pieces [B, T, 160] that are `levelled` already."""
        shown, weight = self.frames(x, lengths)
        shown = shown.float()
        weight = weight / weight.sum(dim=1, keepdim=True)
        return self.direction((shown * weight).sum(dim=1), (shown.square() * weight).sum(dim=1))

    @torch.no_grad()
    def track(self, x: Tensor, lengths: Tensor) -> list[VoiceTrack]:
        """The voices of each clip of a batch, as recorded: features [B, T, 160], lengths [B]."""
        rows = [levelled(row[:length]) for row, length in zip(x, lengths.tolist(), strict=True)]
        level = pad_sequence(rows, batch_first=True).to(self.out.weight)
        shown, weight = (part.cpu().double() for part in self.frames(level, lengths))
        tracks = []
        for row, amount, length in zip(shown, weight, lengths.tolist(), strict=True):
            row, amount = row[:length], amount[:length]
            sums = torch.cat((amount, amount * row, amount * row.square()), dim=-1).cumsum(dim=0)
            tracks.append(VoiceTrack(self, F.pad(sums, (0, 0, 1, 0))))
        return tracks


@dataclass(frozen=True)
class VoiceTrack:
    """One clip's voices: running sums of its frames, [T + 1, 1 + 4C], from which any span's direction follows."""

    head: VoiceHead
    sums: Tensor

    @property
    def frames(self) -> int:
        return len(self.sums) - 1

    @torch.no_grad()
    def __call__(self, spans: Sequence[SpanOfFrames]) -> Tensor:
        """Directions [N, E] of N spans of frames, each of at least one frame inside the clip."""
        starts, ends = torch.tensor(list(spans)).T
        amount, mean, square = (self.sums[ends] - self.sums[starts]).split(
            [1, 2 * self.head.channels, 2 * self.head.channels], dim=-1
        )
        weight = self.head.out.weight
        mean, square = ((part / amount).to(weight) for part in (mean, square))
        return self.head.direction(mean, square).float().cpu()


def levelled(features: Tensor) -> Tensor:
    """A clip's features [T, 160] less the mean of its speech: what room and microphone add to all voices is away.

    A band that nothing is heard in, as above a telephone's, is 0 like one that never changes.
    """
    picture = features.float().reshape(-1, N_MELS)  # [2T, 80]
    level = picture.mean(dim=1)
    loud = level >= (level.quantile(0.1) + level.quantile(0.9)) / 2
    return (picture - picture[loud].mean(dim=0)).reshape(-1, FEATURE_DIM)


def is_narrow(features: Tensor) -> bool:
    """Whether a clip [T, 160] holds nothing above a telephone's band, where voices are harder to tell apart.

    Features end a fixed distance below their largest value; there the band is filled with that floor alone.
    """
    picture = features.float().reshape(-1, N_MELS)  # [2T, 80]
    hertz = band_edges()[1:-1]
    above = picture[:, ((hertz > NARROW_HZ[0]) & (hertz < NARROW_HZ[1])).to(picture.device)].mean(dim=1)
    return float(above.quantile(0.95)) < float(picture.max()) - DYNAMIC_RANGE / 4.0 + 0.05


def save(head: VoiceHead, path: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write a head; what its rows mean is its channels and the length of a direction."""
    return heads.save(copy.deepcopy(head).to(dtype), path, (str(head.channels), str(head.size)))


def load(path: Path) -> VoiceHead:
    """Read a head for voices; raises `CheckpointError` when the file is none or does not fit."""
    tensors, rows = heads.read(path)
    if len(rows) != 2 or not all(row.isdecimal() and 0 < int(row) <= 4096 for row in rows):
        raise CheckpointError(f"{path}: its rows are {' '.join(rows)!r}; two numbers are expected, channels and size")
    return heads.filled(VoiceHead(*map(int, rows)), tensors, path)
