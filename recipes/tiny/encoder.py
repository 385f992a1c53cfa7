"""Encoder training: a Conformer by CTC over characters at the middle and the top and over tokens on pooled frames.

Where several languages are learned, a language identification head on its last states is trained beside it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.decoding.ctc import greedy
from redline.errors import ConfigError
from redline.models.conformer import ConformerEncoder, EncoderOutput, MaskedBatchNorm
from redline.models.draft_head import CHAR_BLANK, DraftHead
from redline.models.heads import LanguageHead
from redline.tokenizer import UNFINISHED, Tokenizer
from redline.train.data.batches import Batch
from redline.train.loop.stage import SpeechStage, rates
from redline.train.objectives.losses import CtcWeights, Terms, encoder_terms, weighted

SPACE = "Ġ"
"""How a byte-level vocabulary spells a space."""
LESS_LIKELY = 2.0
"""Nats by which a letter with an accent begins below the plain one."""


@dataclass(frozen=True)
class EncoderLossOptions(CtcWeights):
    """Weights of the three CTC losses, and of language identification where there are several languages."""

    language: float = 0.2


class EncoderObjective(nn.Module):
    """Batch -> weighted sum of the three CTC losses, and of the cross-entropy of the languages."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        tokenizer: Tokenizer,
        weights: EncoderLossOptions,
        language_head: LanguageHead | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.language_head = language_head
        self.tokenizer = tokenizer
        self.weights = weights

    def train(self, mode: bool = True) -> EncoderObjective:
        """Whatever is frozen hears by the statistics that it has."""
        super().train(mode)
        for part in self.encoder.modules():
            if isinstance(part, MaskedBatchNorm) and not part.weight.requires_grad:
                part.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.encoder.input_linear.weight.device
        return weighted(self.terms(batch, self.encoder(batch.features.to(device), batch.lengths.to(device))))

    def terms(self, batch: Batch, out: EncoderOutput) -> Terms:
        """Weight and loss of each head, of what the encoder makes of a batch."""
        terms = encoder_terms(self.encoder, out, batch.texts, self.tokenizer, self.weights)
        if self.language_head is not None:
            logits = self.language_head(out.hidden, out.lengths).float()
            labels = [self.language_head.languages.index(name) for name in batch.languages]
            loss = F.cross_entropy(logits, torch.tensor(labels, device=logits.device))
            terms["language"] = (self.weights.language, loss)
        return terms


def freeze_blocks(encoder: ConformerEncoder, count: int) -> None:
    """Hold what is below the first `count` blocks and those; raises `ConfigError` where none would be left."""
    if not 0 <= count < len(encoder.layers):
        raise ConfigError(f"frozen_blocks is {count}; allowed are 0 to {len(encoder.layers) - 1}, so that one learns")
    for part in (encoder.input_linear, *encoder.layers[:count]) if count else ():
        part.requires_grad_(False)


def transfer_encoder(encoder: ConformerEncoder, source: ConformerEncoder) -> list[str]:
    """Copy what two encoders share, rows of the character head by code point; returns the names of what stays new.

    A letter with an accent that only the new encoder knows begins as the plain letter, and less likely. The token head
    stays new: its rows mean other tokens (`transfer_tokens`).
    """
    known = source.state_dict()
    new = []
    for name, tensor in encoder.state_dict().items():
        other = known.get(name)
        if other is None or name.startswith("out_bpe.") or other.ndim != tensor.ndim:
            new.append(name)
        elif other.shape == tensor.shape:
            tensor.copy_(other)
        elif name.startswith("out"):
            shared = tuple(slice(min(sizes)) for sizes in zip(other.shape, tensor.shape, strict=True))
            tensor[shared] = other[shared]
        else:
            new.append(name)
    rows = source.config.output_dim
    for code in range(rows, encoder.config.output_dim):
        plain = ord(_without_accents(chr(code))[0])
        if plain < rows and chr(plain).isalpha():
            for name in ("out.weight", "out.bias"):
                tensor = encoder.state_dict()[name]
                tensor[code] = tensor[plain]
            encoder.state_dict()["out.bias"][code] -= LESS_LIKELY
            middle = encoder.state_dict()["out_mid.weight"]
            middle[:, code] = middle[:, plain]
    return new


def transfer_tokens(head: DraftHead, tokenizer: Tokenizer, source: DraftHead, source_tokenizer: Tokenizer) -> int:
    """Begin the row of each token with that of its text in another head, or the mean of the rows that write the text.

    Returns how many rows that are. Letters are looked up without their accents; bytes that are no whole character stay
    new.
    """
    copied = 0
    with torch.no_grad():
        for row in range(head.rows):
            text = _without_accents(tokenizer.decode([row]))
            same = source_tokenizer.id_of(text.replace(" ", SPACE))  # `encode` would put a space before it
            pieces = [same] if same is not None else source_tokenizer.encode(text)
            pieces = [source.blank] if row == head.blank else pieces
            if pieces and UNFINISHED not in text:
                head.weight[row], head.bias[row] = source.weight[pieces].mean(dim=0), source.bias[pieces].mean()
                copied += 1
    return copied


def _without_accents(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char)) or text


def draft_logits(encoder: ConformerEncoder, out: EncoderOutput) -> tuple[Tensor, Tensor]:
    """Token logits [B, W, V] and lengths [B] by the encoder's draft head."""
    assert encoder.out_bpe is not None
    logits: Tensor
    logits, lengths = encoder.out_bpe(out)
    return logits, lengths


class EncoderStage(SpeechStage):
    """Trains the encoder and scores both of its drafts."""

    name = "encoder"

    def evaluate(self) -> dict[str, float]:
        """Character and token drafts against the reference: CER and WER in percent."""
        encoder, head, tokenizer = self.objective.encoder, self.objective.language_head, self.objective.tokenizer
        characters: list[str] = []
        tokens: list[str] = []
        identified: list[str] = []
        for features, lengths in self.dev_batches(encoder.input_linear.weight.device):
            out = encoder(features, lengths)
            characters += ["".join(map(chr, row)) for row in greedy(out.char_logits, out.lengths, CHAR_BLANK)]
            ids = greedy(*draft_logits(encoder, out), encoder.config.blank_token_id)
            tokens += [tokenizer.decode(row).strip() for row in ids]
            if head is not None:
                identified += [head.languages[best] for best in head(out.hidden, out.lengths).argmax(dim=-1).tolist()]
        cer, wer = rates(self.references, characters, self.languages)
        token_cer, token_wer = rates(self.references, tokens, self.languages)
        scores = {"cer": cer, "wer": wer, "token_cer": token_cer, "token_wer": token_wer}
        if identified:
            wrong = sum(name != item.language for name, item in zip(identified, self.dev, strict=True))
            scores["language_errors"] = 100 * wrong / len(identified)
        return scores
