"""Augmentation of log-mel features on the fly: vocal tract length, equalization, time warps and masks.

All of it works on the mel spectrogram, so that every epoch is a new one at no cost in audio work.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from redline.features import FEATURE_DIM, N_MELS, band_edges
from redline.types import SAMPLE_RATE

LEVEL_PER_DB = 1.0 / 40.0
"""Features are log10 of power, divided by four."""
EQUALIZER_WAVES = 4


@dataclass(frozen=True)
class SpecAugmentOptions:
    """SpecAugment (arXiv 1904.08779) and its companions, drawn anew for every batch; mel frames are 10 ms."""

    time_warp_frames: int = 80  # 0 leaves the time axis as it is
    feature_masks: int = 2
    feature_mask_size: int = 20
    frame_masks: int = 8
    frame_mask_size: int = 40
    max_masked_share: float = 0.2
    probability: float = 0.95  # share of utterances that are warped and masked at all
    tract_warp: float = 0.0
    """Vocal tract length perturbation: largest relative change, which scales the frequency axis; 0.12 spans adults."""
    colour_db: float = 0.0
    """Random equalization: spread of a smooth curve over frequency, as other microphones and rooms have."""


def augment_features(rows: Sequence[Tensor], options: SpecAugmentOptions, seed: int) -> list[Tensor]:
    """Augmented copies of the features of some utterances, [T, 160] each; the same seed gives the same copies."""
    from lhotse.dataset import SpecAugment

    draw = random.Random(seed)
    spectrograms = []
    for row in rows:
        mel = row.reshape(-1, N_MELS)  # [2T, 80]
        if options.tract_warp:
            mel = mel @ vtlp_matrix(round(100 * (1.0 + draw.uniform(-options.tract_warp, options.tract_warp))))
        if options.colour_db:
            mel = mel + random_equalizer(options.colour_db * LEVEL_PER_DB, draw)
        spectrograms.append(mel)
    transform = SpecAugment(
        time_warp_factor=options.time_warp_frames or None,
        num_feature_masks=options.feature_masks,
        features_mask_size=options.feature_mask_size,
        num_frame_masks=options.frame_masks,
        frames_mask_size=options.frame_mask_size,
        max_frames_mask_fraction=options.max_masked_share,
        p=options.probability,
    )
    with _seeded(seed):
        return [transform(mel[None]).reshape(-1, FEATURE_DIM) for mel in spectrograms]


@lru_cache(maxsize=256)
def vtlp_matrix(percent: int) -> Tensor:
    """Vocal tract length perturbation as a matrix [80, 80] over mel bands (Jaitly and Hinton, 2013)."""
    factor, top = percent / 100.0, SAMPLE_RATE / 2
    hertz = band_edges()[1:-1].numpy()
    # The axis is bent back above 4.8 kHz, so that it ends where it ended.
    knee = 0.6 * top / max(factor, 1.0)
    bent = knee * factor + (hertz - knee) * (top - knee * factor) / (top - knee)
    source = np.interp(np.where(hertz < knee, hertz * factor, bent), hertz, np.arange(N_MELS))
    low = np.minimum(source.astype(int), N_MELS - 2)
    bands = np.arange(N_MELS)
    matrix = torch.zeros(N_MELS, N_MELS)
    matrix[low, bands] = torch.from_numpy(1.0 - (source - low)).float()
    matrix[low + 1, bands] = torch.from_numpy(source - low).float()
    return matrix


def random_equalizer(spread: float, draw: random.Random) -> Tensor:
    """A smooth curve over the mel bands, [80], of standard deviation `spread`."""
    bands = torch.arange(N_MELS) / N_MELS
    curve = torch.zeros(N_MELS)
    for wave in range(1, EQUALIZER_WAVES + 1):
        curve += draw.gauss(0.0, 1.0) * torch.cos(math.pi * wave * bands + draw.uniform(0.0, 2 * math.pi))
    scaled: Tensor = curve * (spread * math.sqrt(2 / EQUALIZER_WAVES))
    return scaled


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All three global generators, from which lhotse draws, seeded for a while."""
    before, before_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)
