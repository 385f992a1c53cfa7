"""Granite Speech 5.0 TurboCTC: the Conformer encoder alone, its tokens read by CTC (arXiv 2609.20104).

Two blocks halve the frame rate (50 -> 12.5 a second); one matrix is the CTC head in the middle (self-conditioning) and
at the top; features hold the deltas of the mel bands.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from redline.features import FEATURE_DIM, FRAME_RATE
from redline.models.config import EncoderConfig, HeadCount, Inner, Languages, LayerCount, TokenId, Width
from redline.models.config_rules import count, items, require
from redline.models.conformer import ConformerEncoder, EncoderOutput


class TurboEncoderConfig(EncoderConfig):
    """The encoder as the Conformer reads it."""

    turbo: ClassVar[bool] = True


@dataclass(frozen=True)
class TurboConfig:
    """`encoder_config` under its published keys; the defaults are those of granite-speech-5.0-470m-turboctc."""

    vocab_size: Annotated[int, count(65_536, 2)] = 16_384
    hidden_size: Width = 1024
    intermediate_size: Inner = 4096
    num_hidden_layers: LayerCount = 16
    num_attention_heads: HeadCount = 8
    head_dim: Annotated[int | None, count(4096)] = None
    max_position_embeddings: Annotated[int, count(16_384)] = 512
    context_size: Annotated[int, count(16_384)] = 128
    """Frames in one attention block, at every rate."""
    conv_kernel_size: Annotated[int, count(1023)] = 7
    conv_expansion_factor: Annotated[int, count(64)] = 2
    subsample_layers: Annotated[tuple[int, ...], items(count(255, 0), most=8)] = (0, 1)
    """Blocks (counted from 0) that halve the frame rate."""

    def __post_init__(self) -> None:
        for whole, part in (("intermediate_size", "hidden_size"), ("hidden_size", "num_attention_heads")):
            a, b = getattr(self, whole), getattr(self, part)
            require(a % b == 0, f"{whole} {a} is not a multiple of {part} {b}")
        require(self.num_hidden_layers > 1, "num_hidden_layers is 1; at least 2 are needed, for a middle")


@dataclass(frozen=True)
class CtcConfig:
    """A CTC-only model."""

    turbo: TurboConfig = field(default_factory=TurboConfig)
    pad_token_id: TokenId = 0
    """The blank."""
    languages: Languages = ("en",)

    def __post_init__(self) -> None:
        rows = self.turbo.vocab_size
        require(self.pad_token_id < rows, f"pad_token_id is {self.pad_token_id}; allowed are 0 to {rows - 1}")

    @property
    def encoder(self) -> TurboEncoderConfig:
        """The encoder as the Conformer reads it."""
        turbo = self.turbo
        return TurboEncoderConfig(
            input_dim=2 * FEATURE_DIM,
            num_layers=turbo.num_hidden_layers,
            hidden_dim=turbo.hidden_size,
            feedforward_mult=turbo.intermediate_size // turbo.hidden_size,
            num_heads=turbo.num_attention_heads,
            dim_head=turbo.head_dim or turbo.hidden_size // turbo.num_attention_heads,
            output_dim=turbo.vocab_size,
            context_size=turbo.context_size,
            max_pos_emb=turbo.max_position_embeddings,
            dropout=0.0,
            pred_dropout=0.0,
            conv_kernel_size=turbo.conv_kernel_size,
            conv_expansion_factor=turbo.conv_expansion_factor,
            self_conditioning_layer=turbo.num_hidden_layers // 2,
            bpe_output_dim=None,
            blank_token_id=self.pad_token_id,
            subsample_layers=tuple(layer + 1 for layer in turbo.subsample_layers),
        )

    @property
    def block_s(self) -> float:
        """Seconds of the longest attention block; a clip of whole blocks loses no context at its end."""
        return self.turbo.context_size * self.encoder.subsampling / FRAME_RATE

    def to_dict(self) -> dict[str, Any]:
        """The published `config.json`."""
        rows = self.turbo.vocab_size
        return {
            "model_type": "granite_speech5_ctc",
            "architectures": ["GraniteSpeech5ForCTC"],
            "vocab_size": rows,
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": True,
            "encoder_config": {"model_type": "granite_speech5_encoder", **asdict(self.turbo)},
            "languages": list(self.languages),
        }


class CtcModel(nn.Module):
    """The encoder, whose token logits at the top are the text."""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        self.blank = config.pad_token_id
        self.encoder = ConformerEncoder(config.encoder)

    def pool(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Encoder output -> the states [B, T, D] that are read, one a frame, and lengths [B]."""
        return encoded.hidden, encoded.lengths

    def logits(self, states: Tensor) -> Tensor:
        """States [..., D] -> token logits [..., V]."""
        logits: Tensor = self.encoder.out(states)
        return logits

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, T, 320] with lengths [B] -> token logits [B, T // 4, V] and lengths [B]."""
        states, lengths = self.pool(self.encoder(features, lengths))
        return self.logits(states), lengths
