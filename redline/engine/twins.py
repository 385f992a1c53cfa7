"""Which fast twin computes in place of a model's own networks, by device, precision and what is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch

from redline.engine.fixed_editor import FixedEditor, has_varlen
from redline.engine.fixed_encoder import FixedEncoder
from redline.engine.launch import LaunchOptions, compiled
from redline.engine.packed import PackedEncoder
from redline.engine.packed_editor import PackedEditor
from redline.errors import RedlineError
from redline.models.conformer import ConformerEncoder
from redline.models.nar import NarModel
from redline.threads import has_amx, has_bf16

Engine = Literal["auto", "packed", "compiled", "plain"]


_NEEDS = {
    "packed": "; packed needs CUDA, or a CPU with instructions for that precision",
    "compiled": "; compiled needs CUDA",
}


@cache
def has_fast_bf16() -> bool:
    """Whether oneDNN has instructions for products of bfloat16 (AVX512-BF16, AMX) and so is faster than in float32."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    lets_it = allowed in ("ALL", "DEFAULT") or any(name in allowed for name in ("BF16", "FP16", "AMX", "AVX10"))
    return has_amx() or (torch.cpu._is_avx512_bf16_supported() and lets_it)


def check_engine(engine: Engine, device: torch.device, dtype: torch.dtype) -> None:
    """Raises `RedlineError` for an engine that is not there."""
    allowed = {"auto": True, "packed": _is_fast(device, dtype), "compiled": device.type == "cuda", "plain": True}
    if not allowed.get(engine):
        known = ", ".join(name for name, is_there in allowed.items() if is_there)
        where = f"on {device.type} in {str(dtype).removeprefix('torch.')}"
        raise RedlineError(f"engine is {engine!r}; allowed {where} are {known}{_NEEDS.get(engine, '')}")


def _is_fast(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and (dtype != torch.bfloat16 or has_bf16()))


def encoder_twin(
    encoder: ConformerEncoder, export_layers: Sequence[int], engine: Engine
) -> PackedEncoder | FixedEncoder | None:
    """In place of an encoder, which gives its blocks up; None where the plain one is to compute.

    Raises `RedlineError` for an engine that is not there.
    """
    weight = encoder.input_linear.weight
    check_engine(engine, weight.device, weight.dtype)
    if engine == "plain" or not _is_fast(weight.device, weight.dtype):
        return None
    if weight.device.type == "cuda":
        return FixedEncoder(encoder, export_layers, _launch_options(engine), release=True)
    return PackedEncoder(encoder, export_layers, release=True)


def editor_twin(model: NarModel, engine: Engine) -> FixedEditor | PackedEditor | None:
    """In place of projector and language model, which give their layers up; None where they are to compute."""
    weight = model.projector.query
    if engine == "plain" or not _is_fast(weight.device, weight.dtype) or not has_varlen(weight.device, weight.dtype):
        return None
    if weight.device.type == "cuda":
        return FixedEditor(model, _launch_options(engine), release=True)
    return PackedEditor(model, release=True)


def _launch_options(engine: Engine) -> LaunchOptions:
    return LaunchOptions(compiler=compiled if engine == "compiled" else None)
