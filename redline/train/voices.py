"""The stage of the voice head: pieces of speech of many readers, each to be told from all the others.

A vocal tract that is made shorter or longer makes another voice, so a reader is three (speed perturbation does the same
for x-vectors). Directions of one voice are drawn together and held apart from those of the others by a margin
(AM-Softmax, arXiv 1801.05599). Scored by the equal error rate of pairs of pieces of dev.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.errors import ConfigError, DataError
from redline.features import FRAME_RATE, N_MELS
from redline.manifest import Utterance
from redline.models.voices import VoiceHead
from redline.train.augment import LEVEL_PER_DB, colour, tract_matrix
from redline.train.data import FeatureView

EDGE_S = 0.1
"""Kept before the first word and after the last."""
DEV_PIECES = 60
"""Of each speaker of dev."""
DEV_PIECE_S = 1.5


@dataclass(frozen=True)
class VoiceTrainingOptions:
    """What the head is shown, and how far voices are to be apart."""

    channels: int = 100
    size: int = 64
    batch: int = 128
    """Pieces in a batch, all of one length."""
    piece_s: tuple[float, float] = (0.6, 2.4)
    tracts: tuple[float, ...] = (-0.09, 0.0, 0.09)
    """Lengths of the vocal tract, relative to a reader's own, that count as voices of their own."""
    tract_jitter: float = 0.03
    colour_db: float = 3.0
    level_db: float = 6.0
    """Changes that are no other voice: of the tract, of the microphone, of the loudness."""
    margin: float = 0.2
    scale: float = 20.0
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.piece_s[0] <= self.piece_s[1]:
            raise ConfigError(f"piece_s is {list(self.piece_s)}; allowed are two lengths above 0, the larger one last")
        if not self.tracts or max(map(abs, self.tracts)) + self.tract_jitter >= 0.5:
            raise ConfigError(f"tracts is {list(self.tracts)}; allowed are shares of less than half, at least one")


@dataclass(frozen=True)
class VoiceBatch:
    """Pieces [N, T, 160] and the voice of each, [N]."""

    features: Tensor
    voices: Tensor

    @property
    def seconds(self) -> float:
        return self.features.shape[0] * self.features.shape[1] / FRAME_RATE


class VoiceObjective(nn.Module):
    """Batch -> the cross-entropy of who is heard, among all voices of the training set."""

    def __init__(self, voices: int, options: VoiceTrainingOptions) -> None:
        super().__init__()
        self.head = VoiceHead(options.channels, options.size)
        self.centres = nn.Parameter(torch.randn(voices, options.size) / options.size**0.5)
        self.options = options

    def forward(self, batch: VoiceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        options, place = self.options, self.centres.device
        features, voices = batch.features.to(place), batch.voices.to(place)
        lengths = torch.full((len(features),), features.shape[1], device=place)
        alike = self.head(features, lengths).float() @ F.normalize(self.centres, dim=-1).T  # [N, voices]
        apart = alike - options.margin * F.one_hot(voices, len(self.centres))
        loss = F.cross_entropy(options.scale * apart, voices, label_smoothing=options.smoothing)
        return loss, {"right": (alike.argmax(-1) == voices).float().mean().detach()}


class Pieces:
    """Speech of each speaker, without the silence around it, from any of some views."""

    def __init__(self, utterances: Sequence[Utterance], views: Sequence[FeatureView]) -> None:
        self.views = views
        self.by_speaker: dict[str, list[Utterance]] = {}
        for one in utterances:
            if one.speaker and not one.turns and one.id in views[0].offsets:
                self.by_speaker.setdefault(one.speaker, []).append(one)
        self.speakers = sorted(self.by_speaker)
        self.seconds = {speaker: sum(one.duration for one in own) for speaker, own in self.by_speaker.items()}

    def draw(self, speaker: str, frames: int, draw: random.Random) -> Tensor:
        """So many frames [frames, 160] of an utterance of a speaker; a shorter one is heard again from its start."""
        one = draw.choice(self.by_speaker[speaker])
        view = draw.choice(self.views)
        row = view[one.id] if one.id in view.offsets else self.views[0][one.id]
        if one.words:
            scale = len(row) / one.duration  # a view may be at another speed
            first = max(0, round((one.words[0].start - EDGE_S) * scale))
            last = min(len(row), round((one.words[-1].end + EDGE_S) * scale))
            row = row[first:last] if last > first else row
        start = draw.randrange(max(1, len(row) - frames + 1))
        piece = row[start : start + frames]
        return piece if len(piece) == frames else piece.repeat(-(-frames // len(piece)), 1)[:frames]


class VoiceStage:
    """Trains the head and scores it on voices that it does not train on."""

    name = "voices"
    epoch_batches = 200

    def __init__(self, pieces: Pieces, dev: Pieces, options: VoiceTrainingOptions, seed: int = 0) -> None:
        """Raises `DataError` when there are not two speakers to train on and two in dev."""
        for name, own in (("train", pieces), ("dev", dev)):
            if len(own.speakers) < 2:
                raise DataError(f"{len(own.speakers)} speakers in the {name} split; voices need two, told by `speaker`")
        self.pieces, self.dev, self.options, self.seed = pieces, dev, options, seed
        self.voices = [(speaker, tract) for speaker in pieces.speakers for tract in options.tracts]
        # Half way between each voice alike and each second alike, so that a few words are not heard all day.
        self.shares = [pieces.seconds[speaker] ** 0.5 for speaker, _ in self.voices]
        torch.manual_seed(seed)
        self.objective = VoiceObjective(len(self.voices), options)

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
        chosen = draw.choices(range(len(self.voices)), self.shares, k=options.batch)
        rows = []
        for number in chosen:
            speaker, tract = self.voices[number]
            piece = self.pieces.draw(speaker, frames, draw).reshape(-1, N_MELS)  # [2T, 80]
            jitter = draw.uniform(-options.tract_jitter, options.tract_jitter)
            piece = piece @ tract_matrix(round(100 * (1.0 + tract + jitter)))
            piece = piece + colour(draw.uniform(0.0, options.colour_db) * LEVEL_PER_DB, draw)
            rows.append(piece + draw.uniform(-options.level_db, options.level_db) * LEVEL_PER_DB)
        features = torch.stack(rows)
        if draw.random() < 0.5:  # a band that is not heard
            band = draw.randrange(N_MELS - 20)
            features[..., band : band + draw.randint(4, 16)] = features.mean()
        return VoiceBatch(features.reshape(len(rows), frames, -1), torch.tensor(chosen))

    def evaluate(self) -> dict[str, float]:
        """Equal error rate in percent: pairs of dev pieces, of one speaker or of two."""
        draw = random.Random(0)
        frames = round(DEV_PIECE_S * FRAME_RATE)
        place = self.objective.centres.device
        directions, names = [], []
        for speaker in self.dev.speakers:
            rows = torch.stack([self.dev.draw(speaker, frames, draw) for _ in range(DEV_PIECES)]).to(place)
            lengths = torch.full((len(rows),), frames, device=place)
            directions.append(self.objective.head(rows, lengths).float().cpu())
            names += [speaker] * len(rows)
        heard = torch.cat(directions)
        one, other = torch.triu_indices(len(names), len(names), offset=1)
        same = torch.tensor([names[i] == names[j] for i, j in zip(one.tolist(), other.tolist(), strict=True)])
        return {"eer": equal_error_rate((heard @ heard.T)[one, other], same)}


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """Where as many pairs of one are missed as pairs of two are taken for one, in percent: scores [N], truth [N]."""
    order = scores.argsort(descending=True)
    hits = same[order].double()
    missed = 1.0 - hits.cumsum(0) / hits.sum()
    taken = (1.0 - hits).cumsum(0) / (1.0 - hits).sum()
    at = int((missed - taken).abs().argmin())
    return round(50.0 * float(missed[at] + taken[at]), 3)
