"""Training of the speaker embedding head: segments of many readers, each to be told from the others around it.

A batch is some voices with a few pieces each, all through one band. Each piece is to be more like the mean of the
other pieces of its voice than like the means of the other voices (GE2E, arXiv 1710.10467; 2003.11982), which is what
linking the voices of one recording asks for. Speech that is played faster or slower is another voice, and so is a
vocal tract that is made shorter or longer (as for x-vectors). A hundred voices do not tell what voices have in common,
so the network begins with published weights that have heard thousands, and only what follows it is taught here: a
projection in which microphones, bands and noise count little. Scored by the equal error rate of pairs of pieces of dev.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor, nn

from redline.diarize.embedder import BANDS, SpeakerEmbedder
from redline.errors import CheckpointError, ConfigError, DataError
from redline.features import (
    DYNAMIC_RANGE,
    FEATURE_DIM,
    FRAME_RATE,
    N_FFT,
    N_MELS,
    STACK,
    WINDOW,
    band_edges,
    filterbank,
)
from redline.manifest import Utterance
from redline.train.data.augment import LEVEL_PER_DB, random_equalizer, vtlp_matrix
from redline.train.data.feature_cache import FeatureView
from redline.types import SAMPLE_RATE

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

PUBLISHED = ("lstm.", "linear.")
"""What of the head has published weights."""

VoiceName = tuple[str, int]
"""A speaker and the percent of the own speed, in tens: frames do not tell it closer where little is said."""


@dataclass(frozen=True)
class EmbeddingOptions:
    """What the head is shown, and how voices are held apart."""

    size: int = 64
    voices: int = 32
    pieces: int = 4  # in a batch: voices, and pieces of each, all of one length
    piece_s: tuple[float, float] = (0.8, 2.4)
    tracts: tuple[float, ...] = (-0.09, 0.0, 0.09)
    """Lengths of the vocal tract, relative to a reader's own, that count as voices of their own."""
    tract_jitter: float = 0.03  # changes that are no other voice
    colour_db: float = 8.0
    microphone_db: float = 4.0  # what a room adds to all voices of a batch, and a microphone to every second voice
    band_share: float = 0.5  # share of the batches that are through a telephone or a sparing codec
    noise_share: float = 0.4
    noise_db: tuple[float, float] = (-35.0, -8.0)
    """Share of the batches with steady noise, and how loud it is beside the speech."""
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
class EmbeddingBatch:
    """Mel pieces [V, P, F, 40]: P of each of V voices."""

    mel: Tensor

    @property
    def seconds(self) -> float:
        return self.mel.shape[:3].numel() / (STACK * FRAME_RATE)


class EmbeddingObjective(nn.Module):
    """Batch -> the cross-entropy of whose voice of the batch each piece is, and of being one voice or two."""

    def __init__(self, options: EmbeddingOptions) -> None:
        super().__init__()
        self.head = SpeakerEmbedder(options.size)
        self.head.bands.copy_(band_weights())
        self.options = options

    def forward(self, batch: EmbeddingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        mel = batch.mel.to(self.head.out.weight.device)
        voices, pieces = mel.shape[:2]
        alike = similarity(self.head(mel.flatten(0, 1)).float().unflatten(0, (voices, pieces)))
        logits, owners = alike.flatten(0, 1), torch.arange(voices, device=mel.device).repeat_interleave(pieces)
        loss = F.cross_entropy(self.options.scale * logits, owners, label_smoothing=self.options.smoothing)
        # Which is most alike says nothing about how alike: a band or a noise may draw all voices together.
        own = F.one_hot(owners, voices).to(logits)
        beyond = self.options.scale * (logits - self.options.threshold)
        known = F.binary_cross_entropy_with_logits(beyond, own, pos_weight=own.new_tensor(voices - 1.0))
        right = (logits.argmax(-1) == owners).float().mean()
        return loss + known, {"right": right.detach(), "known": known.detach()}


def similarity(directions: Tensor) -> Tensor:
    """Directions [V, P, E] -> cosine of each piece and each voice [V, P, V]; a piece is no part of its own voice."""
    sums = directions.sum(dim=1)  # [V, E]
    alike = torch.einsum("vpe,ue->vpu", directions, F.normalize(sums, dim=-1))
    own = (directions * F.normalize(sums[:, None] - directions, dim=-1)).sum(dim=-1)  # [V, P]
    return torch.where(torch.eye(len(sums), dtype=torch.bool, device=sums.device)[:, None], own[..., None], alike)


class Segments:
    """Speech of each voice, without the silence around it; a view at another speed has other voices."""

    def __init__(self, utterances: Sequence[Utterance], views: Sequence[FeatureView]) -> None:
        self.takes: dict[VoiceName, list[tuple[Utterance, FeatureView]]] = {}
        self.add(utterances, views)

    def add(self, utterances: Sequence[Utterance], views: Sequence[FeatureView]) -> None:
        """Take more utterances with views of their own; ids need to be unlike only among those added together."""
        for row in utterances:
            for view in views:
                if row.speaker and not row.turns and row.id in view.offsets:
                    first, last = view.offsets[row.id]
                    speed = 10 * round(10 * row.duration * FRAME_RATE / (last - first))
                    self.takes.setdefault((row.speaker, speed), []).append((row, view))

    @property
    def voices(self) -> list[VoiceName]:
        return sorted(self.takes)

    @property
    def speakers(self) -> int:
        return len({speaker for speaker, _ in self.takes})

    def draw(self, voice: VoiceName, draw: random.Random) -> Tensor:
        """The speech of one utterance of a voice, as recorded: [T, 160]."""
        row, view = draw.choice(self.takes[voice])
        features = view[row.id]
        if row.words:
            scale = len(features) / row.duration
            first = max(0, round((row.words[0].start - EDGE_S) * scale))
            last = min(len(features), round((row.words[-1].end + EDGE_S) * scale))
            features = features[first:last] if last > first else features
        return features


class EmbeddingStage:
    """Trains the head and scores it on voices that it does not train on."""

    name = "voices"
    epoch_batches = 200

    def __init__(
        self,
        segments: Segments,
        dev: Segments,
        options: EmbeddingOptions,
        seed: int = 0,
        pretrained: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Raises `DataError` when there are not two speakers to train on and two in dev.

        What is given as `pretrained`, published weights, is not trained; without it everything is.
        """
        for name, own in (("train", segments), ("dev", dev)):
            if own.speakers < 2:
                raise DataError(f"{own.speakers} speakers in the {name} split; voices need two, told by `speaker`")
        self.source, self.segments, self.dev, self.options, self.seed = self, segments, dev, options, seed
        self.voices = [(voice, tract) for voice in segments.voices for tract in options.tracts]
        torch.manual_seed(seed)
        self.objective = EmbeddingObjective(options)
        if pretrained is not None:
            self.objective.head.load_state_dict(pretrained, strict=False)
            for name, weight in self.objective.head.named_parameters():
                weight.requires_grad_(name not in pretrained)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[EmbeddingBatch]:
        """So many batches of pieces of random voices."""
        for number in range(skip, self.epoch_batches):
            yield self._batch(random.Random(f"{self.seed}/{epoch}/{number}"))

    def _batch(self, draw: random.Random) -> EmbeddingBatch:
        options, head = self.options, self.objective.head
        frames = round(draw.uniform(*options.piece_s) * STACK * FRAME_RATE)
        noise = None
        if draw.random() < options.noise_share:
            noise = draw.uniform(*options.noise_db) * LEVEL_PER_DB + random_equalizer(
                NOISE_COLOUR_DB * LEVEL_PER_DB, draw
            )
        lost = lost_bands(draw) if draw.random() < options.band_share else torch.zeros(N_MELS, dtype=torch.bool)
        room = random_equalizer(draw.uniform(0.0, options.colour_db) * LEVEL_PER_DB, draw)
        rows = []
        for voice, tract in draw.sample(self.voices, min(options.voices, len(self.voices))):
            microphone = torch.zeros(N_MELS)
            if draw.random() < 0.5:
                microphone = random_equalizer(draw.uniform(0.0, options.microphone_db) * LEVEL_PER_DB, draw)
            for _ in range(options.pieces):
                mel = self.segments.draw(voice, draw).reshape(-1, N_MELS)  # [2T, 80]
                jitter = draw.uniform(-options.tract_jitter, options.tract_jitter)
                mel = mel @ vtlp_matrix(round(100 * (1.0 + tract + jitter))) + room + microphone
                if noise is not None:
                    mel = noisy(mel, noise, draw)
                mel = torch.where(lost, mel.max() - DYNAMIC_RANGE / 4.0, mel)
                rows.append(cut(head.mel(mel.reshape(-1, FEATURE_DIM)), frames, draw))
        return EmbeddingBatch(torch.stack(rows).unflatten(0, (-1, options.pieces)))

    def evaluate(self) -> dict[str, float]:
        """Equal error rate in percent: pairs of dev pieces, of one speaker or of two."""
        draw, head = random.Random(0), self.objective.head
        frames = round(DEV_PIECE_S * STACK * FRAME_RATE)
        directions, names = [], []
        for voice in self.dev.voices:
            rows = [cut(head.mel(self.dev.draw(voice, draw)), frames, draw) for _ in range(DEV_PIECES)]
            directions.append(head(torch.stack(rows).to(head.out.weight)).float().cpu())
            names += [voice] * len(rows)
        embeddings = torch.cat(directions)
        left, right = torch.triu_indices(len(names), len(names), offset=1)
        same = torch.tensor([names[i] == names[j] for i, j in zip(left.tolist(), right.tolist(), strict=True)])
        return {"eer": equal_error_rate((embeddings @ embeddings.T)[left, right], same)}


def read_pretrained(path: Path) -> dict[str, Tensor]:
    """The published weights of the network: `pretrained.pt` of the package Resemblyzer (Apache 2.0).

    Only tensors are read; raises `CheckpointError` when the file holds something else.
    """
    shapes = {name: own.shape for name, own in SpeakerEmbedder().state_dict().items() if name.startswith(PUBLISHED)}
    weights: dict[str, Tensor] = {}
    seen = "other shapes"
    try:
        state = torch.load(path, map_location=lambda storage, location: storage, weights_only=True)["model_state"]
        weights = {name: state[name].float() for name in shapes}
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        seen = type(error).__name__
    if {name: own.shape for name, own in weights.items()} != shapes:
        raise CheckpointError(
            f"{path} does not hold a network for voices ({seen}); expected is resemblyzer/pretrained.pt out of the "
            "wheel of the package Resemblyzer"
        )
    return weights


def band_weights() -> Tensor:
    """What each mel band of the features is worth in each band of the network, [80, 40]: least squares, all >= 0."""
    here = filterbank().double().numpy()  # [257, 80]
    there = slaney_filters().double().numpy() * WINDOW / N_FFT  # over the 201 bins that the network was trained with
    return torch.stack([torch.from_numpy(nnls(here, there[:, band])[0]) for band in range(BANDS)], dim=1).float()


def slaney_filters() -> Tensor:
    """Triangular filters of equal area on Slaney's mel scale (linear to 1 kHz, logarithmic above), [257, 40]."""
    knee, octave = 15.0, 27.0 / math.log2(6.4)  # mels at 1 kHz, and in an octave above
    mels = torch.linspace(0.0, knee + octave * math.log2(SAMPLE_RATE / 2 / 1000.0), BANDS + 2, dtype=torch.float64)
    edges = torch.where(mels < knee, mels * (1000.0 / knee), 1000.0 * 2.0 ** ((mels - knee) / octave))
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    rising = (bins[:, None] - edges[:-2]) / edges.diff()[:-1]
    falling = (edges[2:] - bins[:, None]) / edges.diff()[1:]
    return (torch.minimum(rising, falling).clamp(min=0.0) * 2.0 / (edges[2:] - edges[:-2])).float()


def cut(mel: Tensor, frames: int, draw: random.Random) -> Tensor:
    """So many frames [F, 40] of an utterance; a shorter one is repeated from its start."""
    if len(mel) < frames:
        return mel.repeat(-(-frames // len(mel)), 1)[:frames]
    start = draw.randrange(len(mel) - frames + 1)
    return mel[start : start + frames]


def noisy(mel: Tensor, noise: Tensor, draw: random.Random) -> Tensor:
    """Speech [F, 80] in a steady noise [80], which is relative to the mean of the speech in each band."""
    level = mel.mean(dim=1)
    speech = mel[level >= (level.quantile(0.1) + level.quantile(0.9)) / 2].mean(dim=0)
    rustle = torch.randn(mel.shape, generator=torch.Generator().manual_seed(draw.getrandbits(32)))
    both = torch.logaddexp(mel / NEPER, (speech + noise + RUSTLE_DB * LEVEL_PER_DB * rustle) / NEPER)
    return both * NEPER  # powers add up


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
