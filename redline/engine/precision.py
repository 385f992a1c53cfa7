"""In which precision a model computes: what is chosen where nobody asks, and how a checkpoint gets there."""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import nn

from redline.engine.fp8 import FP8
from redline.engine.int8 import to_int8
from redline.errors import RedlineError
from redline.threads import has_amx


@cache
def has_fast_bf16() -> bool:
    """Whether oneDNN has instructions for products of bfloat16 (AVX512-BF16, AMX) and so is faster than in float32."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    lets_it = allowed in ("ALL", "DEFAULT") or any(name in allowed for name in ("BF16", "FP16", "AMX", "AVX10"))
    return has_amx() or (torch.cpu._is_avx512_bf16_supported() and lets_it)


def pick_dtype(dtype: str | torch.dtype | None, place: torch.device, reads_prompts: bool = False) -> torch.dtype:
    """The precision to compute in; raises `RedlineError` for a name that is none, and for float16 on a CPU.

    Launches of many rows are too large for token after token. CPUs sum float16 in an order that depends on the batch.
    """
    if dtype is None:
        is_fast = place.type == "cuda" or (place.type == "cpu" and has_fast_bf16() and not reads_prompts)
        return torch.bfloat16 if is_fast else torch.float32
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
