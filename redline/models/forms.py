"""An extra head of the editor: how each word it writes begins and ends, in `out_forms.safetensors`.

Not part of the published layouts, so its two tensors are kept in a file of their own. It reads the same states as the
slots' predictions and costs one small matrix product.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from redline.errors import CheckpointError
from redline.forms import MARKS, Form

NAME = "out_forms.safetensors"
FORMAT = "redline forms 1"
CASES = 2


class FormHead(nn.Module):
    """States of slots [..., H] -> logits [..., 2 + marks]: small letter or capital, then the mark behind the word."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(hidden_size, CASES + len(MARKS))

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(hidden)
        return logits

    def save(self, folder: Path) -> Path:
        """Write the head beside the weights of its model."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / NAME, metadata={"format": FORMAT, "marks": " ".join(MARKS[1:])})
        return folder / NAME

    @classmethod
    def load(cls, path: Path, hidden_size: int) -> FormHead:
        """Read a head that `save` wrote; raises `CheckpointError` when it is none or does not fit."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read as a head for written forms ({error})") from error
        if about.get("format") != FORMAT or about.get("marks") != " ".join(MARKS[1:]):
            raise CheckpointError(
                f"{path}: format {about.get('format')!r} with the marks {about.get('marks')!r}; "
                f"{FORMAT!r} with {' '.join(MARKS[1:])!r} can be read"
            )
        head = cls(hidden_size)
        try:
            head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except RuntimeError as error:
            raise CheckpointError(f"{path}: does not fit a model of width {hidden_size} ({error})") from error
        return head


def decide(logits: Tensor) -> list[Form]:
    """The likeliest form of each slot: logits [K, 2 + marks] -> K forms."""
    capitals = logits[:, :CASES].argmax(-1).tolist()
    marks = logits[:, CASES:].argmax(-1).tolist()
    return [Form(bool(capital), MARKS[mark]) for capital, mark in zip(capitals, marks, strict=True)]
