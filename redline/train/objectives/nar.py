"""Stage (d): NLE. The encoder is frozen; projector and language model learn to edit the encoder's own drafts.

Loss: CTC over the 2N + 1 slots plus 0.02 x cross-entropy towards the input slots (arXiv 2603.08397), see `nle_loss`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from redline.decoding.ctc import collapse
from redline.decoding.ngram import NgramLM
from redline.decoding.slots import slot_batch
from redline.errors import ConfigError
from redline.manifest import Utterance
from redline.models.conformer import EncoderOutput
from redline.models.granite import GraniteLM
from redline.models.nar import NarModel
from redline.recognizer.drafts import beam_options, search_drafts
from redline.recognizer.nar import edit_drafts
from redline.tokenizer import Tokenizer
from redline.train.data.batches import Batch, FeatureView
from redline.train.data.corrupt import scramble_tokens
from redline.train.loop.stage import Source, SpeechStage, rates
from redline.train.objectives.encoder import EncoderLossOptions, encoder_loss
from redline.train.objectives.losses import ctc_loss, nle_loss
from redline.train.objectives.punctuation import form_loss
from redline.train.states import StateBatch

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class EditOptions:
    """How the editor learns."""

    copy_weight: float = 0.02
    lora_rank: int = 0
    """Rank of adapters on attention and feed-forward; 0 trains the whole language model."""
    lora_alpha: int = 0
    """0 takes the rank."""
    audio_ctc_weight: float = 0.3
    """Weight of CTC on the audio embeddings alone, read through the language model's own output matrix.

    Not in the paper. It puts each audio embedding near the embedding of the token that is heard there, so that slots
    find their place in the audio by content; without it a small model takes long to look at the audio at all.
    """
    scramble_rate: tuple[float, float] = (0.0, 0.0)
    """Share of draft tokens replaced, dropped or doubled, on top of the encoder's own errors.

    Every utterance draws its own share between the two ends. Badly scrambled drafts force the editor to listen: beside
    a good draft, a small model is content to copy.
    """

    forms_weight: float = 0.0
    """Weight of the loss of capitals and marks, learned from texts whose written form is known; 0 learns none."""

    encoder_weight: float = 0.0
    """Weight of the encoder's own CTC losses; 0 freezes the encoder, as the paper does."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank is {self.lora_rank}; allowed are 0 (train everything) and above")
        if not 0 <= self.scramble_rate[0] <= self.scramble_rate[1] <= 1:
            raise ConfigError(f"scramble_rate is {self.scramble_rate}; allowed are two rising shares from 0 to 1")


class EditorObjective(nn.Module):
    """Batch -> NLE loss; a frozen encoder never changes, and no encoder changes the statistics of its normalisation."""

    def __init__(
        self, editor: NarModel, tokenizer: Tokenizer, options: EditOptions, draft_lm: NgramLM | None = None
    ) -> None:
        super().__init__()
        self.draft_lm = draft_lm
        self.editor = editor
        self.tokenizer = tokenizer
        self.options = options
        editor.encoder.requires_grad_(options.encoder_weight > 0)
        if options.lora_rank:
            editor.language_model = with_adapters(editor.language_model, options)
        if editor.language_head is not None:
            editor.language_head.requires_grad_(False)  # the encoder's stage taught it
        if editor.punctuation_head is not None:
            editor.punctuation_head.requires_grad_(options.forms_weight > 0)
        special = tokenizer.special_ids
        self.vocabulary = [index for index in range(256, tokenizer.vocab_size) if index not in special]

    def train(self, mode: bool = True) -> EditorObjective:
        super().train(mode)
        self.editor.encoder.train(mode and self.options.encoder_weight > 0)
        for part in self.editor.encoder.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
        return self

    def forward(self, batch: Batch | StateBatch) -> tuple[Tensor, dict[str, Tensor]]:
        editor, options = self.editor, self.options
        heard = self._heard(batch)
        drafts: Sequence[Sequence[int]] = heard.drafts if isinstance(heard, StateBatch) else self.draft(heard)
        if self.training and options.scramble_rate[1]:
            draw = random.Random("".join(batch.texts) + str(torch.initial_seed()))
            least, most = options.scramble_rate
            drafts = [scramble_tokens(row, draw.uniform(least, most), self.vocabulary, draw) for row in drafts]
        silent = heard.exports[0].shape[1] == 0  # a batch of drafts alone
        if silent:
            # With a gradient, as of sound: shards are summed in the order in which the layers' gradients come.
            embeds = editor.projector.query.new_zeros(
                len(batch.texts), 0, editor.config.text.hidden_size, requires_grad=True
            )
            audio_lengths = heard.lengths
        else:
            embeds, audio_lengths = editor.embed_audio(heard.exports, heard.lengths)
        blank = editor.config.blank_token_id
        rows, row_lengths = slot_batch(drafts, blank, editor.config.min_edit_sequence_length)
        slots, slot_lengths = rows.to(embeds.device), row_lengths.to(embeds.device)
        hidden = editor.read(embeds, audio_lengths, slots, slot_lengths)
        logits = editor.language_model.logits(hidden)
        targets = [self.tokenizer.encode(text) for text in batch.texts]
        loss = nle_loss(logits, slots, slot_lengths, targets, blank, options.copy_weight)
        parts = {"text" if silent else "edit": loss.detach()}
        if options.audio_ctc_weight and not silent:
            read = editor.language_model.logits(editor.language_model.model.norm(embeds))  # [B, S, V]
            audio = ctc_loss(read, audio_lengths, targets, blank)
            loss = loss + options.audio_ctc_weight * audio
            parts["audio"] = audio.detach()
        if options.forms_weight and editor.punctuation_head is not None and isinstance(heard, StateBatch):
            forms = form_loss(
                editor.punctuation_head(hidden), logits.detach(), slot_lengths, heard.written, self.tokenizer, blank
            )
            loss = loss + options.forms_weight * forms
            parts["forms"] = forms.detach()
        if options.encoder_weight and isinstance(heard, EncoderOutput):
            own, parts_of_it = encoder_loss(editor.encoder, heard, batch.texts, self.tokenizer, EncoderLossOptions())
            loss = loss + options.encoder_weight * own
            parts |= parts_of_it
        return loss, parts

    def draft(self, encoded: EncoderOutput) -> list[list[int]]:
        """The encoder's own transcript of each utterance, as token ids."""
        biases = [None] * len(encoded.hidden)
        return [draft.ids for draft in search_drafts(self.editor.draft_head, encoded, self.draft_lm, biases)]

    def _heard(self, batch: Batch | StateBatch) -> EncoderOutput | StateBatch:
        """What the encoder makes of a batch: read from disk, or by listening now."""
        device = self.editor.projector.query.device
        if isinstance(batch, StateBatch):
            return replace(
                batch, exports=tuple(states.to(device) for states in batch.exports), lengths=batch.lengths.to(device)
            )
        with torch.set_grad_enabled(self.options.encoder_weight > 0 and torch.is_grad_enabled()):
            return self.editor.encode(batch.features.to(device), batch.lengths.to(device))


def with_adapters(model: GraniteLM, options: EditOptions) -> GraniteLM:
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

    def __init__(
        self,
        objective: EditorObjective,
        source: Source[Batch | StateBatch],
        dev: Sequence[Utterance],
        dev_view: FeatureView,
    ) -> None:
        super().__init__(source, dev, dev_view)
        self.objective = objective

    def evaluate(self) -> dict[str, float]:
        """WER of the drafts and of the edited texts, in percent, and what editing takes off, relative."""
        editor, decode = self.objective.editor, self.objective.tokenizer.decode
        keep_bias = beam_options(self.objective.draft_lm).keep_bias
        drafted: list[str] = []
        edited: list[str] = []
        for features, lengths in self.dev_batches(editor.projector.query.device):
            encoded = editor.encode(features, lengths)
            drafts = self.objective.draft(encoded)
            audio, audio_lengths = editor.embed_audio(encoded.exports, encoded.lengths)
            slots = edit_drafts(editor, audio, audio_lengths, drafts, keep_bias)
            finals = [collapse([slot.label for slot in row], editor.config.blank_token_id) for row in slots]
            drafted += [decode(row).strip() for row in drafts]
            edited += [decode(row).strip() for row in finals]
        before, after = (rates(self.references, texts, self.languages)[1] for texts in (drafted, edited))
        return {"draft_wer": before, "edited_wer": after, "removed": 100 * (before - after) / max(before, 1e-9)}
