"""The encoder of Whisper (arXiv 2212.04356) as a teacher: 30 s of sound or less -> states of every layer, 50 a second.

Weights are read from a CTranslate2 folder (`model.bin`), the form in which packages hold them: names, shapes and
numbers one after the other, no code. Unlike Whisper, clips are not filled up to 30 s: its encoder does not mind, its
decoder does.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from redline.errors import CheckpointError
from redline.features import HOP, N_MELS, WINDOW
from redline.types import SAMPLE_RATE

WEIGHTS = "model.bin"
KINDS = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
HEAD_DIM = 64
"""Of every size of Whisper."""
LINEAR_TO_HZ, KNEE_HZ, LOG_STEP = 200.0 / 3.0, 1000.0, math.log(6.4) / 27.0
"""Slaney's mel scale: linear up to 1 kHz, then logarithmic."""


def read_variables(path: Path) -> dict[str, NDArray[Any]]:
    """The variables of a CTranslate2 `model.bin` by name; raises `CheckpointError` for a file that is none."""
    data = path.read_bytes()
    position = 0

    def number(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{form}", data, position)
        position += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal position
        size = number("H")
        position += size
        return data[position - size : position].rstrip(b"\0").decode("utf-8")

    variables: dict[str, NDArray[Any]] = {}
    try:
        number("I"), text(), number("I")  # version, name and revision of the layout
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind, size = KINDS[number("B")], number("I")
            count = size // np.dtype(kind).itemsize
            variables[name] = np.frombuffer(data, kind, count, position).reshape(shape)
            position += size
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a model.bin of CTranslate2 ({error})") from error
    return variables


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """Triangular filters on Slaney's scale, each of the same area, [WINDOW // 2 + 1, 80]."""
    top = KNEE_HZ / LINEAR_TO_HZ + math.log(SAMPLE_RATE / 2 / KNEE_HZ) / LOG_STEP
    mels = torch.linspace(0.0, top, N_MELS + 2, dtype=torch.float64)
    knee = KNEE_HZ / LINEAR_TO_HZ
    edges = torch.where(mels < knee, mels * LINEAR_TO_HZ, KNEE_HZ * torch.exp(LOG_STEP * (mels - knee)))
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    slopes = edges[None, :] - bins[:, None]
    widths = edges.diff()
    filters = torch.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]).clamp(min=0.0)
    return (filters * 2.0 / (edges[2:] - edges[:-2])).float()


def whisper_mel(samples: Tensor) -> Tensor:
    """Whisper's log-mel energies of a clip, [N] -> [80, N // 160]."""
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(samples, WINDOW, HOP, window=window, center=True, return_complex=True)[:, :-1]
    mel = mel_filters().to(samples.device).T @ spectrum.abs().square()
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


class WhisperBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        grown: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return grown


class WhisperEncoder(nn.Module):
    """Log-mel energies [B, 80, M] -> states after each block, [B, M / 2, D]; the last ones normalised."""

    def __init__(self, width: int, layers: int, positions: int = 1500) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(N_MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(positions, width))
        self.blocks = nn.ModuleList(WhisperBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def stem(self, mel: Tensor) -> Tensor:
        """The two convolutions: [B, 80, M] -> [B, M / 2, D], before positions are added."""
        states: Tensor = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        return states

    def forward(self, mel: Tensor) -> list[Tensor]:
        x = self.stem(mel)
        x = x + self.positions[: x.shape[1]]
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        states[-1] = self.norm(x)
        return states


def load_whisper(folder: Path) -> WhisperEncoder:
    """The encoder of a CTranslate2 folder, in float32; raises `CheckpointError` for one of another kind."""
    variables = read_variables(folder / WEIGHTS)
    try:
        width = variables["encoder/conv1/weight"].shape[0]
        layers = sum(name.startswith("encoder/layer_") and name.endswith("/ffn/linear_0/bias") for name in variables)
        encoder = WhisperEncoder(width, layers)
        encoder.load_state_dict(_renamed(variables, layers))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: not the encoder of a Whisper model ({error})") from error
    return encoder.eval()


def _renamed(variables: dict[str, NDArray[Any]], layers: int) -> dict[str, Tensor]:
    """Our names for CTranslate2's."""
    names = {"positions": "position_encodings/encodings"}
    parts = {"weight": "weight", "bias": "bias"}
    norm = {"weight": "gamma", "bias": "beta"}
    modules = {"conv1": ("conv1", parts), "conv2": ("conv2", parts), "norm": ("layer_norm", norm)}
    for number in range(layers):
        block, theirs = f"blocks.{number}", f"layer_{number}"
        modules |= {
            f"{block}.attention_norm": (f"{theirs}/self_attention/layer_norm", norm),
            f"{block}.qkv": (f"{theirs}/self_attention/linear_0", parts),
            f"{block}.out": (f"{theirs}/self_attention/linear_1", parts),
            f"{block}.norm": (f"{theirs}/ffn/layer_norm", norm),
            f"{block}.up": (f"{theirs}/ffn/linear_0", parts),
            f"{block}.down": (f"{theirs}/ffn/linear_1", parts),
        }
    for module, (their_module, kinds) in modules.items():
        names |= {f"{module}.{ours}": f"{their_module}/{theirs}" for ours, theirs in kinds.items()}
    return {ours: torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32)) for ours, name in names.items()}
