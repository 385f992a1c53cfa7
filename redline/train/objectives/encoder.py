"""Stage (b): the Conformer encoder, taught by characters at the middle and the top and by tokens on pooled frames.

Where several languages are learned, a head on its last states learns to tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.decoding.ctc import greedy
from redline.manifest import Utterance
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.draft_head import CHAR_BLANK
from redline.models.heads import LanguageHead
from redline.tokenizer import Tokenizer
from redline.train.data.batches import Batch, FeatureView
from redline.train.loop.stage import Source, SpeechStage, rates
from redline.train.objectives.losses import consistency_loss, ctc_loss


@dataclass(frozen=True)
class EncoderLossOptions:
    """Weights of the three CTC losses, and of the head for languages where there are several."""

    top: float = 1.0
    middle: float = 0.3
    tokens: float = 0.4
    language: float = 0.2
    consistency: float = 0.0
    """Weight of the agreement of two hearings of each utterance under other masks, in each loss; 0: heard once."""


def character_targets(text: str, rows: int) -> list[int]:
    """Labels of the character head: row i is code point i; what has no row is left out."""
    return [ord(char) for char in text if 0 < ord(char) < rows]


class EncoderObjective(nn.Module):
    """Batch -> weighted sum of the three CTC losses, and of the cross-entropy of the languages."""

    def __init__(
        self, config: EncoderConfig, tokenizer: Tokenizer, weights: EncoderLossOptions, languages: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.encoder = ConformerEncoder(config)
        self.language = LanguageHead(config.hidden_dim, languages) if len(languages) > 1 else None
        self.tokenizer = tokenizer
        self.weights = weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.encoder.input_linear.weight.device
        out = self.encoder(batch.features.to(device), batch.lengths.to(device))
        loss, parts = encoder_loss(self.encoder, out, batch.texts, self.tokenizer, self.weights)
        if batch.twins and self.weights.consistency:
            apart = self._apart(out, batch.texts)
            loss = loss + self.weights.consistency * apart
            parts["apart"] = apart.detach()
        if self.language is not None:
            spoken = torch.tensor([self.language.languages.index(one) for one in batch.languages], device=device)
            told = F.cross_entropy(self.language(out.hidden, out.lengths).float(), spoken)
            loss = loss + self.weights.language * told
            parts["language"] = told.detach()
        return loss, parts

    def _apart(self, out: EncoderOutput, texts: Sequence[str]) -> Tensor:
        """How far the two hearings of a batch of twins disagree, in each of the three losses by its weight."""
        letters = sum(len(character_targets(text, self.encoder.config.output_dim)) for text in texts)
        tokens = sum(map(len, self.tokenizer.encode_all(texts)))
        top = consistency_loss(out.char_logits, out.lengths, letters)
        middle = consistency_loss(out.mid_logits, out.lengths, letters)
        bpe = consistency_loss(*draft_logits(self.encoder, out), tokens)
        return self.weights.top * top + self.weights.middle * middle + self.weights.tokens * bpe


def warm(encoder: ConformerEncoder, other: ConformerEncoder) -> list[str]:
    """Copy what two encoders share, rows of the character head by code point; returns the names of what stays new.

    The token head stays new: its rows mean other tokens.
    """
    mine, theirs = encoder.state_dict(), other.state_dict()
    new = []
    for name, tensor in mine.items():
        found = theirs.get(name)
        if found is None or name.startswith("out_bpe.") or found.ndim != tensor.ndim:
            new.append(name)
        elif found.shape == tensor.shape:
            tensor.copy_(found)
        elif name.startswith("out"):
            shared = tuple(slice(min(sizes)) for sizes in zip(found.shape, tensor.shape, strict=True))
            tensor[shared] = found[shared]
        else:
            new.append(name)
    return new


def draft_logits(encoder: ConformerEncoder, out: EncoderOutput) -> tuple[Tensor, Tensor]:
    """Token logits [B, W, V] and lengths [B] by the encoder's draft head."""
    assert encoder.out_bpe is not None
    logits: Tensor
    logits, lengths = encoder.out_bpe(out)
    return logits, lengths


def encoder_loss(
    encoder: ConformerEncoder,
    out: EncoderOutput,
    texts: Sequence[str],
    tokenizer: Tokenizer,
    weights: EncoderLossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the three CTC losses of what an encoder heard, and its parts."""
    chars = [character_targets(text, encoder.config.output_dim) for text in texts]
    tokens = [tokenizer.encode(text) for text in texts]
    top = ctc_loss(out.char_logits, out.lengths, chars, CHAR_BLANK)
    middle = ctc_loss(out.mid_logits, out.lengths, chars, CHAR_BLANK)
    bpe = ctc_loss(*draft_logits(encoder, out), tokens, encoder.config.blank_token_id)
    loss = weights.top * top + weights.middle * middle + weights.tokens * bpe
    return loss, {"top": top.detach(), "middle": middle.detach(), "tokens": bpe.detach()}


class EncoderStage(SpeechStage):
    """Trains the encoder and scores both of its drafts."""

    name = "encoder"

    def __init__(
        self, objective: EncoderObjective, source: Source[Batch], dev: Sequence[Utterance], dev_view: FeatureView
    ) -> None:
        super().__init__(source, dev, dev_view)
        self.objective = objective

    def evaluate(self) -> dict[str, float]:
        """Character and token drafts against the reference: CER and WER in percent."""
        encoder, tokenizer = self.objective.encoder, self.objective.tokenizer
        spelled: list[str] = []
        drafted: list[str] = []
        told: list[str] = []
        for features, lengths in self.dev_batches(encoder.input_linear.weight.device):
            out = encoder(features, lengths)
            spelled += ["".join(map(chr, row)) for row in greedy(out.char_logits, out.lengths, CHAR_BLANK)]
            tokens = greedy(*draft_logits(encoder, out), encoder.config.blank_token_id)
            drafted += [tokenizer.decode(row).strip() for row in tokens]
            if (head := self.objective.language) is not None:
                told += [head.languages[best] for best in head(out.hidden, out.lengths).argmax(dim=-1).tolist()]
        cer, wer = rates(self.references, spelled, self.languages)
        token_cer, token_wer = rates(self.references, drafted, self.languages)
        scores = {"cer": cer, "wer": wer, "token_cer": token_cer, "token_wer": token_wer}
        if told:
            wrong = sum(one != item.language for one, item in zip(told, self.dev, strict=True))
            scores["language_errors"] = 100 * wrong / len(told)
        return scores
