"""Stage (b): the Conformer encoder, taught by characters at the middle and the top and by tokens on pooled frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from redline.decoding.ctc import greedy
from redline.manifest import Utterance
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.text import Tokenizer
from redline.train.data import Batch, FeatureView
from redline.train.losses import ctc_loss
from redline.train.stage import Source, SpeechStage, rates

CHAR_BLANK = 0


@dataclass(frozen=True)
class EncoderLossOptions:
    """Weights of the three CTC losses."""

    top: float = 1.0
    middle: float = 0.3
    tokens: float = 0.4


def characters(text: str, rows: int) -> list[int]:
    """Labels of the character head: row i is code point i; what has no row is left out."""
    return [ord(char) for char in text if 0 < ord(char) < rows]


class EncoderObjective(nn.Module):
    """Batch -> weighted sum of the three CTC losses."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, weights: EncoderLossOptions) -> None:
        super().__init__()
        self.encoder = ConformerEncoder(config)
        self.tokenizer = tokenizer
        self.weights = weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.encoder.input_linear.weight.device
        out = self.encoder(batch.features.to(device), batch.lengths.to(device))
        return encoder_loss(out, batch.texts, self.encoder.config, self.tokenizer, self.weights)


def encoder_loss(
    out: EncoderOutput,
    texts: Sequence[str],
    config: EncoderConfig,
    tokenizer: Tokenizer,
    weights: EncoderLossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the three CTC losses of what an encoder heard, and its parts."""
    assert out.draft_logits is not None and out.draft_lengths is not None
    chars = [characters(text, config.output_dim) for text in texts]
    tokens = [tokenizer.encode(text) for text in texts]
    top = ctc_loss(out.char_logits, out.lengths, chars, CHAR_BLANK)
    middle = ctc_loss(out.mid_logits, out.lengths, chars, CHAR_BLANK)
    bpe = ctc_loss(out.draft_logits, out.draft_lengths, tokens, config.blank_token_id)
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
        for features, lengths in self.dev_batches(encoder.input_linear.weight.device):
            out = encoder(features, lengths)
            spelled += ["".join(map(chr, row)) for row in greedy(out.char_logits, out.lengths, CHAR_BLANK)]
            tokens = greedy(out.draft_logits, out.draft_lengths, encoder.config.blank_token_id)
            drafted += [tokenizer.decode(row).strip() for row in tokens]
        cer, wer = rates(self.references, spelled)
        token_cer, token_wer = rates(self.references, drafted)
        return {"cer": cer, "wer": wer, "token_cer": token_cer, "token_wer": token_wer}
