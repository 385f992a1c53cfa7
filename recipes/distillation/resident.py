"""An encoder that learns from resident speech: CTC, consistency between views, and a teacher that listens beside it.

The teacher, Whisper's encoder, runs in every update on the clean recording, while the student has it in rooms and
noise: what it says of the sound underneath is the target, whatever augmentation was drawn, and no states are kept on
disk. B utterances, V views of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from redline.models.conformer import ConformerEncoder, EncoderOutput, valid_frames
from redline.models.heads import LanguageHead
from redline.tokenizer import Tokenizer
from redline.train.data.batches import Batch
from redline.train.objectives.losses import Terms, weighted
from redline_recipes.distillation.objective import FARTHEST, DistillationOptions
from redline_recipes.distillation.whisper import WhisperEncoder
from redline_recipes.tiny.batch_augment import between
from redline_recipes.tiny.encoder import EncoderLossOptions, EncoderObjective, draft_logits
from redline_recipes.tiny.resident import ResidentBatch

STATES_A_FRAME = 2
"""Whisper has 50 states a second, an encoder of ours 25 frames behind its subsampling."""


class ListeningTeacher:
    """Some layers of Whisper's encoder, each number scaled to unit spread."""

    def __init__(self, whisper: WhisperEncoder, layers: Sequence[int], sample: Sequence[ResidentBatch]) -> None:
        """`layers` count from 1; scales are found from the `sample`."""
        self.whisper, self.layers = whisper.eval().requires_grad_(False), tuple(layers)
        every = [self.raw(batch) for batch in sample]
        frames = [torch.cat([states[layer] for states in every]) for layer in range(len(self.layers))]
        self.means = [each.mean(dim=0) for each in frames]
        self.spreads = [each.std(dim=0).clamp(min=1e-3) for each in frames]
        self.frame_spreads = [float(each.std(dim=1).median()) for each in frames]
        """How far the numbers of a frame are spread, of most frames."""

    @property
    def width(self) -> int:
        width: int = self.whisper.norm.normalized_shape[0]
        return width

    @torch.no_grad()
    def states(self, batch: ResidentBatch) -> tuple[list[Tensor], Tensor]:
        """States [B, M / 2, D] of the layers, and how many of them an utterance has [B]."""
        assert batch.teacher_mel is not None
        every = self.whisper(batch.teacher_mel.to(self.whisper.positions.dtype))
        return [every[layer - 1].float() for layer in self.layers], batch.teacher_lengths // 2

    def raw(self, batch: ResidentBatch) -> list[Tensor]:
        """Valid states [N, D] of the layers."""
        states, lengths = self.states(batch)
        return [each[valid_frames(lengths, each.shape[1])] for each in states]

    def targets(self, batch: ResidentBatch, lengths: Tensor) -> list[Tensor]:
        """Scaled states [B, T, D] of the layers at the frames [B] of a student, who hears another speed."""
        states, own_lengths = self.states(batch)
        frames = torch.arange(int(lengths.max()), device=lengths.device)
        at = (frames + 0.5) * STATES_A_FRAME / batch.speeds[:, None] - 0.5
        return [
            (between(each, at, own_lengths) - mean) / spread
            for each, mean, spread in zip(states, self.means, self.spreads, strict=True)
        ]


def view_divergence(logits: Tensor, lengths: Tensor, views: int, symbols: int) -> Tensor:
    """Divergence of each view from the next, a label: logits [V * B, T, R] with lengths [V * B] -> a scalar.

    Each learns from the other as from a teacher, without a gradient through that one (CR-CTC, arXiv 2410.05101).
    """
    log_p = logits.float().log_softmax(dim=-1).unflatten(0, (views, -1))  # [V, B, T, R]
    other = log_p.roll(1, 0).detach()
    divergence = (other.exp() * (other - log_p)).sum(dim=-1)  # [V, B, T]
    valid = valid_frames(lengths, logits.shape[1]).unflatten(0, (views, -1))
    total: Tensor = divergence.masked_fill(~valid, 0.0).sum()
    return total / (views * max(1, symbols))


class ResidentObjective(EncoderObjective):
    """Resident batch -> the losses of the encoder, its consistency between views and its distance from a teacher."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        tokenizer: Tokenizer,
        weights: EncoderLossOptions,
        language_head: LanguageHead | None,
        consistency: float,
        options: DistillationOptions,
        teacher: ListeningTeacher | None,
    ) -> None:
        super().__init__(encoder, tokenizer, weights, language_head)
        self.consistency, self.options, self.teacher = consistency, options, teacher
        width, maps = encoder.config.hidden_dim, []
        for number in range(len(options.state_blocks) if teacher is not None else 0):
            assert teacher is not None
            linear = nn.Linear(width, teacher.width)
            if teacher.width == width:  # one that leaves a student what it has already
                linear.weight.data = torch.diag(teacher.frame_spreads[number] / teacher.spreads[number]).cpu()
                linear.bias.data = (-teacher.means[number] / teacher.spreads[number]).cpu()
            maps.append(nn.Sequential(nn.LayerNorm(width), linear))
        self.maps = nn.ModuleList(maps)  # of training alone, see `ONLY_TRAINING`

    def forward(self, batch: ResidentBatch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        out = self.encoded(batch)
        texts, languages = batch.texts * batch.views, batch.languages * batch.views
        known = Batch(batch.features, batch.lengths, texts, batch.ids * batch.views, languages)
        terms = self.terms(known, out)
        if self.consistency:
            heads = {
                "characters": (out.char_logits, out.lengths, sum(map(len, batch.texts))),
                "tokens": (*draft_logits(self.encoder, out), sum(len(self.tokenizer.encode(t)) for t in batch.texts)),
            }
            for name, (logits, lengths, symbols) in heads.items():
                loss = view_divergence(logits, lengths, batch.views, symbols)
                weight = self.weights.top if name == "characters" else self.weights.tokens
                terms[f"views_{name}"] = (self.consistency * weight, loss)
        return weighted(terms | self.batch_state_terms(out, batch))

    def encoded(self, batch: ResidentBatch) -> EncoderOutput:
        """What the encoder makes of a batch, with the states that are drawn to a teacher's."""
        return self.encoder(batch.features, batch.lengths, self.options.state_blocks)

    def batch_state_terms(self, out: EncoderOutput, batch: ResidentBatch) -> Terms:
        """The mean square distance of each view from each layer of the teacher's states."""
        if self.teacher is None:
            return {}
        terms: Terms = {}
        lengths = out.lengths[: len(batch.texts)]
        frames = valid_frames(out.lengths, int(lengths.max()))
        for number, target in enumerate(self.teacher.targets(batch, lengths)):
            states = self.maps[number](out.exports[number][:, : target.shape[1]])
            distance = states.float().unflatten(0, (batch.views, -1)) - target
            mean = distance.square().clamp(max=FARTHEST).mean(dim=-1).flatten(0, 1)
            loss = mean.masked_fill(~frames, 0.0).sum() / frames.sum()
            terms[f"teacher_states_{number + 1}"] = (self.options.states, loss)
        return terms


def sample_of(batches: Iterable[ResidentBatch], count: int) -> list[ResidentBatch]:
    """The first batches."""
    return [batch for _, batch in zip(range(count), batches, strict=False)]
