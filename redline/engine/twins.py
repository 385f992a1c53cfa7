"""Which fast twin computes in place of a model's own networks, by device, precision and what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from redline.engine.fixed_editor import FixedEditor, has_varlen
from redline.engine.fixed_encoder import FixedEncoder
from redline.engine.fp8 import FP8
from redline.engine.launch import LaunchOptions, compiled
from redline.engine.packed import PackedEncoder
from redline.engine.packed_editor import PackedEditor
from redline.errors import RedlineError
from redline.models.conformer import ConformerEncoder
from redline.models.nar import NarModel
from redline.threads import has_bf16

Engine = Literal["auto", "packed", "compiled", "plain"]


FP8_CAPABILITY = (8, 9)
_NEEDS = {
    "packed": "; packed needs CUDA, or a CPU with instructions for that precision",
    "compiled": "; compiled needs CUDA",
}


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
    encoder: ConformerEncoder, export_layers: Sequence[int], engine: Engine, precision: torch.dtype | None = None
) -> PackedEncoder | FixedEncoder | None:
    """In place of an encoder, which gives its blocks up; None where the plain one is to compute.

    Products are in fp8 where that is the precision. Raises `RedlineError` for an engine that is not there.
    """
    weight = encoder.input_linear.weight
    check_engine(engine, weight.device, weight.dtype)
    if precision == FP8:
        check_fp8(engine, weight.device)
    if engine == "plain" or not _is_fast(weight.device, weight.dtype):
        return None
    if weight.device.type == "cuda":
        return FixedEncoder(encoder, export_layers, launch_options(engine, precision), release=True)
    return PackedEncoder(encoder, export_layers, release=True)


def editor_twin(
    model: NarModel, engine: Engine, precision: torch.dtype | None = None
) -> FixedEditor | PackedEditor | None:
    """In place of projector and language model, which give their layers up; None where they are to compute."""
    weight = model.projector.query
    if engine == "plain" or not _is_fast(weight.device, weight.dtype) or not has_varlen(weight.device, weight.dtype):
        return None
    if weight.device.type == "cuda":
        return FixedEditor(model, launch_options(engine, precision), release=True)
    return PackedEditor(model, release=True)


def launch_options(engine: Engine, precision: torch.dtype | None = None) -> LaunchOptions:
    """How launches run for an engine in a precision."""
    return LaunchOptions(compiler=compiled if engine == "compiled" else None, in_fp8=precision == FP8)


def check_fp8(engine: Engine, device: torch.device) -> None:
    """Raises `RedlineError` where no launch computes in fp8."""
    if engine == "plain":
        raise RedlineError("dtype is 'fp8', which only launches compute in; leave engine='plain' out, or take bfloat16")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        known = ".".join(map(str, FP8_CAPABILITY))
        raise RedlineError(f"dtype is 'fp8', which needs a CUDA device of capability {known} or above; take bfloat16")
