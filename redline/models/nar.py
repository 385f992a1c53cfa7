"""The NLE model: a CTC encoder drafts, a bidirectional language model edits every slot in one pass (arXiv 2603.08397).

features -> encoder -> draft ids (read along by an n-gram model, where there is one) -> slots e x1 e x2 e
                  \\-> exports -> projector -> audio embeddings
audio embeddings ++ slots -> language model -> one prediction per slot -> collapse -> final ids
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redline.decoding import ctc, ctc_beam
from redline.decoding.ctc_beam import BeamOptions
from redline.decoding.ngram import NgramLM
from redline.decoding.slots import with_slots
from redline.errors import ConfigError
from redline.models.config import NarConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.granite import GraniteLM
from redline.models.heads import LanguageHead, PunctuationHead
from redline.models.projector import Projector


@dataclass
class EditOutput:
    """What one pass of the language model makes of drafts."""

    draft_ids: list[list[int]]
    slots: Tensor  # [B, K] ids, the blank in empty slots and past the end
    slot_lengths: Tensor  # [B]
    slot_logits: Tensor  # [B, K, V] what the editor thinks, before the draft is favoured
    form_logits: Tensor | None  # [B, K, F] how the word in each slot is written
    paths: list[list[int]]  # best label of each slot
    final_ids: list[list[int]]


@dataclass
class NarOutput(EditOutput):
    """Everything that is computed, from the encoder's states to the edited ids of each clip."""

    encoded: EncoderOutput
    audio_embeds: Tensor  # [B, S, H], as the language model reads them (before its embedding multiplier)
    audio_lengths: Tensor  # [B]
    language_logits: Tensor | None  # [B, L] which language each clip is in


class NarModel(nn.Module):
    """Encoder, projector and language model under the tensor names of the later published NAR layout."""

    def __init__(self, config: NarConfig) -> None:
        super().__init__()
        if config.encoder.bpe_output_dim != config.text.vocab_size:
            raise ConfigError(
                f"encoder bpe_output_dim is {config.encoder.bpe_output_dim}; it must be the vocabulary size, "
                f"{config.text.vocab_size}, because the draft is written in the language model's tokens"
            )
        if not 0 <= config.blank_token_id < config.text.vocab_size:
            raise ConfigError(
                f"blank_token_id is {config.blank_token_id}; allowed are 0 to {config.text.vocab_size - 1}"
            )
        self.config = config
        self.encoder = ConformerEncoder(config.encoder)
        self.projector = Projector(config.projector)
        self.language_model = GraniteLM(config.text)
        self.forms: PunctuationHead | None = None
        self.language: LanguageHead | None = None
        self.draft_lm: NgramLM | None = None
        """Reads along while the draft is written; without it the draft is greedy. It is not one of the weights."""

    @property
    def search_options(self) -> BeamOptions:
        """How drafts are searched for, where they are."""
        return self.draft_lm.options if self.draft_lm else ctc_beam.ALONE

    def encode(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Features [B, T, 160] with lengths [B] -> encoder output with the states that the projector reads."""
        encoded: EncoderOutput = self.encoder(features, lengths, self.config.encoder_layer_indices)
        return encoded

    def draft_logits(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> token logits [B, W, V] and lengths [B]."""
        assert self.encoder.out_bpe is not None
        logits: Tensor
        logits, lengths = self.encoder.out_bpe(encoded)
        return logits, lengths

    @torch.no_grad()
    def draft(self, encoded: EncoderOutput, expected: ctc_beam.Bias | None = None) -> list[list[int]]:
        """The encoder's own transcript of each clip, as token ids; `expected` draws the search, and all of the text."""
        logits, lengths = self.draft_logits(encoded)
        blank = self.config.blank_token_id
        if self.draft_lm is None and expected is None:
            return ctc.greedy(logits, lengths, blank)
        options = self.search_options
        candidates = ctc_beam.Candidates.of(logits, lengths, blank, options)
        if self.draft_lm is not None:
            candidates = candidates.to(self.draft_lm.device)
        return ctc_beam.search(candidates, self.draft_lm, options, expected)

    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer -> audio embeddings [B, S, H] and lengths [B]."""
        embeds, audio_lengths = self.projector(exports, lengths)
        if self.config.scale_projected_embeddings:
            embeds = embeds / self.config.text.embedding_multiplier
        return embeds, audio_lengths

    def slots(self, drafts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Drafts -> slot ids [B, K], padded with the blank, and lengths [B]; on the model's device."""
        blank, minimum = self.config.blank_token_id, self.config.min_edit_sequence_length
        rows = [torch.tensor(with_slots(draft, blank, minimum)) for draft in drafts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank)
        device = self.projector.query.device
        return ids.to(device), lengths.to(device)

    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor:
        """One bidirectional pass over audio [B, S, H] ++ slots [B, K] -> the slots' states [B, K, H].

        Each row is packed to the left (its audio, its slots, then padding), so positions count as for a clip alone.
        """
        S, K = audio_embeds.shape[1], slots.shape[1]
        both = torch.cat((audio_embeds, self.language_model.embed(slots)), dim=1)  # [B, S + K, H]
        lengths = audio_lengths + slot_lengths
        audio_end = audio_lengths[:, None]
        steps = torch.arange(S + K, device=both.device)
        source = torch.where(steps < audio_end, steps, steps + S - audio_end).clamp(max=S + K - 1)
        packed = both.gather(1, source[..., None].expand_as(both))  # [B, S + K, H]
        hidden = self.language_model.hidden(packed, lengths, causal=False)
        places = audio_end + torch.arange(K, device=both.device)  # [B, K]
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))

    def keep(self, slot_logits: Tensor, slots: Tensor) -> Tensor:
        """Favour a draft that was read along by its `keep_bias`: slot logits [B, K, V], slots [B, K] -> [B, K, V]."""
        if self.draft_lm is None or not self.draft_lm.options.keep_bias:
            return slot_logits
        bias = torch.full_like(slot_logits[..., :1], self.draft_lm.options.keep_bias)  # [B, K, 1]
        return slot_logits.scatter_add(-1, slots[..., None], bias)

    def edit(self, audio_embeds: Tensor, audio_lengths: Tensor, draft_ids: list[list[int]]) -> EditOutput:
        """One pass over the drafts of B clips, whose audio is [B, S, H] with lengths [B]."""
        slots, slot_lengths = self.slots(draft_ids)
        hidden = self.read(audio_embeds, audio_lengths, slots, slot_lengths)
        slot_logits = self.language_model.logits(hidden)
        best = self.keep(slot_logits, slots).argmax(dim=-1).tolist()
        paths = [row[:length] for row, length in zip(best, slot_lengths.tolist(), strict=True)]
        return EditOutput(
            draft_ids=draft_ids,
            slots=slots,
            slot_lengths=slot_lengths,
            slot_logits=slot_logits,
            form_logits=self.forms(hidden) if self.forms is not None else None,
            paths=paths,
            final_ids=[ctc.collapse(path, self.config.blank_token_id) for path in paths],
        )

    def forward(self, features: Tensor, lengths: Tensor) -> NarOutput:
        """Features [B, T, 160] with lengths [B] -> drafts and edited ids."""
        encoded = self.encode(features, lengths)
        draft_ids = self.draft(encoded)
        audio_embeds, audio_lengths = self.embed_audio(encoded.exports, encoded.lengths)
        return NarOutput(
            **vars(self.edit(audio_embeds, audio_lengths, draft_ids)),
            encoded=encoded,
            audio_embeds=audio_embeds,
            audio_lengths=audio_lengths,
            language_logits=self.language(encoded.hidden, encoded.lengths) if self.language is not None else None,
        )
