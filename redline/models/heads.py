"""Extra heads that the published layouts do not have, each in a file of its own beside the weights.

`PunctuationHead` (`out_forms.safetensors`) tells how each word the editor writes begins and ends; `LanguageHead`
(`out_language.safetensors`) tells which language was spoken. Both read states that are there anyway, so each costs one
small matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from redline import tensor_file
from redline.errors import CheckpointError
from redline.models.invariant import Linear
from redline.punctuation import MARKS, Punctuation

PUNCTUATION_HEAD = "out_forms.safetensors"
LANGUAGE_HEAD = "out_language.safetensors"
CASES = 2
H = TypeVar("H", bound=nn.Module)


class PunctuationHead(nn.Module):
    """States of slots [..., H] -> logits [..., 2 + marks]: small letter or capital, then the mark behind the word."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, CASES + len(MARKS))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(hidden)
        return logits

    def decide(self, logits: Tensor) -> list[Punctuation]:
        """The likeliest form of each slot: logits [K, 2 + marks] -> K forms."""
        capitals = logits[:, :CASES].argmax(-1).tolist()
        marks = logits[:, CASES:].argmax(-1).tolist()
        return [Punctuation(bool(capital), MARKS[mark]) for capital, mark in zip(capitals, marks, strict=True)]


class LanguageHead(nn.Module):
    """States of the encoder [B, T, D], averaged over the frames there are -> logits [B, languages]."""

    def __init__(self, hidden_dim: int, languages: Sequence[str]) -> None:
        super().__init__()
        self.languages = tuple(languages)
        self.out = Linear(hidden_dim, len(self.languages))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        # Clip by clip: the order of a sum depends on its length, padding included.
        sums = [row[:length].float().sum(dim=0) for row, length in zip(hidden, lengths.tolist(), strict=True)]
        mean = torch.stack(sums) / lengths.clamp(min=1)[:, None]  # [B, D]
        logits: Tensor = self.out(mean.to(hidden.dtype))
        return logits

    def decide(self, logits: Tensor) -> list[str]:
        """The likeliest language of each clip."""
        return [self.languages[best] for best in logits.argmax(dim=-1).tolist()]


def save(head: nn.Module, path: Path, rows: Sequence[str]) -> Path:
    """Write a head; `rows` says what its rows mean."""
    return save_tensors(head.state_dict(), path, rows)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, rows: Sequence[str]) -> Path:
    """Write the tensors of a head."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": f"redline {path.stem} 1", "rows": " ".join(rows)})
    return path


def load_forms(path: Path, hidden_size: int) -> PunctuationHead:
    """Read a head for written forms; raises `CheckpointError` when the file is none or does not fit."""
    tensors, rows = read(path)
    if rows != MARKS[1:]:
        raise CheckpointError(f"{path}: its rows are the marks {' '.join(rows)}; {' '.join(MARKS[1:])} can be read")
    with torch.device("meta"):
        head = PunctuationHead(hidden_size)
    return filled(head, tensors, path)


def load_language(path: Path, hidden_dim: int) -> LanguageHead:
    """Read a head for languages; raises `CheckpointError` when the file is none or does not fit."""
    tensors, rows = read(path)
    if not rows or len(set(rows)) != len(rows):
        raise CheckpointError(f"{path}: its rows are the languages {' '.join(rows)!r:.80}; each must be there once")
    with torch.device("meta"):
        head = LanguageHead(hidden_dim, rows)
    return filled(head, tensors, path)


def read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of a head's file, and what its rows mean; raises `CheckpointError`."""
    tensors, about = tensor_file.load(path)
    wanted = f"redline {path.stem} 1"
    if about.get("format") != wanted:
        raise CheckpointError(f"{path}: format is {about.get('format')!r:.80}; {wanted!r} can be read")
    return tensors, tuple(about.get("rows", "").split())


def filled(head: H, tensors: dict[str, Tensor], path: Path) -> H:
    """A head made on "meta" with these tensors in float32, in eval mode; raises `CheckpointError` where one is off."""
    wanted = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted or not all(tensor.is_floating_point() for tensor in tensors.values()):
        kinds = {name: f"{str(one.dtype).removeprefix('torch.')} {found[name]}" for name, one in tensors.items()}
        width = next(head.parameters()).shape[-1]
        raise CheckpointError(f"{path}: does not fit a model of width {width}: it has {kinds}; floats {wanted} fit")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return head.eval()
