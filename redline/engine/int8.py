"""Linear maps of int8: the weights stay a byte each in memory, and rows are quantized as they come.

A matrix has a scale for each output channel (`redline.quantization`), and each row [K] of the input one of its own, by
its largest number. The sum of a row is one of integers, exact in any order, so it cannot depend on other rows, threads
or instructions.

Rows are quantized to 8 bits, 1 to 255 with 128 for zero, where the kernel's sums are exact with them. CPUs without VNNI
add products of two neighbours in 16 bits, which 2 * 255 * 128 overflows and 2 * 127 * 128 does not: 7 bits there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from redline.models.conformer import ConformerEncoder
from redline.models.draft_head import DraftHead
from redline.models.granite import GraniteLM
from redline.quantization import INT8_MAX, INT8_MIN, quantize_rows

LEAST = 1e-30
"""The least size of a row's largest number: a row of zeros has no scale."""
ROWS_AT_ONCE = 4096
KERNEL = torch.ops.onednn


class Int8Matrix:
    """Weights [N, K] of int8 that stand where a layer has its weights of floating point."""

    dtype = torch.float32
    """What is computed from and to."""

    def __init__(self, ints: Tensor, scales: Tensor) -> None:
        """int8 numbers [N, K] and the scale of each row [N]."""
        self.ints, self.scales = ints, scales.float()
        self.shape, self.device = ints.shape, ints.device
        self._packed: Tensor | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, weight: Tensor) -> Int8Matrix:
        """Weights [N, K] or [N, K, 1]; those that were int8 before keep their numbers."""
        # Some rows at a time: all of a vocabulary in float32 would need more memory than the rest of a model.
        parts = [quantize_rows(rows) for rows in weight.detach().flatten(1).split(ROWS_AT_ONCE)]
        ints, scales = (torch.cat(each) for each in zip(*parts, strict=True))
        return cls(ints, scales[:, 0])

    def __len__(self) -> int:
        return self.shape[0]

    def __rmul__(self, factor: float) -> Int8Matrix:
        return Int8Matrix(self.ints, factor * self.scales)

    def squeeze(self, dim: int) -> Int8Matrix:
        """Itself: a convolution over single frames is a matrix here."""
        return self

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., K] -> [..., N]."""
        rows = x.reshape(-1, self.shape[1])
        quantized, scales = quantized_rows(rows, kernel().zero)
        y = self._sums(quantized).mul_(scales)  # one operation after the other: what is fused may round once less
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], len(self))

    def _sums(self, quantized: Tensor) -> Tensor:
        """Rows [M, K] of uint8 -> their products with the matrix and its scales, [M, N]."""
        if kernel().name == "float64":
            return (quantized.double().sub_(kernel().zero) @ self.ints.double().T).float().mul_(self.scales)
        with self._lock:
            if self._packed is None:
                self._packed = KERNEL.qlinear_prepack(self.ints, None)
                self.ints = torch.empty(0, dtype=torch.int8)  # so that they are in memory once
        return scaled_sums(quantized, kernel().zero, self._packed, self.scales)


def scaled_sums(quantized: Tensor, zero: int, packed: Tensor, scales: Tensor) -> Tensor:
    """Rows [M, K] of uint8 around `zero` and a matrix in oneDNN's order -> [M, N], whose columns are scaled."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    epilogue: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    y: Tensor = KERNEL.qlinear_pointwise(quantized, 1.0, zero, packed, scales, zeros, *epilogue)
    return y


def quantized_rows(x: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """Rows [M, K] -> uint8 [M, K] around `zero`, and scales [M, 1]."""
    farthest = zero - 1
    largest = x.abs().amax(dim=-1, keepdim=True).clamp_(min=LEAST)
    return (x * (farthest / largest)).add_(zero + 0.5).to(torch.uint8), largest / farthest


def joined(matrices: Sequence[Int8Matrix]) -> Int8Matrix:
    """Matrices [N_i, K] one below the other."""
    return Int8Matrix(torch.cat([each.ints for each in matrices]), torch.cat([each.scales for each in matrices]))


@dataclass(frozen=True)
class Kernel:
    """What multiplies rows of uint8 with matrices of int8, and what stands for zero in a row."""

    name: str
    """"oneDNN", or "float64", which is as exact, and slow."""
    zero: int

    def __str__(self) -> str:
        return f"{self.name}, rows of {self.zero.bit_length()} bits"


@cache
def kernel() -> Kernel:
    """oneDNN with as many bits as it gives exact sums of the largest numbers for, else float64."""
    for zero in (128, 64):
        rows = torch.tensor([[2 * zero - 1], [0], [zero]], dtype=torch.uint8).expand(-1, 256).contiguous()
        weight = torch.tensor([[INT8_MIN], [INT8_MAX], [1]], dtype=torch.int8).repeat(11, 256)
        try:
            sums = scaled_sums(rows, zero, KERNEL.qlinear_prepack(weight, None), torch.ones(len(weight)))
        except (AttributeError, RuntimeError):
            break
        if torch.equal(sums.double(), (rows.double() - zero) @ weight.double().T):
            return Kernel("oneDNN", zero)
    return Kernel("float64", 128)


class Int8Embedding(nn.Module):
    """Token embeddings that are a matrix of int8, which may be the output layer too."""

    def __init__(self, weight: Int8Matrix) -> None:
        super().__init__()
        self.weight, self.ints = weight, weight.ints

    def forward(self, ids: Tensor) -> Tensor:
        return self.ints[ids] * self.weight.scales[ids][..., None]


def to_int8(*models: nn.Module | None) -> None:
    """Make linear maps of models ones of int8, in place, one after the other; the rest becomes float32.

    What reads features, writes characters and feeds them back stays float32, too: posteriors need more than 7 bits.
    """
    for model in models:
        modules = list(model.modules()) if model is not None else []
        ends = {
            end
            for part in modules
            if isinstance(part, ConformerEncoder)
            for end in (part.input_linear, part.out, part.out_mid)
        }
        for module in modules:
            if isinstance(module, GraniteLM) and isinstance(module.model.embed_tokens, nn.Embedding):
                weight = Int8Matrix.of(module.model.embed_tokens.weight)
                module.model.embed_tokens = Int8Embedding(weight)  # type: ignore[assignment]
            matrix = module._parameters.get("weight") if _is_map(module) and module not in ends else None
            if matrix is not None:
                del module._parameters["weight"]
                object.__setattr__(module, "weight", Int8Matrix.of(matrix))
        if model is not None:
            model.float()


def is_int8(model: nn.Module) -> bool:
    """Whether linear maps of a model are of int8."""
    return any(isinstance(getattr(module, "weight", None), Int8Matrix) for module in model.modules())


def _is_map(module: nn.Module) -> bool:
    """Whether a module maps each row by a matrix."""
    is_row = isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1
    return is_row or isinstance(module, (nn.Linear, DraftHead))
