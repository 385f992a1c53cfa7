"""In which precision a model computes: what is chosen where nobody asks, and how a checkpoint gets there."""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import nn

from redline.engine.fp8 import FP8
from redline.engine.int8 import kernel, to_int8
from redline.errors import RedlineError
from redline.threads import has_amx


@cache
def has_fast_bf16() -> bool:
    """Whether oneDNN has instructions for products of bfloat16 (AVX512-BF16, AMX) and so is faster than in float32."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    lets_it = allowed in ("ALL", "DEFAULT") or any(name in allowed for name in ("BF16", "FP16", "AMX", "AVX10"))
    return has_amx() or (torch.cpu._is_avx512_bf16_supported() and lets_it)


@cache
def has_fast_int8() -> bool:
    """Whether products of int8 are faster than in float32 (AVX2, more so with VNNI)."""
    return torch.cpu._is_avx2_supported() and kernel().name == "oneDNN"


def pick_dtype(
    dtype: str | torch.dtype | None, place: torch.device, *, reads_prompts: bool = False, is_quantized: bool = False
) -> torch.dtype:
    """The precision to compute in; raises `RedlineError` for a name that is none, and for float16 on a CPU.

    Launches of many rows are too large for token after token. Where nobody asks, weights that are not int8 on disk
    are not rounded to it. CPUs sum float16 in an order that depends on the batch.
    """
    if dtype is None:
        if place.type == "cuda":
            return torch.bfloat16
        if place.type != "cpu" or reads_prompts:
            return torch.float32
        if has_fast_bf16():
            return torch.bfloat16
        return torch.int8 if is_quantized and has_fast_int8() else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    known |= {"int8": torch.int8} if place.type == "cpu" else {"float16": torch.float16}
    known |= {"fp8": FP8} if place.type == "cuda" else {}
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in known:
        raise RedlineError(f"dtype is {dtype!r}; allowed on {place.type} are {', '.join(known)}")
    return known[dtype]


def stored(precision: torch.dtype) -> torch.dtype | None:
    """What a checkpoint is read as: for int8 each tensor as it is, so that nothing is rounded twice."""
    return {torch.int8: None, FP8: torch.bfloat16}.get(precision, precision)


def into_precision(precision: torch.dtype, *models: nn.Module | None) -> None:
    """Bring models that were read as `stored` says into their precision."""
    if precision == torch.int8:
        to_int8(*models)
