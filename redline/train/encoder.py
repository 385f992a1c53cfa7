"""Stage (b): the Conformer encoder, taught by characters at the middle and the top and by tokens on pooled frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from redline.decoding.ctc import greedy
from redline.features import pad
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder
from redline.text import Tokenizer
from redline.train.data import Batch, BatchSource, FeatureView, Utterance
from redline.train.losses import ctc_loss

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


def rates(references: list[str], hypotheses: list[str]) -> tuple[float, float]:
    """Character and word error rate in percent."""
    import jiwer

    return 100 * jiwer.cer(references, hypotheses), 100 * jiwer.wer(references, hypotheses)


class EncoderObjective(nn.Module):
    """Batch -> weighted sum of the three CTC losses."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, weights: EncoderLossOptions) -> None:
        super().__init__()
        self.encoder = ConformerEncoder(config)
        self.tokenizer = tokenizer
        self.weights = weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.encoder.config
        device = self.encoder.input_linear.weight.device
        out = self.encoder(batch.features.to(device), batch.lengths.to(device))
        chars = [characters(text, config.output_dim) for text in batch.texts]
        tokens = [self.tokenizer.encode(text) for text in batch.texts]
        top = ctc_loss(out.char_logits, out.lengths, chars, CHAR_BLANK)
        middle = ctc_loss(out.mid_logits, out.lengths, chars, CHAR_BLANK)
        bpe = ctc_loss(out.draft_logits, out.draft_lengths, tokens, config.blank_token_id)
        loss = self.weights.top * top + self.weights.middle * middle + self.weights.tokens * bpe
        return loss, {"top": top.detach(), "middle": middle.detach(), "tokens": bpe.detach()}


class EncoderStage:
    """Trains the encoder on batches of a `BatchSource` and scores it on whole utterances."""

    name = "encoder"

    def __init__(
        self,
        objective: EncoderObjective,
        source: BatchSource,
        dev: Sequence[Utterance],
        dev_view: FeatureView,
    ) -> None:
        self.objective = objective
        self.source = source
        self.dev = sorted((item for item in dev if item.id in dev_view.offsets), key=lambda item: item.duration)
        self.dev_view = dev_view

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        return self.source.epoch(epoch, skip)

    def seconds(self, batch: Batch) -> float:
        return batch.seconds

    def evaluate(self) -> dict[str, float]:
        """Character and token drafts against the reference: CER and WER in percent."""
        encoder, tokenizer = self.objective.encoder, self.objective.tokenizer
        blank = encoder.config.blank_token_id
        spelled: list[str] = []
        drafted: list[str] = []
        for start in range(0, len(self.dev), 8):
            group = self.dev[start : start + 8]
            features, lengths = pad([self.dev_view[item.id] for item in group])
            device = encoder.input_linear.weight.device
            out = encoder(features.to(device), lengths.to(device))
            spelled += ["".join(map(chr, row)) for row in greedy(out.char_logits, out.lengths, CHAR_BLANK)]
            drafted += [tokenizer.decode(row) for row in greedy(out.draft_logits, out.draft_lengths, blank)]
        references = [item.text for item in self.dev]
        cer, wer = rates(references, spelled)
        token_cer, token_wer = rates(references, drafted)
        return {"cer": cer, "wer": wer, "token_cer": token_cer, "token_wer": token_wer}
