"""int8 quantization of weights on disk: a byte for each number of a matrix, and a scale for each of its rows.

Symmetric, per output channel, weights alone: what is read is multiplied out, and models compute in floating point. A
matrix `NAME` [rows, ...] is kept as int8 beside `NAME_scale` [rows, 1, ...], as in the "int-quantized" format of
compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from redline.errors import CheckpointError

SCALE = "_scale"
SMALLEST = 4096
"""Numbers below which a matrix stays as it is: nothing is won."""
INT8_MIN, INT8_MAX = -128, 127


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """int8 numbers and scales [rows, 1, ...] of a matrix [rows, ...]; the product is at most half a scale off."""
    largest = matrix.float().abs().amax(dim=tuple(range(1, matrix.dim())), keepdim=True)
    scale = (largest / INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix.float() / scale).round().to(torch.int8), scale


def quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which every matrix of some size is int8 with its scale."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() >= SMALLEST:
            kept[name], kept[name + SCALE] = quantize_rows(tensor)
        else:
            kept[name] = tensor
    return kept


def is_scale(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is the scale of an int8 one."""
    of = tensors.get(name.removesuffix(SCALE))
    return name.endswith(SCALE) and of is not None and of.dtype == torch.int8


def dequantized(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """int8 matrices multiplied out to float16, other tensors as they are; on "meta" as well.

    Raises `CheckpointError` for a scale that does not fit its matrix, or is too large.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name + SCALE)
        if tensor.dtype == torch.int8 and scale is not None:
            fits = tensor.dim() > 1 and list(scale.shape) == [len(tensor), *[1] * (tensor.dim() - 1)]
            if not (fits and scale.is_floating_point()):
                raise CheckpointError(
                    f"{path}: {name} {list(tensor.shape)} has scales {list(scale.shape)} of {scale.dtype}; a float for "
                    "each row is needed"
                )
            if tensor.is_meta:  # arithmetic there would import PyTorch's compiler, which takes seconds
                whole[name] = torch.empty(tensor.shape, dtype=torch.float16, device="meta")
                continue
            if not (scale.float().abs() * -INT8_MIN <= torch.finfo(torch.float16).max).all():
                raise CheckpointError(f"{path}: {name} is beyond the range of float16, so are its scales")
            whole[name] = tensor.float().mul_(scale.float()).half()
        elif not is_scale(name, tensors):
            whole[name] = tensor
    return whole
