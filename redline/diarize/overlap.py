"""Overlapped speech detection (`out_overlap.safetensors`): log-mel features -> where two speak at once, and who.

A small dilated convolutional network that heard two voices of the training set on top of each other, as one microphone
hears them. What it marks is meant to be right rather than complete.

T feature frames (20 ms), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline import tensor_file
from redline.diarize.track import TimeSpan
from redline.features import FEATURE_DIM, FRAME_RATE
from redline.quantization import dequantized, quantized
from redline.types import Overlap, Word

OVERLAP_HEAD = "out_overlap.safetensors"
CHANNELS, CONV_LAYERS, TAPS = 64, 5, 5
SPREAD = 0.25
"""Of log-mel features about their mean, in their own units."""
SMOOTHED = 11
"""Frames over which probabilities are averaged."""
MIN_PROBABILITY = 0.65
MIN_OVERLAP_S = 0.3
MAX_GAP_S = 0.2
"""A shorter gap between two stretches of overlapped speech is part of it."""
NEAR_S = 1.5
"""Who has no word so near to a stretch of overlapped speech is not taken for one of its speakers."""


class OverlapDetector(nn.Module):
    """A clip's features [T, 160] -> log-odds of overlapped speech in each frame [T]."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(FEATURE_DIM, CHANNELS)
        reach = [2**layer for layer in range(CONV_LAYERS)]
        self.convs = nn.ModuleList(
            nn.Conv1d(CHANNELS, CHANNELS, TAPS, padding=TAPS // 2 * step, dilation=step) for step in reach
        )
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in reach)
        self.out = nn.Linear(CHANNELS, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = (features - features.mean(dim=-2, keepdim=True)) / SPREAD
        x = self.inp(x)  # [..., T, C]
        for layer, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = x + F.gelu(_convolved(norm(x), conv, 2**layer))
        logits: Tensor = self.out(x)[..., 0]
        return logits

    @torch.no_grad()
    def spans(self, features: Tensor) -> list[TimeSpan]:
        """Where two speak at once in one clip [T, 160], in seconds."""
        likely = self(features.float().to(self.out.weight)).sigmoid()
        smooth = F.avg_pool1d(likely[None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)[0]
        return stretches((smooth > MIN_PROBABILITY).tolist())


def _convolved(x: Tensor, conv: nn.Module, step: int) -> Tensor:
    """A convolution over frames [..., T, C] as one product: oneDNN would plan anew for every length of a clip."""
    taps = F.pad(x, (0, 0, TAPS // 2 * step, TAPS // 2 * step)).unfold(-2, x.shape[-2], step)  # [..., taps, C, T]
    return torch.einsum("...kct,ock->...to", taps, conv.get_parameter("weight")) + conv.get_parameter("bias")


def stretches(marked: Sequence[bool]) -> list[TimeSpan]:
    """Marked frames as stretches in seconds: short gaps are bridged, then short stretches left out."""
    joined: list[TimeSpan] = []
    for frame in (at for at, is_marked in enumerate(marked) if is_marked):
        start, end = frame / FRAME_RATE, (frame + 1) / FRAME_RATE
        if joined and start - joined[-1][1] < MAX_GAP_S:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return [(start, end) for start, end in joined if end - start >= MIN_OVERLAP_S]


def overlaps_of(spans: Sequence[TimeSpan], words: Sequence[Word]) -> tuple[Overlap, ...]:
    """Stretches of overlapped speech, each once for either of its two speakers: those of the words nearest to it.

    Where only one speaker has words near, nothing tells who the other is, and the stretch is left out.
    """
    found: list[Overlap] = []
    for start, end in spans:

        def distance(word: Word, start: float = start, end: float = end) -> tuple[float, float]:
            apart = max(start - word.end, word.start - end, 0.0)
            return apart, abs(word.start + word.end - start - end)

        near = sorted((word for word in words if distance(word)[0] <= NEAR_S), key=distance)
        speakers = list(dict.fromkeys(word.speaker for word in near if word.speaker))
        if len(speakers) >= 2:
            found += [Overlap(round(start, 3), round(end, 3), speaker) for speaker in speakers[:2]]
    return tuple(found)


def save_overlap_detector(detector: OverlapDetector, path: Path) -> Path:
    """Write the network: int8 weights with a scale for each row, the rest in half precision."""
    half = {name: tensor.half() for name, tensor in detector.state_dict().items()}
    return tensor_file.save_head(quantized(half), path, ("overlap",))


def load_overlap_detector(path: Path) -> OverlapDetector:
    """Read the network in float32; raises `CheckpointError` when the file is none or does not fit."""
    tensors, _ = tensor_file.load_head(path)
    return tensor_file.fill(OverlapDetector, dequantized(tensors, path), path)
