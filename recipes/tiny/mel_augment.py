"""Augmentation on the mel spectrogram in place of views on disk: speeds, rooms and noises, new in every epoch.

Features are logarithms of power, so noise is added and an echo is heard where powers are added, in every mel band; what
is lost is the phase, which a listener of mel bands never had. No utterance sounds twice alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from redline.errors import ConfigError, DataError
from redline.features import DYNAMIC_RANGE, FEATURE_DIM, FRAME_SAMPLES, HOP, N_MELS, clip_features
from redline.train.data.feature_cache import NOISE_SUFFIXES, cut_samples
from redline.types import SAMPLE_RATE
from redline_recipes.tiny.aligned_mixing import MixedSource

QUIETEST = 1e-10
LONGEST_NOISE_S = 60.0
LOUD_SHARE = 3
"""Speech is as loud as the mean of the loudest third of its frames; the others may be pauses."""


@dataclass(frozen=True)
class MelAugmentOptions:
    """How often utterances are changed, and how much; all 0: never."""

    stretch: float = 0.0  # share of utterances that are faster or slower
    speeds: tuple[float, float] = (0.87, 1.15)  # how long they then last, as a share of what they did
    rooms: float = 0.0  # share that is heard in a room
    reverberation_s: tuple[float, float] = (0.15, 0.9)  # until an echo has fallen by 60 dB
    direct_db: tuple[float, float] = (-2.0, 15.0)  # by how much the direct sound is louder than the echo
    noise: float = 0.0  # share that is heard in noise, of the folder --noise
    snr_db: tuple[float, float] = (4.0, 28.0)

    def __post_init__(self) -> None:
        for name in ("stretch", "rooms", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"[mel_augment] {name} is {getattr(self, name)}; allowed are 0 (none) to 1 (all)")
        for name in ("speeds", "reverberation_s", "direct_db", "snr_db"):
            least, most = getattr(self, name)
            if not least <= most or (name in ("speeds", "reverberation_s") and least <= 0):
                raise ConfigError(f"[mel_augment] {name} is {[least, most]}; give the smaller number first")

    @property
    def changes(self) -> bool:
        """Whether anything is ever changed."""
        return any((self.stretch, self.rooms, self.noise))


class MelAugment:
    """Draws a speed, a room and a noise for features; the same draw gives the same."""

    def __init__(self, options: MelAugmentOptions, noises: Sequence[Tensor]) -> None:
        """`noises` are powers [M, 80] of recordings, as `noise_powers` gives them."""
        if options.noise and not noises:
            raise DataError("[mel_augment] noise needs a folder of noise recordings: give --noise, or set it to 0")
        self.options, self.noises = options, noises

    def __call__(self, features: Tensor, draw: random.Random) -> Tensor:
        """Features [T, 160] -> [T', 160], longer or shorter where they are stretched."""
        options, mel = self.options, features.reshape(-1, N_MELS)
        shares = (options.stretch, options.rooms, options.noise)
        stretched, in_room, in_noise = (draw.random() < share for share in shares)
        if stretched:
            mel = stretch(mel, draw.uniform(*options.speeds))
        if in_room or in_noise:
            powers = power(mel)
            if in_room:
                echo = reverberation(powers, draw.uniform(*options.reverberation_s))
                powers = powers + echo / _ratio(draw.uniform(*options.direct_db))
            if in_noise:
                noise = excerpt(draw.choice(self.noises), len(powers), draw)
                powers = powers + noise * (loudness(powers) / loudness(noise) / _ratio(draw.uniform(*options.snr_db)))
            mel = log_power(powers)
        return mel.reshape(-1, FEATURE_DIM)


class AugmentedSource(MixedSource):
    """Batches whose utterances, mixed anew or not, are stretched and put into rooms and noise."""

    def __init__(self, augment: MelAugment, *source: Any) -> None:
        """`source` are the arguments of a `MixedSource`."""
        super().__init__(*source)
        self.augment = augment

    def features_of(self, identity: str, epoch: int) -> Tensor:
        """The features [T, 160] of an utterance as this epoch has them, whoever asks how often."""
        features = super().features_of(identity, epoch)
        if epoch < self.options.augment_from_epoch or not self.augment.options.changes:
            return features
        return self.augment(features, random.Random(f"{self.options.seed}/{identity}/{epoch}"))


def _ratio(decibels: float) -> float:
    return float(10.0 ** (decibels / 10.0))


def power(mel: Tensor) -> Tensor:
    """The powers that log-mel features stand for, up to the scale of the recording."""
    return torch.pow(10.0, 4.0 * (mel - 1.0))


def log_power(powers: Tensor) -> Tensor:
    """Log-mel features of powers, with the floor that they have (`redline.features.log_mel`)."""
    log = powers.clamp(min=QUIETEST).log10()
    return torch.maximum(log, log.max() - DYNAMIC_RANGE) / 4.0 + 1.0


def stretch(mel: Tensor, factor: float) -> Tensor:
    """Features [M, 80] that last `factor` times as long, at the same pitch; an even number of frames."""
    length = max(2, round(len(mel) * factor / 2) * 2)
    stretched: Tensor = F.interpolate(mel.T[None], size=length, mode="linear", align_corners=False)[0].T
    return stretched


def reverberation(powers: Tensor, seconds: float) -> Tensor:
    """The late echo of powers [M, 80] in a room: each frame decays by 60 dB in `seconds`, and is as loud as its source.

    A diffuse room is an exponential decay of energy (Polack's model); the early echo is part of the direct sound.
    """
    from scipy.signal import lfilter

    decay = 10.0 ** (-6.0 * HOP / SAMPLE_RATE / seconds)
    # The first 20 ms after a sound are not echo but colour.
    late = lfilter([0.0, 0.0, 1.0 - decay], [1.0, -decay], powers.numpy(), axis=0)
    return torch.from_numpy(np.asarray(late, dtype=np.float32))


def loudness(powers: Tensor) -> float:
    """Power of the loudest third of the frames."""
    return float(powers.sum(dim=1).topk(max(1, len(powers) // LOUD_SHARE)).values.mean().clamp(min=QUIETEST))


def excerpt(noise: Tensor, length: int, draw: random.Random) -> Tensor:
    """A part [length, 80] of a noise [M, 80] from anywhere in it, again from the beginning where it ends."""
    turned = noise.roll(-draw.randrange(len(noise)), 0)
    return turned.repeat(math.ceil(length / len(noise)), 1)[:length]


def noise_powers(folder: Path | None) -> list[Tensor]:
    """Powers [M, 80] of the recordings of a folder, of each its first minute; none without a folder."""
    from lhotse import Recording

    powers = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix in NOISE_SUFFIXES) if folder else ():
        samples = cut_samples(Recording.from_file(file).to_cut().resample(SAMPLE_RATE))
        samples = samples[: round(LONGEST_NOISE_S * SAMPLE_RATE)]
        if len(samples) >= FRAME_SAMPLES:
            powers.append(power(clip_features(samples).reshape(-1, N_MELS)))
    return powers
