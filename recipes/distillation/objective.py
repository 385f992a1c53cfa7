"""Distillation: an encoder learns from the frame posteriors of a teacher, beside CTC on the labels.

Labels say what is said; a teacher also says where, how sure, and what else it could have been, of every frame. CTC
posteriors are blank nearly everywhere, so frames count by how little blank their teacher is (arXiv 2506.01503 drops
blank frames; here they keep a small weight, or a student would forget where nothing is said). Where a teacher has
states but no CTC heads, blocks of the student are drawn to them through a linear map each (arXiv 2110.01900).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redline.errors import ConfigError
from redline.models.conformer import ConformerEncoder, EncoderOutput, valid_frames
from redline.models.draft_head import CHAR_BLANK
from redline.models.heads import LanguageHead
from redline.tokenizer import Tokenizer
from redline.train.data.batches import Batch
from redline.train.objectives.losses import Terms, weighted
from redline_recipes.distillation.teacher import FramePosteriors, PosteriorStore, StateStore
from redline_recipes.tiny.encoder import EncoderLossOptions, EncoderObjective, draft_logits

LEAST = 1e-6
"""The least probability of what a teacher has not named, so that its logarithm is a number."""

ONLY_TRAINING = "maps."
"""What the weights begin with that the encoder does not keep."""
FARTHEST = 25.0
"""The largest squared distance that counts; a few numbers of a transformer's states are far outside of the others."""


@dataclass(frozen=True)
class DistillationOptions:
    """Whose posteriors are learned, and how much each of the heads weighs; `teacher` empty: none are."""

    teacher: str = ""
    """A NAR checkpoint (a bundled name, a folder or a hub id), or a folder of posteriors."""
    characters: float = 0.5  # weight of the divergence of the character head at the top
    tokens: float = 0.5  # of the token head, where the teacher has the same tokenizer
    blank_weight: float = 0.1  # what a frame counts of which the teacher is sure that it is blank
    states: float = 1.0  # of the mean square distance from the teacher's states, where a folder has some
    state_blocks: tuple[int, ...] = ()
    """The student's blocks, from 1, that are drawn to `states-1`, `states-2` and so on; none: no states are learned."""
    candidates: int = 8  # labels of a frame that are kept, the likeliest
    map_steps: int = 0
    """Batches from which the maps to the teacher's states learn alone, before an encoder that can hear already goes on:
    new maps would pull it away from what it knows."""

    def __post_init__(self) -> None:
        for name in ("characters", "tokens", "states", "blank_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"[distillation] {name} is {getattr(self, name)}; allowed are 0 and above")
        if self.candidates < 1:
            raise ConfigError(f"[distillation] candidates is {self.candidates}; allowed are 1 and above")
        if self.map_steps < 0:
            raise ConfigError(f"[distillation] map_steps is {self.map_steps}; allowed are 0 and above")


def posterior_divergence(
    logits: Tensor, lengths: Tensor, teacher: FramePosteriors, blank: int, blank_weight: float
) -> Tensor:
    """Kullback-Leibler divergence of a student from its teacher, a frame that is not blank: [B, T, V] -> a scalar.

    What the teacher has not named is one more label, whose probability is what its others leave. A frame counts as
    much as it is not blank, and a blank one `blank_weight`; the sum is divided by how many frames are not blank, so
    that it is of the size of a CTC loss a label. Frames without a teacher count nothing.
    """
    labels, p = teacher.labels.to(logits.device), teacher.probabilities.to(logits.device)
    known_frames = (p.sum(dim=-1) > 0) & valid_frames(lengths, logits.shape[1])  # [B, T]
    q = logits.float().log_softmax(dim=-1).gather(-1, labels.clamp(max=logits.shape[-1] - 1))  # [B, T, k]
    known = labels < logits.shape[-1]
    p, q = p * known, q.masked_fill(~known, 0.0)
    rest = (1.0 - p.sum(dim=-1)).clamp(min=0.0)
    q_rest = (1.0 - (q.exp() * known).sum(dim=-1)).clamp(min=LEAST).log()
    entropy = (p * p.clamp(min=LEAST).log()).sum(dim=-1) + rest * rest.clamp(min=LEAST).log()
    divergence = entropy - (p * q).sum(dim=-1) - rest * q_rest
    not_blank = (1.0 - (p * (labels == blank)).sum(dim=-1)) * known_frames
    weights = not_blank + blank_weight * (1.0 - not_blank) * known_frames
    return (divergence * weights).sum() / not_blank.sum().clamp(min=1.0)


def _map_to(store: StateStore, width: int) -> nn.Linear:
    """A linear map to the states of a store; of the same width one that leaves a student what it has already."""
    linear = nn.Linear(width, store.width)
    if store.width == width:
        linear.weight.data = torch.diag(store.frame_spread / store.spread)
        linear.bias.data = -store.mean / store.spread
    return linear


class DistillationObjective(EncoderObjective):
    """Batch -> the losses of the encoder, and its divergence from a teacher wherever that has heard the utterance."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        tokenizer: Tokenizer,
        weights: EncoderLossOptions,
        options: DistillationOptions,
        stores: Mapping[str, PosteriorStore],
        texts: Mapping[str, str],
        language_head: LanguageHead | None = None,
        states: Sequence[StateStore] = (),
    ) -> None:
        """`texts` are those of the utterances by id: what says something else in a batch has no teacher there.

        Raises `ConfigError` where there are not as many states as blocks that are to be drawn to them.
        """
        super().__init__(encoder, tokenizer, weights, language_head)
        self.options, self.stores, self.texts, self.states = options, stores, texts, tuple(states)
        blocks = options.state_blocks
        if len(blocks) > len(self.states) or not all(1 <= block <= encoder.config.num_layers for block in blocks):
            raise ConfigError(
                f"[distillation] state_blocks is {list(blocks)}, but the teacher has states of {len(self.states)} "
                f"layers and the encoder {encoder.config.num_layers} blocks"
            )
        width = encoder.config.hidden_dim
        self.maps = nn.ModuleList(  # of training alone, see `ONLY_TRAINING`
            nn.Sequential(nn.LayerNorm(width), _map_to(store, width))
            for _, store in zip(blocks, self.states, strict=False)
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.encoded(batch)
        terms = self.terms(batch, out)
        # Utterances that were mixed anew keep the id of the one whose place they take, but not its text.
        ids = [name if self.texts.get(name) == text else "" for name, text in zip(batch.ids, batch.texts, strict=True)]
        heads = {
            "characters": (out.char_logits, out.lengths, CHAR_BLANK),
            "tokens": (*draft_logits(self.encoder, out), self.encoder.config.blank_token_id),
        }
        for name, store in self.stores.items():
            if weight := getattr(self.options, name):
                logits, lengths, blank = heads[name]
                posteriors = store.batch(ids, lengths.tolist())
                logits = logits[:, : posteriors.labels.shape[1]]
                divergence = posterior_divergence(logits, lengths, posteriors, blank, self.options.blank_weight)
                terms[f"teacher_{name}"] = (weight, divergence)
        return weighted(terms | self.state_terms(out, ids))

    def encoded(self, batch: Batch) -> EncoderOutput:
        """What the encoder makes of a batch, with the states that are drawn to a teacher's."""
        device = self.encoder.input_linear.weight.device
        return self.encoder(batch.features.to(device), batch.lengths.to(device), self.options.state_blocks)

    def batch_state_terms(self, out: EncoderOutput, batch: Batch) -> Terms:
        """Those of all utterances of a batch."""
        return self.state_terms(out, batch.ids)

    def state_terms(self, out: EncoderOutput, ids: Sequence[str]) -> Terms:
        """The mean square distance from each layer of the teacher's states; utterances without an id have none."""
        terms: Terms = {}
        for number, (layer, to_states) in enumerate(zip(self.states, self.maps, strict=False)):
            targets, known_frames = (each.to(out.hidden.device) for each in layer.batch(ids, out.lengths.tolist()))
            states = to_states(out.exports[number][:, : targets.shape[1]])  # a batch may be padded beyond its longest
            distance = (states.float() - targets).square().clamp(max=FARTHEST).mean(dim=-1)
            mean = (distance * known_frames).sum() / known_frames.sum().clamp(min=1)
            terms[f"teacher_states_{number + 1}"] = (self.options.states, mean)
        return terms
