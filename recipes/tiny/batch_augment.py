"""Augmentation of whole batches of log-mel features on their device: `mel_augment` and `SpecAugment` without a loop.

The same rooms, noises, vocal tracts, microphones and masks as those that utterances get one by one on the host, drawn
for all rows at once.

R rows, M mel frames of 10 ms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redline.errors import DataError
from redline.features import DYNAMIC_RANGE, HOP, N_MELS
from redline.models.conformer import valid_frames
from redline.train.data.augment import EQUALIZER_WAVES, LEVEL_PER_DB, SpecAugmentOptions, vtlp_matrix
from redline.types import SAMPLE_RATE
from redline_recipes.tiny.mel_augment import LOUD_SHARE, QUIETEST, MelAugmentOptions, power

FIRST_ECHO = 2
"""Mel frames after a sound that are not echo but colour."""


def stretched(mel: Tensor, lengths: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Features [R, M, 80] that last `factors` [R] times as long, at the same pitch; lengths stay even."""
    longer = ((lengths * factors / 2).round().long() * 2).clamp(min=2)
    places = torch.arange(int(longer.max()), device=mel.device)
    # As linear interpolation over the whole row does, so that a factor is met exactly.
    at = (places[None] + 0.5) * (lengths / longer)[:, None] - 0.5  # [R, M']
    return between(mel, at, lengths), longer


def between(frames: Tensor, at: Tensor, lengths: Tensor) -> Tensor:
    """Frames [R, M, D] at places [R, M'] between them, interpolated; outside of a row its nearest frame."""
    at = torch.minimum(at.clamp(min=0.0), (lengths[:, None] - 1).float())
    below = at.long()
    above = torch.minimum(below + 1, lengths[:, None] - 1)
    share = (at - below)[..., None]
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    return frames[rows, below].lerp(frames[rows, above], share)


def loudest_mean(powers: Tensor, lengths: Tensor) -> Tensor:
    """Mean power of the loudest third of the frames of each row: [R, M, 80] -> [R]."""
    frames = powers.sum(dim=-1).masked_fill(~valid_frames(lengths, powers.shape[1]), 0.0)
    counts = (lengths // LOUD_SHARE).clamp(min=1)
    sums = frames.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    return (sums.gather(1, counts[:, None] - 1)[:, 0] / counts).clamp(min=QUIETEST)


def echoes(powers: Tensor, seconds: Tensor) -> Tensor:
    """The late echo of powers [R, M, 80] in rooms where sound falls by 60 dB in `seconds` [R] (Polack's model).

    A decay over k frames is the sum of log2(k) shifted copies of decays half as long.
    """
    decay = torch.pow(10.0, -6.0 * HOP / SAMPLE_RATE / seconds)[:, None, None]
    late, reach = powers * (1.0 - decay), 1
    while reach < powers.shape[1]:
        late = late + decay**reach * delayed(late, reach)
        reach *= 2
    return delayed(late, FIRST_ECHO)


def delayed(frames: Tensor, by: int) -> Tensor:
    """Frames [R, M, D] so many later; silence before them."""
    return torch.nn.functional.pad(frames, (0, 0, by, 0))[:, : frames.shape[1]]


class BatchAugment:
    """Draws rooms, noises, tracts, microphones and masks for the rows of a batch; the same seed gives the same."""

    def __init__(self, mel: MelAugmentOptions, spec: SpecAugmentOptions, noises: list[Tensor], device: torch.device):
        """`noises` are powers [M, 80] of recordings; raises `DataError` where some are wanted and none are there."""
        if mel.noise and not noises:
            raise DataError("[mel_augment] noise needs a folder of noise recordings: give --noise, or set it to 0")
        self.mel, self.spec = mel, spec
        self.noise = torch.cat(noises).to(device) if noises else torch.zeros(1, N_MELS, device=device)
        widest = round(100 * spec.tract_warp)
        tracts = [vtlp_matrix(percent) for percent in range(100 - widest, 100 + widest + 1)]
        self.tracts = torch.stack(tracts).to(device)  # [W, 80, 80]
        waves = torch.arange(1, EQUALIZER_WAVES + 1, device=device)
        self.waves = math.pi * waves[:, None] * torch.arange(N_MELS, device=device) / N_MELS  # [waves, 80]

    def __call__(self, mel: Tensor, lengths: Tensor, seed: int) -> Tensor:
        """Features [R, M, 80] with lengths [R], heard otherwise."""
        self.generator = torch.Generator(mel.device).manual_seed(seed)
        mel = self.tract_and_colour(self.rooms_and_noise(mel, lengths))
        return self.masked(mel, lengths)

    def uniform(self, *shape: int, between: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """Random numbers between two."""
        least, most = between
        return least + (most - least) * torch.rand(shape, generator=self.generator, device=self.generator.device)

    def rooms_and_noise(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Features [R, M, 80] of rows some of which are in a room, some in noise."""
        R, M, _ = mel.shape
        options = self.mel
        in_room = (self.uniform(R) < options.rooms)[:, None, None]
        in_noise = (self.uniform(R) < options.noise)[:, None, None]
        clean = power(mel)
        direct = torch.pow(10.0, self.uniform(R, between=options.direct_db) / 10.0)[:, None, None]
        echo = echoes(clean, self.uniform(R, between=options.reverberation_s))
        powers = torch.where(in_room, clean + echo / direct, clean)
        begins = (self.uniform(R) * len(self.noise)).long()
        noise = self.noise[(begins[:, None] + torch.arange(M, device=mel.device)) % len(self.noise)]
        ratio = torch.pow(10.0, self.uniform(R, between=options.snr_db) / 10.0)
        scale = loudest_mean(powers, lengths) / loudest_mean(noise, lengths) / ratio
        powers = torch.where(in_noise, powers + noise * scale[:, None, None], powers)
        log = powers.clamp(min=QUIETEST).log10()
        loudest = log.masked_fill(~valid_frames(lengths, M)[..., None], -math.inf).amax(dim=(1, 2), keepdim=True)
        return torch.where(in_room | in_noise, torch.maximum(log, loudest - DYNAMIC_RANGE) / 4.0 + 1.0, mel)

    def tract_and_colour(self, mel: Tensor) -> Tensor:
        """Features of other vocal tracts and microphones."""
        R, options = len(mel), self.spec
        if options.tract_warp:
            chosen = (self.uniform(R) * len(self.tracts)).long()
            mel = torch.bmm(mel, self.tracts[chosen])
        if options.colour_db:
            sizes = torch.randn(R, EQUALIZER_WAVES, generator=self.generator, device=mel.device)
            phases = self.uniform(R, EQUALIZER_WAVES, between=(0.0, 2 * math.pi))
            curves = (sizes[..., None] * (self.waves + phases[..., None]).cos()).sum(dim=1)  # [R, 80]
            mel = mel + (curves * (options.colour_db * LEVEL_PER_DB * math.sqrt(2 / EQUALIZER_WAVES)))[:, None]
        return mel

    def masked(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Features with stretches of time and bands masked by their mean (SpecAugment, arXiv 1904.08779)."""
        R, M, _ = mel.shape
        options, device = self.spec, mel.device
        chosen = (self.uniform(R) < options.probability)[:, None]
        most = torch.full((R, 1), options.frame_mask_size, device=device, dtype=torch.float32)
        if options.frame_masks:
            most = torch.minimum(most, options.max_masked_share * lengths[:, None] / options.frame_masks)
        hidden = _stretches(self, R, M, options.frame_masks, most, lengths)[..., None]
        bands = torch.full((R,), N_MELS, device=device)
        widest = torch.full((R, 1), float(options.feature_mask_size), device=device)
        hidden = hidden | _stretches(self, R, N_MELS, options.feature_masks, widest, bands)[:, None]
        valid = valid_frames(lengths, M)[..., None]
        mean = (mel * valid).sum(dim=(1, 2)) / (lengths * N_MELS)
        return torch.where(hidden & chosen[..., None], mean[:, None, None], mel)


def _stretches(draw: BatchAugment, R: int, total: int, count: int, most: Tensor, lengths: Tensor) -> Tensor:
    """True inside of `count` random stretches of at most `most` [R, 1] places of each row, [R, total]."""
    widths = draw.uniform(R, count) * most
    begins = draw.uniform(R, count) * (lengths[:, None] - widths)
    places = torch.arange(total, device=most.device)
    inside = (places >= begins[..., None]) & (places < (begins + widths)[..., None])  # [R, count, total]
    return inside.any(dim=1)
