"""Granite Speech 5.0 TurboCTC: the Conformer encoder alone, its tokens read by CTC (arXiv 2609.20104).

Two blocks halve the frame rate (50 -> 12.5 a second); one matrix is the CTC head in the middle (self-conditioning) and
at the top; features hold the deltas of the mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from redline.features import FEATURE_DIM, FRAME_RATE
from redline.models.config import EncoderConfig, Languages
from redline.models.config_rules import check, count
from redline.models.conformer import ConformerEncoder, EncoderOutput


@dataclass(frozen=True)
class CtcConfig(EncoderConfig):
    """A CTC-only model; the defaults are those of granite-speech-5.0-470m-turboctc."""

    turbo: ClassVar[bool] = True
    input_dim: int = 2 * FEATURE_DIM
    output_dim: int = 16_384
    """Rows of the token head."""
    context_size: int = 128
    dropout: float = 0.0
    pred_dropout: float = 0.0
    conv_kernel_size: int = 7
    bpe_output_dim: int | None = None
    blank_token_id: int = 0
    subsample_layers: tuple[int, ...] = (1, 2)
    languages: Languages = ("en",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check("pad_token_id", self.blank_token_id, count(self.output_dim - 1, 0))

    @property
    def block_s(self) -> float:
        """Seconds of the longest attention block; a clip of whole blocks loses no context at its end."""
        return self.context_size * self.subsampling / FRAME_RATE


class CtcModel(ConformerEncoder):
    """The encoder, whose own head drafts in tokens, one label a frame."""

    config: CtcConfig

    def __init__(self, config: CtcConfig) -> None:
        super().__init__(config)
        self.blank = config.blank_token_id

    def pool(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> the token logits [B, T, V] and lengths [B]."""
        return encoded.char_logits, encoded.lengths

    def logits(self, pooled: Tensor) -> Tensor:
        """What is pooled are logits already."""
        return pooled
