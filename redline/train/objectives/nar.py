"""NLE training: the encoder is frozen; projector and language model learn to edit the encoder's own drafts.

Loss: CTC over the 2N + 1 slots plus 0.02 x cross-entropy towards the input slots (arXiv 2603.08397), see `nle_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from redline.decoding.ctc import collapse
from redline.decoding.ngram import NgramLM
from redline.decoding.slots import slot_batch
from redline.models.granite import GraniteLM
from redline.models.nar import NarModel
from redline.recognizer.drafts import search_drafts
from redline.recognizer.nar import edit_drafts, edit_options
from redline.tokenizer import Tokenizer
from redline.train.loop.optim import check_ranges
from redline.train.loop.stage import SpeechStage, rates
from redline.train.objectives.losses import CtcWeights, Terms, encoder_terms, nle_loss, weighted

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters of a language model (LoRA, arXiv 2106.09685) on attention and feed-forward."""

    lora_rank: int = 0  # 0 trains the whole language model
    lora_alpha: int = 0  # 0 takes the rank

    def __post_init__(self) -> None:
        check_ranges(self, "lora_rank", 0)


@dataclass(frozen=True)
class EditOptions(LoraOptions):
    """How the editor learns."""

    copy_weight: float = 0.02
    encoder_weight: float = 0.0  # weight of the encoder's own CTC losses; 0 freezes the encoder, as the paper does


class EditingPass(NamedTuple):
    """What an objective has computed of B clips."""

    embeds: Tensor  # [B, S, H] audio embeddings
    audio_lengths: Tensor  # [B]
    hidden: Tensor  # [B, K, H] states of the slots
    logits: Tensor  # [B, K, V]
    slot_lengths: Tensor  # [B]
    targets: list[list[int]]


class TunedObjective(nn.Module):
    """A language model that learns, as a whole or through adapters, behind an encoder that may learn too.

    A frozen encoder never changes, and no encoder changes the statistics of its normalisation.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, options: LoraOptions, train_encoder: bool) -> None:
        super().__init__()
        self.model, self.tokenizer, self.options, self.train_encoder = model, tokenizer, options, train_encoder
        model.encoder.requires_grad_(train_encoder)
        if options.lora_rank:
            model.language_model = with_adapters(model.language_model, options)

    def train(self, mode: bool = True) -> TunedObjective:
        super().train(mode)
        self.model.encoder.train(mode and self.train_encoder)
        for part in self.model.encoder.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
        return self

    def encode(self, batch: Any) -> Any:
        """The encoder's output for a batch, on the model's device: `exports` [B, T, D] each and `lengths` [B]."""
        device = self.model.projector.query.device
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            return self.model.encode(batch.features.to(device), batch.lengths.to(device))


class EditorObjective(TunedObjective):
    """Batch -> NLE loss; an extension may derive from it: `encode` and `draft` alone know what a batch holds."""

    model: NarModel
    options: EditOptions

    def __init__(
        self, model: NarModel, tokenizer: Tokenizer, options: EditOptions, draft_lm: NgramLM | None = None
    ) -> None:
        """`draft_lm` is the n-gram LM of the drafts' shallow fusion."""
        super().__init__(model, tokenizer, options, options.encoder_weight > 0)
        self.draft_lm = draft_lm
        for head in (model.language_head, model.punctuation_head):
            if head is not None:
                head.requires_grad_(False)

    def draft(self, batch: Any, encoded: Any) -> Sequence[Sequence[int]]:
        """The token ids that are edited, for each utterance."""
        biases = [None] * len(encoded.hidden)
        return [draft.ids for draft in search_drafts(self.model.draft_head, encoded, self.draft_lm, biases)]

    def embed_audio(self, encoded: Any) -> tuple[Tensor, Tensor]:
        """Audio embeddings [B, S, H] and lengths [B]."""
        return self.model.embed_audio(encoded.exports, encoded.lengths)

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        model, options = self.model, self.options
        encoded = self.encode(batch)
        embeds, audio_lengths = self.embed_audio(encoded)
        blank, minimum = model.config.blank_token_id, model.config.min_edit_sequence_length
        batch_slots = slot_batch(self.draft(batch, encoded), blank, minimum)
        slots, slot_lengths = (part.to(embeds.device) for part in batch_slots)
        hidden = model.read(embeds, audio_lengths, slots, slot_lengths)
        logits = model.language_model.logits(hidden)
        targets = [self.tokenizer.encode(text) for text in batch.texts]
        nle = nle_loss(logits, slots, slot_lengths, targets, blank, options.copy_weight)
        terms = {"edit": (1.0, nle)}
        if options.encoder_weight:
            own = encoder_terms(model.encoder, encoded, batch.texts, self.tokenizer, CtcWeights())
            terms |= {name: (options.encoder_weight * weight, part) for name, (weight, part) in own.items()}
        terms |= self.more_terms(batch, EditingPass(embeds, audio_lengths, hidden, logits, slot_lengths, targets))
        return weighted(terms)

    def more_terms(self, batch: Any, seen: EditingPass) -> Terms:
        """Further losses, for objectives that derive from this one."""
        return {}


def with_adapters(model: GraniteLM, options: LoraOptions) -> GraniteLM:
    """Freeze a language model and put trainable low-rank adapters into its layers."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    alpha = options.lora_alpha or options.lora_rank
    config = LoraConfig(r=options.lora_rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS), bias="none")
    inject_adapter_in_model(config, model)
    return model


def merge_adapters(model: nn.Module) -> None:
    """Fold every adapter into the layer it sits on, leaving the plain layers behind."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())


class EditorStage(SpeechStage):
    """Trains the editor and compares draft and edited text."""

    name = "editor"

    def evaluate(self) -> dict[str, float]:
        """WER of the drafts and of the edited texts, in percent, and what editing takes off, relative."""
        objective, model, decode = self.objective, self.objective.model, self.objective.tokenizer.decode
        options = edit_options(model, objective.draft_lm)
        drafts: list[str] = []
        edited: list[str] = []
        for features, lengths in self.dev_batches(model.projector.query.device):
            encoded = model.encode(features, lengths)
            ids = EditorObjective.draft(objective, None, encoded)
            slots = edit_drafts(model, encoded, [(row, draft, options) for row, draft in enumerate(ids)])
            finals = [collapse([slot.label for slot in row], model.config.blank_token_id) for row in slots]
            drafts += [decode(row).strip() for row in ids]
            edited += [decode(row).strip() for row in finals]
        before, after = (rates(self.references, texts, self.languages)[1] for texts in (drafts, edited))
        return {"draft_wer": before, "edited_wer": after, "removed": 100 * (before - after) / max(before, 1e-9)}
