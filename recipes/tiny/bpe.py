"""A byte-level BPE tokenizer learned from text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from redline.tokenizer import Tokenizer

PAD, END = "<|pad|>", "<|end_of_text|>"


def train_tokenizer(lines: Iterable[str], vocab_size: int, path: Path) -> Tokenizer:
    """Learn byte-level BPE with every byte in it, so that no text is lost; the last two ids are pad and end-of-text."""
    core = tokenizers.Tokenizer(models.BPE())
    # A space before every word, the first one too: a word is then spelled in one way wherever it stands.
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 2, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(lines, trainer)
    core.add_special_tokens([PAD, END])
    path.parent.mkdir(parents=True, exist_ok=True)
    core.save(str(path))
    return Tokenizer.from_file(path)


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The fields of a language model's configuration that the tokenizer decides."""
    end, pad = tokenizer.id_of(END), tokenizer.id_of(PAD)
    assert end is not None and pad is not None
    return {"vocab_size": tokenizer.vocab_size, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": end}
