"""The NLE model: a CTC encoder drafts, a bidirectional language model edits every slot in one pass (arXiv 2603.08397).

features -> encoder -> draft logits                       audio embeddings ++ slots -> language model -> slot scores
                   \\-> exported layers -> projector -> audio embeddings

The networks only: drafts are searched for, and slots decided, by `redline.recognizer.nar`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from redline.models.config import NarConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.draft_head import LOGIT_ROWS, DraftHead
from redline.models.granite import GraniteLM
from redline.models.heads import LanguageHead, PunctuationHead
from redline.models.projector import Projector


class SlotScores(NamedTuple):
    """What the editor thinks of each slot: whether it stays, and what would be best in its place."""

    log_probs: Tensor  # [B, K] float32, of the id that stands in the slot
    other_ids: Tensor  # [B, K] the likeliest of the other ids
    other_log_probs: Tensor  # [B, K] float32


class NarModel(nn.Module):
    """Encoder, projector and language model under the tensor names of the later published NAR layout."""

    def __init__(self, config: NarConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConformerEncoder(config.encoder)
        self.projector = Projector(config.projector)
        self.language_model = GraniteLM(config.text)
        self.punctuation_head: PunctuationHead | None = None
        self.language_head: LanguageHead | None = None

    @property
    def draft_head(self) -> DraftHead:
        """The encoder's token head, whose published name is `encoder.out_bpe`."""
        assert self.encoder.out_bpe is not None
        return self.encoder.out_bpe

    def encode(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Features [B, T, 160] with lengths [B] -> encoder output with the states that the projector reads."""
        return self.encoder(features, lengths, self.config.encoder_layer_indices)

    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer -> audio embeddings [B, S, H] and lengths [B]."""
        embeds, audio_lengths = self.projector(exports, lengths)
        if self.config.scale_projected_embeddings:
            embeds = embeds / self.config.text.embedding_multiplier
        return embeds, audio_lengths

    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor:
        """One bidirectional pass over audio [B, S, H] ++ slots [B, K] -> the slots' states [B, K, H].

        Each row is packed to the left (its audio, its slots, then padding), so positions count as for a clip alone.
        """
        S, K = audio_embeds.shape[1], slots.shape[1]
        both = torch.cat((audio_embeds, self.language_model.embed(slots)), dim=1)  # [B, S + K, H]
        audio_end = audio_lengths[:, None]
        steps = torch.arange(S + K, device=both.device)
        source = torch.where(steps < audio_end, steps, steps + S - audio_end).clamp(max=S + K - 1)
        packed = both.gather(1, source[..., None].expand_as(both))  # [B, S + K, H]
        hidden = self.language_model.hidden(packed, audio_lengths + slot_lengths, causal=False)
        places = audio_end + torch.arange(K, device=both.device)  # [B, K]
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    def score_slots(self, hidden: Tensor, slots: Tensor, acoustic: Tensor | None = None) -> SlotScores:
        """Slot states [B, K, H] and what stands in the slots [B, K] -> scores; their logits never exist at once.

        `acoustic` [B, K, V] is added to the log probabilities: what else is known of each id in each slot.
        """
        scored = []
        parts = hidden.flatten(0, 1).split(LOGIT_ROWS), slots.flatten().split(LOGIT_ROWS)
        more = [None] * len(parts[0]) if acoustic is None else acoustic.flatten(0, 1).split(LOGIT_ROWS)
        for states, ids, extra in zip(*parts, more, strict=True):
            log_probs = self.language_model.logits(states).float().log_softmax(dim=-1)  # [N, V]
            log_probs = log_probs if extra is None else log_probs + extra
            own = log_probs.gather(-1, ids[:, None])
            other, other_ids = log_probs.scatter_(-1, ids[:, None], -torch.inf).max(dim=-1)
            scored.append((own[:, 0], other_ids, other))
        return SlotScores(*(torch.cat(parts).view(slots.shape) for parts in zip(*scored, strict=True)))

    def forward(self, features: Tensor, lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor:
        """Features [B, T, 160] and slots [B, K] with their lengths [B] -> the logits of all slots [B, K, V]."""
        encoded = self.encode(features, lengths)
        audio_embeds, audio_lengths = self.embed_audio(encoded.exports, encoded.lengths)
        return self.language_model.logits(self.read(audio_embeds, audio_lengths, slots, slot_lengths))
