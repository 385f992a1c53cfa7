"""The tokenizer of a checkpoint, checked against the vocabulary of its model."""

from __future__ import annotations

from pathlib import Path

from redline.models.config import ArConfig, NarConfig
from redline.models.ctc import CtcConfig
from redline.tokenizer import Tokenizer


def load_tokenizer(folder: Path, config: NarConfig | ArConfig | CtcConfig) -> Tokenizer:
    """Read `tokenizer.json`; raises `CheckpointError` when it is none, or that of another model."""
    audio = config.audio_token_index if isinstance(config, ArConfig) else None
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json", audio)
    if isinstance(config, CtcConfig):
        tokenizer.check(config.output_dim, [("pad_token_id", config.blank_token_id)])
    elif isinstance(config, NarConfig):
        tokenizer.check(config.text.vocab_size, [("blank_token_id", config.blank_token_id)])
    else:
        control = [("eos_token_id", end) for end in config.text.eos_token_ids]
        tokenizer.check(config.text.vocab_size, [*control, ("audio_token_index", config.audio_token_index)], audio)
    return tokenizer
