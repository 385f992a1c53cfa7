"""Checkpointing: what a run leaves on disk and resumes from.

`state.safetensors` has all of it: weights, their moving average and the optimizers' moments, the position in its
metadata. A file is written whole and then named, so an interrupted run loses at most the steps since the last save.
Tensors on disk are whole, however many processes share them: all come to a save, the first one writes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from redline import files
from redline.errors import DataError
from redline.train.loop.distributed import is_first_process
from redline.train.loop.sharding import full_tensors, placed_like

STATE = "state.safetensors"
BEST = "best.safetensors"
LATEST = "latest"
"""What runs of earlier versions point to their last save with, a folder of several files."""


@dataclass
class Position:
    """How far a run has come, its best evaluation, and the options that it had."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the epoch that were trained on, by all processes together
    best: float = math.nan
    best_step: int | None = None
    stale: int = 0  # evaluations since the best
    options: dict[str, Any] = field(default_factory=dict)


def make_folder(folder: Path) -> Path:
    """A folder for a run, with its parents; raises `DataError` where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # other processes look too
    except OSError as error:
        seen = files.advice(error).partition(";")[0]
        raise DataError(f"{folder}: {seen}; choose another --out, a folder that is made where needed") from error
    files.sweep(folder)
    return folder


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Tensors that training changes: parameters with a gradient, and the buffers of modules that have such."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    for prefix, part in module.named_modules():
        if not any(parameter.requires_grad for parameter in part.parameters(recurse=False)):
            frozen |= {f"{prefix}.{name}" for name, _ in part.named_buffers(recurse=False)}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


class EMA:
    """An exponential moving average of what is trained."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in trained_tensors(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        rate = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in trained_tensors(module).items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, rate)
            else:
                self.tensors[name].copy_(tensor)

    def swap(self, module: nn.Module) -> None:
        """Exchange the module's tensors with the average; calling it twice changes nothing."""
        for name, tensor in trained_tensors(module).items():
            weights = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(weights)


@contextmanager
def write_errors(folder: Path, kept: str) -> Iterator[None]:
    """A write that fails is a `DataError` that says what is kept and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a disk that is full
        seen = files.advice(error)
        raise DataError(f"{folder}: cannot be written: {seen}; {kept}; then give the same command again") from error


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    tensors = full_tensors(tensors)
    if not is_first_process():
        return
    partial = path.with_name("partial")
    with write_errors(path.parent, f"the last {path.name} is kept" if path.exists() else "nothing is kept yet"):
        try:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, partial, {"json": json.dumps(metadata)})
            files.settle(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _read(path: Path, part: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `part`, named without it."""
    with safe_open(path, "pt") as file:
        return {name[len(part) :]: file.get_tensor(name) for name in file.keys() if name.startswith(part)}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, Any]:
    """The position of a state, step and scores of the best weights."""
    with safe_open(path, "pt") as file:
        metadata: dict[str, Any] = json.loads(file.metadata()["json"])
    return metadata


@torch.no_grad()
def _load(path: Path, part: str, into: Mapping[str, Tensor], only_training: str | None = None) -> None:
    """Copy tensors to where they were saved from; raises `DataError` when they do not fit."""
    for name, tensor in _read(path, part).items():
        if only_training and name.startswith(only_training):
            continue
        if name not in into or into[name].shape != tensor.shape:
            raise DataError(
                f"{path.parent} holds the state of a model of another shape (first: {name}); "
                "go on with the recipe it was trained with, or choose another --out"
            )
        into[name].copy_(placed_like(tensor, into[name]))


def save_state(folder: Path, module: nn.Module, ema: EMA, optimizers: Sequence[Optimizer], position: Position) -> None:
    """Write everything a run resumes from, in place of the state before."""
    tensors = {f"model.{name}": tensor for name, tensor in trained_tensors(module).items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in ema.tensors.items()}
    for number, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{key}": torch.as_tensor(moments[key]) for key in moments}
    _write(folder / STATE, tensors, asdict(position))


def load_state(folder: Path, module: nn.Module, ema: EMA, optimizers: Sequence[Optimizer]) -> Position:
    """Restore the last state; where there is none, the position is that of the start."""
    path = folder / STATE
    if not path.exists():
        if (folder / LATEST).exists():
            raise DataError(
                f"{folder}: a run of an earlier version, whose saves ({LATEST}, step-*) cannot be read here; finish it "
                "with that version, or begin in another folder"
            )
        return Position()
    _load(path, "model.", module.state_dict())
    _load(path, "ema.", ema.tensors)
    for number, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments = defaultdict[int, dict[str, Tensor]](dict)
        for name, tensor in _read(path, f"optimizer{number}.").items():
            index, key = name.split(".", 1)
            like = parameters[int(index)]
            moments[int(index)][key] = placed_like(tensor, like) if tensor.shape == like.shape else tensor
        optimizer.load_state_dict({"state": dict(moments), "param_groups": optimizer.state_dict()["param_groups"]})
    return Position(**read_metadata(path))


def load_average(folder: Path, module: nn.Module, only_training: str | None = None) -> None:
    """Put the averaged weights of the last state into a module, but those whose names begin with `only_training`."""
    _load(folder / STATE, "ema.", module.state_dict(), only_training)


def save_best(folder: Path, ema: EMA, step: int, scores: Mapping[str, float]) -> None:
    """Keep the averaged weights as the best so far, with their step and scores."""
    _write(folder / BEST, ema.tensors, {"step": step, **scores})


def load_best(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Put the weights of the best evaluation into a module; returns their step and scores."""
    _load(folder / BEST, "", module.state_dict())
    return read_metadata(folder / BEST)
