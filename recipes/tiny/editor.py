"""The editor's objective on cached encoder states: damaged drafts, drafts without audio, capitals and marks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redline.decoding.ngram import NgramLM
from redline.errors import ConfigError
from redline.models.granite import GraniteLM
from redline.models.heads import PunctuationHead
from redline.models.nar import NarModel
from redline.tokenizer import Tokenizer
from redline.train.objectives.losses import Terms, ctc_loss, weighted
from redline.train.objectives.nar import EditingPass, EditOptions, EditorObjective
from redline_recipes.tiny.corruption import scramble_tokens
from redline_recipes.tiny.encoder_cache import CachedBatch
from redline_recipes.tiny.punctuation import punctuation_loss


@dataclass(frozen=True)
class AuxiliaryOptions:
    """What small models learn by beside the published losses; an AR model only by CTC on its audio embeddings."""

    audio_ctc_weight: float = 0.0
    """Weight of CTC on the audio embeddings alone, read through the language model's own output matrix.

    It puts each audio embedding near the embedding of the token that is spoken there, so that a language model finds
    its place in the audio by content; without it a small one takes long to listen at all. An AR model needs a projector
    with one query per window for it, whose order is that of the audio.
    """

    scramble_rate: tuple[float, float] = (0.0, 0.0)
    """Share of draft tokens replaced, dropped or doubled, on top of the encoder's own errors.

    Every utterance draws its own share between the two ends. Badly scrambled drafts force the editor to listen: beside
    a good draft, a small model is content to copy.
    """
    punctuation_weight: float = 0.0
    """Weight of the loss of capitals and marks, learned from texts whose written form is known; 0 learns none."""

    def __post_init__(self) -> None:
        if not 0 <= self.scramble_rate[0] <= self.scramble_rate[1] <= 1:
            raise ConfigError(f"scramble_rate is {self.scramble_rate}; allowed are two rising shares from 0 to 1")


class CachedEditorObjective(EditorObjective):
    """Batch or cached batch -> NLE loss, and the loss of the punctuation head where texts are known in written form."""

    def __init__(
        self,
        model: NarModel,
        tokenizer: Tokenizer,
        options: EditOptions,
        auxiliary: AuxiliaryOptions,
        draft_lm: NgramLM | None = None,
    ) -> None:
        if auxiliary.punctuation_weight and model.punctuation_head is None:
            model.punctuation_head = PunctuationHead(model.config.text.hidden_size)
        super().__init__(model, tokenizer, options, draft_lm)
        self.auxiliary = auxiliary
        if model.punctuation_head is not None:
            model.punctuation_head.requires_grad_(auxiliary.punctuation_weight > 0)
        special = tokenizer.special_ids
        self.vocabulary = [index for index in range(256, tokenizer.vocab_size) if index not in special]

    def encode(self, batch: Any) -> Any:
        """The encoder's output for a batch, or what the cache has of it, on the model's device."""
        if not isinstance(batch, CachedBatch):
            return super().encode(batch)
        device = self.model.projector.query.device
        exports = tuple(states.to(device) for states in batch.exports)
        return replace(batch, exports=exports, lengths=batch.lengths.to(device))

    def draft(self, batch: Any, encoded: Any) -> Sequence[Sequence[int]]:
        """The cached or the encoder's drafts, scrambled while training."""
        drafts = encoded.drafts if isinstance(encoded, CachedBatch) else super().draft(batch, encoded)
        least, most = self.auxiliary.scramble_rate
        if not self.training or not most:
            return drafts
        draw = random.Random("".join(batch.texts) + str(torch.initial_seed()))
        return [scramble_tokens(row, draw.uniform(least, most), self.vocabulary, draw) for row in drafts]

    def embed_audio(self, encoded: Any) -> tuple[Tensor, Tensor]:
        """Audio embeddings [B, S, H] and lengths [B]; S is 0 for drafts without audio."""
        if encoded.exports[0].shape[1]:
            return super().embed_audio(encoded)
        # With a gradient, as of sound: shards are summed in the order in which the layers' gradients come.
        shape = len(encoded.lengths), 0, self.model.config.text.hidden_size
        return self.model.projector.query.new_zeros(shape, requires_grad=True), encoded.lengths

    def more_terms(self, batch: Any, seen: EditingPass) -> Terms:
        """CTC on the audio embeddings, and the loss of capitals and marks."""
        model, auxiliary, blank = self.model, self.auxiliary, self.model.config.blank_token_id
        terms: Terms = {}
        if auxiliary.audio_ctc_weight and seen.embeds.shape[1]:
            ctc = audio_ctc(model.language_model, seen.embeds, seen.audio_lengths, seen.targets, blank)
            terms["audio"] = (auxiliary.audio_ctc_weight, ctc)
        head = model.punctuation_head
        if head is not None and auxiliary.punctuation_weight and isinstance(batch, CachedBatch):
            logits, head_logits = seen.logits.detach(), head(seen.hidden)
            loss = punctuation_loss(head_logits, logits, seen.slot_lengths, batch.written, self.tokenizer, blank)
            terms["punctuation"] = (auxiliary.punctuation_weight, loss)
        return terms

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().forward(batch)
        if isinstance(batch, CachedBatch) and not batch.exports[0].shape[1]:
            parts = {"text" if name == "edit" else name: part for name, part in parts.items()}
        return loss, parts


class ListeningObjective(CachedEditorObjective):
    """Batch or cached batch -> CTC on the audio embeddings: the projector learns what the language model can read.

    It costs a third of an update of the editor, because the language model is held and not run.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model.language_model.requires_grad_(False)
        if self.model.punctuation_head is not None:
            self.model.punctuation_head.requires_grad_(False)

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        embeds, lengths = self.embed_audio(self.encode(batch))
        targets = [self.tokenizer.encode(text) for text in batch.texts]
        blank = self.model.config.blank_token_id
        return weighted({"audio": (1.0, audio_ctc(self.model.language_model, embeds, lengths, targets, blank))})


def audio_ctc(
    language_model: GraniteLM, embeds: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int
) -> Tensor:
    """CTC of audio embeddings [B, S, H] with lengths [B], read through the language model's output matrix."""
    return ctc_loss(language_model.logits(language_model.model.norm(embeds)), lengths, targets, blank)
