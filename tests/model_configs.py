"""Configurations of models for tests."""

from __future__ import annotations

from redline.models.config import AR_LANGUAGES, ArConfig, LMConfig, QFormerConfig
from redline.models.ctc import CtcConfig


def tiny_ctc_config() -> CtcConfig:
    """One small enough to run in milliseconds with random weights; its tokens are those of `tiny_checkpoint`."""
    return CtcConfig(
        num_layers=4, hidden_dim=32, feedforward_mult=2, num_heads=2, dim_head=16, output_dim=54, context_size=16,
        max_pos_emb=32, conv_kernel_size=5, self_conditioning_layer=2,
    )  # fmt: skip


def plus_config() -> ArConfig:
    """The published 2B-Plus model."""
    return ArConfig(
        kind="granite_speech_plus",
        projector=QFormerConfig(encoder_hidden_size=2048),
        text=LMConfig(vocab_size=100_353),
        export_layers=(3,),
        languages=AR_LANGUAGES["granite_speech_plus"],
    )
