"""Files of extra heads beside the weights: punctuation, language identification, and the draft head of AR models."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from redline import tensor_file
from redline.errors import CheckpointError
from redline.models.draft_head import DraftHead
from redline.models.heads import LanguageHead, PunctuationHead
from redline.punctuation import MARKS

PUNCTUATION_HEAD = "out_forms.safetensors"
LANGUAGE_HEAD = "out_language.safetensors"
DRAFT_HEAD = "out_llm.safetensors"
TRUSTED = "redline trusted"
"""In the metadata of a draft head: its draft is the text."""


def save_punctuation_head(head: PunctuationHead, folder: Path) -> Path:
    """Write a punctuation head into a checkpoint's folder."""
    return tensor_file.save_head(head.state_dict(), folder / PUNCTUATION_HEAD, MARKS[1:])


def load_punctuation_head(folder: Path, hidden_size: int) -> PunctuationHead:
    """Read a punctuation head; raises `CheckpointError` when the file is none or does not fit."""
    path = folder / PUNCTUATION_HEAD
    tensors, rows = tensor_file.load_head(path)
    if rows != MARKS[1:]:
        raise CheckpointError(f"{path}: its rows are the marks {' '.join(rows)}; {' '.join(MARKS[1:])} can be read")
    return tensor_file.fill(lambda: PunctuationHead(hidden_size), tensors, path)


def save_language_head(head: LanguageHead, folder: Path) -> Path:
    """Write a language identification head into a checkpoint's folder."""
    return tensor_file.save_head(head.state_dict(), folder / LANGUAGE_HEAD, head.languages)


def load_language_head(folder: Path, hidden_dim: int) -> LanguageHead:
    """Read a language identification head; raises `CheckpointError` when the file is none or does not fit."""
    path = folder / LANGUAGE_HEAD
    tensors, rows = tensor_file.load_head(path)
    if not rows or len(set(rows)) != len(rows):
        raise CheckpointError(f"{path}: its rows are the languages {' '.join(rows)!r:.80}; each must be there once")
    return tensor_file.fill(lambda: LanguageHead(hidden_dim, rows), tensors, path)


def save_draft_head(head: DraftHead, folder: Path, dtype: torch.dtype, trusted: bool = False) -> Path:
    """Write the draft head of an AR model as it is published: the blank's row, then one per token.

    `trusted` says that its draft is the text: the language model makes more errors than the encoder.
    """
    assert head.blank == head.rows - 1, "the blank of an AR model's head is its last row"
    tensors = {name: tensor.detach().to("cpu", dtype).roll(1, 0) for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / DRAFT_HEAD, metadata={"format": "pt"} | ({TRUSTED: "true"} if trusted else {}))
    return folder / DRAFT_HEAD


def load_draft_head(folder: Path, hidden_dim: int, most_rows: int, window: int) -> tuple[DraftHead, bool]:
    """Read the published draft head of an AR model, whose blank becomes the last row, and whether its draft is trusted.

    Raises `CheckpointError` where it does not fit.
    """
    path = folder / DRAFT_HEAD
    header, metadata = tensor_file.read_header(path)
    rows = next(iter(header["bias"].shape), 0) if "bias" in header else 0
    # The published head leaves out the placeholder of audio, which comes after the last token.
    if not 2 <= rows <= most_rows:
        raise CheckpointError(f"{path}: {rows} rows; allowed are the blank and up to {most_rows - 1} tokens")

    def build() -> DraftHead:
        return DraftHead(hidden_dim, rows, blank=rows - 1, window=window)

    tensor_file.fill(build, header, path)  # what does not fit is not read
    tensors = tensor_file.read_tensors(path, header)
    head = tensor_file.fill(build, {name: tensor.roll(-1, 0) for name, tensor in tensors.items()}, path)
    return head, metadata.get(TRUSTED) == "true"
