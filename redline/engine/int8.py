"""Linear maps of int8: the weights stay a byte each in memory, and rows are quantized as they come.

A matrix has a scale for each output channel (`redline.quantization`), and each row [K] of the input one of its own, by
its largest number. The sum of a row is one of integers, exact in any order, so it cannot depend on other rows, threads
or instructions.

Rows are quantized to 8 bits, 1 to 255 with 128 for zero. CPUs without VNNI add products of two neighbours in 16 bits,
which 255 * (127 + 127) overflows and 255 * 128 does not: there an output channel whose neighbouring weights add up to
more than 128 gets a larger scale, by a third as a rule.
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
ZERO = 128
"""What stands for zero in a row of uint8."""
FARTHEST = 127
"""The largest distance from it."""
ANY_PAIR, NARROW_PAIR = 256, 128
"""What two neighbouring weights may add up to where sums have 32 bits, and where they begin with 16."""
PROBES = {
    ANY_PAIR: [[INT8_MAX] * 4, [INT8_MIN] * 4, [1] * 4],
    NARROW_PAIR: [[127, 1, 127, 1], [127, 1, 1, 127], [64] * 4, [-128, 0, 0, -128], [-64] * 4, [1] * 4],
}
"""Weights of four neighbours that a kernel has to sum exactly; the second ones do not fit any other pairs."""


class Int8Matrix:
    """Weights [N, K] of int8 that stand where a layer has its weights of floating point."""

    dtype = torch.float32
    """What is computed from and to."""

    def __init__(self, ints: Tensor, scales: Tensor) -> None:
        """int8 numbers [N, K] and the scale of each row [N]."""
        self.ints, self.scales = ints, scales.float()
        self.shape, self.device = ints.shape, ints.device
        self._packed: tuple[Tensor, Tensor] | None = None
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
        quantized, scales = quantized_rows(rows)
        y = self._sums(quantized).mul_(scales)  # one operation after the other: what is fused may round once less
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], len(self))

    def _sums(self, quantized: Tensor) -> Tensor:
        """Rows [M, K] of uint8 -> their products with the matrix and its scales, [M, N]."""
        with self._lock:
            if self._packed is None:
                ints, scales = within_pairs(self.ints, self.scales, kernel().largest_pair)
                if kernel().name == "float64":
                    self._packed = ints, scales
                else:
                    self._packed = KERNEL.qlinear_prepack(ints.contiguous(), None), scales  # it looks at no strides
                self.ints = torch.empty(0, dtype=torch.int8)  # so that they are in memory once
        packed, scales = self._packed
        if kernel().name == "float64":
            return (quantized.double().sub_(ZERO) @ packed.double().T).float().mul_(scales)
        return scaled_sums(quantized, packed, scales)


def scaled_sums(quantized: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """Rows [M, K] of uint8 and a matrix in oneDNN's order -> [M, N], whose columns are scaled."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    epilogue: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    y: Tensor = KERNEL.qlinear_pointwise(quantized, 1.0, ZERO, packed, scales, zeros, *epilogue)
    return y


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M, K] -> uint8 [M, K] around `ZERO`, and scales [M, 1]."""
    largest = torch.maximum(x.amax(dim=-1, keepdim=True), x.amin(dim=-1, keepdim=True).neg_()).clamp_(min=LEAST)
    # PyTorch rounds to int8 five times as fast as to uint8.
    ints = (x * (FARTHEST / largest)).round_().to(torch.int8)
    return ints.view(torch.uint8).add_(ZERO), largest / FARTHEST


def within_pairs(ints: Tensor, scales: Tensor, largest_pair: int) -> tuple[Tensor, Tensor]:
    """Numbers [N, K] of int8 and scales [N] -> those of nearly the same matrix, of which no pair adds up to more.

    A pair is the numbers 2 k and 2 k + 1 of a row. Rows in which none does stay what they are.
    """
    if largest_pair >= ANY_PAIR:
        return ints, scales
    first, second = ints[:, ::2].short(), ints[:, 1::2]
    first[:, : second.shape[1]] += second  # a last number that is alone is no pair's
    sums = first.abs_().amax(dim=-1).float()
    # Two numbers that are rounded up may add up to one more than what they were.
    shrink = torch.where(sums > largest_pair, (largest_pair - 1) / sums, 1.0)
    return ints.float().mul_(shrink[:, None]).round_().to(torch.int8), scales / shrink


def joined(matrices: Sequence[Int8Matrix]) -> Int8Matrix:
    """Matrices [N_i, K] one below the other."""
    return Int8Matrix(torch.cat([each.ints for each in matrices]), torch.cat([each.scales for each in matrices]))


@dataclass(frozen=True)
class Kernel:
    """What multiplies rows of uint8 with matrices of int8."""

    name: str
    """"oneDNN", or "float64", which is as exact, and slow."""
    largest_pair: int = ANY_PAIR
    """What two neighbouring weights may add up to."""

    def __str__(self) -> str:
        return (
            self.name if self.largest_pair == ANY_PAIR else f"{self.name}, pairs of weights within {self.largest_pair}"
        )


@cache
def kernel() -> Kernel:
    """oneDNN with the largest pairs of weights that it gives exact sums for, else float64."""
    rows = torch.tensor([[2 * ZERO - 1], [0], [ZERO]], dtype=torch.uint8).expand(-1, 256).contiguous()
    for pair, groups in PROBES.items():
        weight = torch.tensor(groups, dtype=torch.int8).repeat(11, 64)
        try:
            sums = scaled_sums(rows, KERNEL.qlinear_prepack(weight, None), torch.ones(len(weight)))
        except (AttributeError, RuntimeError):
            break
        if torch.equal(sums.double(), (rows.double() - ZERO) @ weight.double().T):
            return Kernel("oneDNN", pair)
    return Kernel("float64")


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
