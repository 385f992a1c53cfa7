"""Stage (a): a byte-level BPE tokenizer learned from text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PAD = "<|pad|>"
END = "<|end_of_text|>"


def train_tokenizer(lines: Iterable[str], vocab_size: int, path: Path) -> None:
    """Learn byte-level BPE with every byte in it, so that no text is lost; the last two ids are pad and end-of-text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # A space before every word, the first one too: a word is then spelled in one way wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([PAD, END])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
