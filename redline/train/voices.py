"""The stage of the voice head: pieces of speech of many readers, each to be told from the others around it.

A batch is some voices with a few pieces each, all heard through one band. Each piece is to be more like the mean of the
other pieces of its voice than like the means of the other voices (GE2E, arXiv 1710.10467; 2003.11982), which is what
linking the voices of one recording asks for. Speech that is played faster or slower is another voice, and so is a
vocal tract that is made shorter or longer (as for x-vectors). Scored by the equal error rate of pairs of pieces of dev.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.errors import ConfigError, DataError
from redline.features import FRAME_RATE, N_MELS, band_edges
from redline.manifest import Utterance
from redline.models.voices import VoiceHead, levelled
from redline.train.augment import LEVEL_PER_DB, colour, tract_matrix
from redline.train.data import FeatureView

EDGE_S = 0.1
"""Kept before the first word and after the last."""
DEV_PIECES = 60
"""Of each voice of dev."""
DEV_PIECE_S = 1.5
NOISE_COLOUR_DB, RUSTLE_DB = 6.0, 4.0
"""How the level of a noise differs from band to band, and from frame to frame."""
NEPER = LEVEL_PER_DB * 10.0 / math.log(10.0)
"""What features grow by when the power grows by e."""
TELEPHONE_HZ = ((150.0, 400.0), (3100.0, 4000.0))
"""Where a telephone's band begins and ends."""
CODEC_HZ = (3500.0, 7000.0)
"""Where other bands end that are not whole."""

VoiceName = tuple[str, int]
"""A speaker and the percent of the own speed, in tens: frames do not tell it closer where little is said."""


@dataclass(frozen=True)
class VoiceTrainingOptions:
    """What the head is shown, and how voices are held apart."""

    channels: int = 100
    size: int = 64
    voices: int = 40
    pieces: int = 4
    """In a batch: voices, and pieces of each, all of one length."""
    piece_s: tuple[float, float] = (0.6, 2.4)
    tracts: tuple[float, ...] = (-0.09, 0.0, 0.09)
    """Lengths of the vocal tract, relative to a reader's own, that count as voices of their own."""
    tract_jitter: float = 0.03
    colour_db: float = 10.0
    """Changes that are no other voice: of the tract, and of what the microphone adds."""
    band_share: float = 0.6
    """Share of the batches that are heard through a telephone or a sparing codec."""
    noise_share: float = 0.5
    noise_db: tuple[float, float] = (-30.0, -5.0)
    """Share of the batches that are heard in steady noise, and how loud it is beside the speech."""
    scale: float = 12.0
    threshold: float = 0.5
    """How alike (cosine) one voice is taught to be at least, and two at most, in whatever band and noise."""
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.piece_s[0] <= self.piece_s[1]:
            raise ConfigError(f"piece_s is {list(self.piece_s)}; allowed are two lengths above 0, the larger one last")
        if not self.tracts or max(map(abs, self.tracts)) + self.tract_jitter >= 0.5:
            raise ConfigError(f"tracts is {list(self.tracts)}; allowed are shares of less than half, at least one")
        if self.voices < 2 or self.pieces < 2:
            raise ConfigError(f"voices is {self.voices}, pieces is {self.pieces}; both are at least 2")


@dataclass(frozen=True)
class VoiceBatch:
    """Pieces [V, P, T, 160]: P of each of V voices."""

    features: Tensor

    @property
    def seconds(self) -> float:
        return self.features.shape[:3].numel() / FRAME_RATE


class VoiceObjective(nn.Module):
    """Batch -> the cross-entropy of whose voice of the batch each piece is, and of being one voice or two."""

    def __init__(self, options: VoiceTrainingOptions) -> None:
        super().__init__()
        self.head = VoiceHead(options.channels, options.size)
        self.options = options

    def forward(self, batch: VoiceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        features = batch.features.to(self.head.out.weight.device)
        voices, pieces = features.shape[:2]
        lengths = torch.full((voices * pieces,), features.shape[2], device=features.device)
        alike = likeness(self.head(features.flatten(0, 1), lengths).float().unflatten(0, (voices, pieces)))
        logits, owners = alike.flatten(0, 1), torch.arange(voices, device=features.device).repeat_interleave(pieces)
        loss = F.cross_entropy(self.options.scale * logits, owners, label_smoothing=self.options.smoothing)
        # Which is most alike says nothing about how alike: a band or a noise may draw all voices together.
        own = F.one_hot(owners, voices).to(logits)
        beyond = self.options.scale * (logits - self.options.threshold)
        known = F.binary_cross_entropy_with_logits(beyond, own, pos_weight=own.new_tensor(voices - 1.0))
        right = (logits.argmax(-1) == owners).float().mean()
        return loss + known, {"right": right.detach(), "known": known.detach()}


def likeness(directions: Tensor) -> Tensor:
    """Directions [V, P, E] -> cosine of each piece and each voice [V, P, V]; a piece is no part of its own voice."""
    sums = directions.sum(dim=1)  # [V, E]
    alike = torch.einsum("vpe,ue->vpu", directions, F.normalize(sums, dim=-1))
    own = (directions * F.normalize(sums[:, None] - directions, dim=-1)).sum(dim=-1)  # [V, P]
    return torch.where(torch.eye(len(sums), dtype=torch.bool, device=sums.device)[:, None], own[..., None], alike)


class Pieces:
    """Speech of each voice, without the silence around it; a view at another speed has other voices."""

    def __init__(self, utterances: Sequence[Utterance], views: Sequence[FeatureView]) -> None:
        self.takes: dict[VoiceName, list[tuple[Utterance, FeatureView]]] = {}
        for one in utterances:
            for view in views:
                if one.speaker and not one.turns and one.id in view.offsets:
                    first, last = view.offsets[one.id]
                    speed = 10 * round(10 * one.duration * FRAME_RATE / (last - first))
                    self.takes.setdefault((one.speaker, speed), []).append((one, view))
        self.voices = sorted(self.takes)

    @property
    def speakers(self) -> int:
        return len({speaker for speaker, _ in self.voices})

    def draw(self, voice: VoiceName, frames: int, draw: random.Random, noise: Tensor | None = None) -> Tensor:
        """So many frames [frames, 160] of an utterance of a voice; a shorter one is heard again from its start.

        Noise [80] is how loud each band of it is beside the mean of the speech, in the units of features.
        """
        one, view = draw.choice(self.takes[voice])
        row = view[one.id]
        if one.words:
            scale = len(row) / one.duration
            first = max(0, round((one.words[0].start - EDGE_S) * scale))
            last = min(len(row), round((one.words[-1].end + EDGE_S) * scale))
            row = row[first:last] if last > first else row
        row = levelled(row)
        start = draw.randrange(max(1, len(row) - frames + 1))
        if noise is not None:  # speech around the piece shows what is added to all of it
            first = max(0, start - frames)
            row, start = noisy(row[first : start + 2 * frames], noise, draw), start - first
        piece = row[start : start + frames]
        return piece if len(piece) == frames else piece.repeat(-(-frames // len(piece)), 1)[:frames]


class VoiceStage:
    """Trains the head and scores it on voices that it does not train on."""

    name = "voices"
    epoch_batches = 200

    def __init__(self, pieces: Pieces, dev: Pieces, options: VoiceTrainingOptions, seed: int = 0) -> None:
        """Raises `DataError` when there are not two speakers to train on and two in dev."""
        for name, own in (("train", pieces), ("dev", dev)):
            if own.speakers < 2:
                raise DataError(f"{own.speakers} speakers in the {name} split; voices need two, told by `speaker`")
        self.pieces, self.dev, self.options, self.seed = pieces, dev, options, seed
        self.voices = [(voice, tract) for voice in pieces.voices for tract in options.tracts]
        torch.manual_seed(seed)
        self.objective = VoiceObjective(options)

    def batches(self, epoch: int, skip: int) -> Iterator[VoiceBatch]:
        """So many batches of pieces of random voices."""
        for number in range(skip, self.epoch_batches):
            yield self._batch(random.Random(f"{self.seed}/{epoch}/{number}"))

    def seconds(self, batch: VoiceBatch) -> float:
        """Seconds of audio in a batch."""
        return batch.seconds

    def _batch(self, draw: random.Random) -> VoiceBatch:
        options = self.options
        frames = round(draw.uniform(*options.piece_s) * FRAME_RATE)
        noise = None
        if draw.random() < options.noise_share:
            noise = draw.uniform(*options.noise_db) * LEVEL_PER_DB + colour(NOISE_COLOUR_DB * LEVEL_PER_DB, draw)
        lost = lost_bands(draw) if draw.random() < options.band_share else torch.zeros(N_MELS, dtype=torch.bool)
        rows = []
        for voice, tract in draw.sample(self.voices, min(options.voices, len(self.voices))):
            for _ in range(options.pieces):
                piece = self.pieces.draw(voice, frames, draw, noise).reshape(-1, N_MELS)  # [2T, 80]
                jitter = draw.uniform(-options.tract_jitter, options.tract_jitter)
                piece = piece @ tract_matrix(round(100 * (1.0 + tract + jitter)))
                piece = piece + colour(draw.uniform(0.0, options.colour_db) * LEVEL_PER_DB, draw)
                rows.append(piece.masked_fill(lost, 0.0))
        features = torch.stack(rows)
        if draw.random() < 0.5:  # a band that is not heard, anywhere
            band = draw.randrange(N_MELS - 20)
            features[..., band : band + draw.randint(4, 16)] = 0.0
        return VoiceBatch(features.reshape(-1, options.pieces, frames, 2 * N_MELS))

    def evaluate(self) -> dict[str, float]:
        """Equal error rate in percent: pairs of dev pieces, of one speaker or of two."""
        draw = random.Random(0)
        frames = round(DEV_PIECE_S * FRAME_RATE)
        place = self.objective.head.out.weight.device
        directions, names = [], []
        for voice in self.dev.voices:
            rows = torch.stack([self.dev.draw(voice, frames, draw) for _ in range(DEV_PIECES)]).to(place)
            lengths = torch.full((len(rows),), frames, device=place)
            directions.append(self.objective.head(rows, lengths).float().cpu())
            names += [voice] * len(rows)
        heard = torch.cat(directions)
        one, other = torch.triu_indices(len(names), len(names), offset=1)
        same = torch.tensor([names[i] == names[j] for i, j in zip(one.tolist(), other.tolist(), strict=True)])
        return {"eer": equal_error_rate((heard @ heard.T)[one, other], same)}


def noisy(features: Tensor, noise: Tensor, draw: random.Random) -> Tensor:
    """Levelled speech [T, 160] in a steady noise [80], levelled again."""
    picture = features.reshape(-1, N_MELS)
    rustle = torch.randn(picture.shape, generator=torch.Generator().manual_seed(draw.getrandbits(32)))
    both = torch.logaddexp(picture / NEPER, (noise + RUSTLE_DB * LEVEL_PER_DB * rustle) / NEPER)  # powers add up
    return levelled((both * NEPER).reshape(features.shape))


def lost_bands(draw: random.Random) -> Tensor:
    """Which mel bands [80] a random telephone (three in five), codec or small microphone leaves out."""
    kind = draw.random()
    low, high = (draw.uniform(*edge) for edge in TELEPHONE_HZ)
    if kind >= 0.8:
        high = float("inf")
    elif kind >= 0.6:
        low, high = 0.0, draw.uniform(*CODEC_HZ)
    hertz = band_edges()[1:-1]
    return (hertz < low) | (hertz > high)


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """Where as many pairs of one are missed as pairs of two are taken for one, in percent: scores [N], truth [N]."""
    order = scores.argsort(descending=True)
    hits = same[order].double()
    missed = 1.0 - hits.cumsum(0) / hits.sum()
    taken = (1.0 - hits).cumsum(0) / (1.0 - hits).sum()
    at = int((missed - taken).abs().argmin())
    return round(50.0 * float(missed[at] + taken[at]), 3)
