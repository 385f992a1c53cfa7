"""What a run leaves on disk and goes on from: weights, their average, optimizers and position.

Everything is safetensors and JSON, written whole and then named, so an interrupted run loses at most the steps since
the last save. Tensors on disk are whole, however many processes share them: all come to a save, the first one writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redline import files
from redline.errors import DataError
from redline.train.loop.distributed import is_first_process
from redline.train.loop.sharding import placed_like, whole

BEST = "best.safetensors"
BEST_SCORES = "best.json"
"""Step and scores of the best weights."""


def make_folder(folder: Path) -> Path:
    """A folder for a run, with its parents; raises `DataError` where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # other processes look too
        files.sweep(folder)
        for left in (folder / "partial", folder / f"{BEST}.partial"):  # of a run that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    except FileExistsError as error:
        raise DataError(f"{folder} is a file; --out names a folder, which is made where needed") from error
    except OSError as error:
        seen = files.advice(error).partition(";")[0]
        raise DataError(f"{folder}: nothing can be written there, {seen}; choose another --out") from error
    return folder


@contextmanager
def told_where_full(partial: Path, kept: str) -> Iterator[None]:
    """A write that fails leaves nothing half written, and says what is kept; raises `DataError`."""
    try:
        yield
    # safetensors has an error of its own for a disk that is full
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if partial.is_file():
            partial.unlink()
        raise DataError(
            f"{partial.parent}: cannot be written: {files.advice(error)}; {kept}; then give the same command again"
        ) from error


def _tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat names, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).contiguous()
        for index, row in state.items()
        for key, value in row.items()
    }


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        state.setdefault(int(index), {})[key] = placed_like(tensor, like) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """Tensors that training changes: parameters with a gradient, and the buffers of modules that have such."""
    frozen = {
        f"{prefix}.{name}"
        for prefix, part in module.named_modules()
        if not any(parameter.requires_grad for parameter in part.parameters(recurse=False))
        for name, _ in part.named_buffers(recurse=False)
    }
    frozen |= {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


class Average:
    """An exponential moving average of what is trained."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in _trained(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        rate = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in _trained(module).items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, rate)
            else:
                self.tensors[name].copy_(tensor)

    def swap(self, module: nn.Module) -> None:
        """Exchange the module's tensors with the average; calling it twice changes nothing."""
        for name, tensor in _trained(module).items():
            kept = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    found = whole(tensors)
    if is_first_process():
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)


def save_state(
    folder: Path, module: nn.Module, average: Average, found: list[torch.optim.Optimizer], position: dict[str, Any]
) -> None:
    """Write everything a run needs to go on, then make it the latest in one step."""
    target = folder / f"step-{position['step']}"
    partial = folder / "partial"
    latest = folder / "latest"
    kept = f"the run is kept as of {latest.read_text()}" if latest.exists() else "nothing of the run is kept"
    first = is_first_process()
    with told_where_full(partial, kept):
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        _save(_trained(module), partial / "model.safetensors")
        _save(average.tensors, partial / "average.safetensors")
        for number, optimizer in enumerate(found):
            _save(_tensors_of(optimizer), partial / f"optimizer{number}.safetensors")
        if not first:
            return
        (partial / "position.json").write_text(json.dumps(position))
        shutil.rmtree(target, ignore_errors=True)
        files.settle(partial, target)
        files.write(latest, target.name)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def _put(tensors: dict[str, Tensor], module: nn.Module, folder: Path) -> None:
    """Load a state into the part of a module that it was saved from; raises `DataError` when it does not fit."""
    known = module.state_dict()
    wrong = [name for name, tensor in tensors.items() if name not in known or known[name].shape != tensor.shape]
    if wrong:
        raise DataError(
            f"{folder} holds the state of a model of another shape (first: {wrong[0]}); "
            "go on with the recipe it was trained with, or choose another --out"
        )
    module.load_state_dict({name: placed_like(tensor, known[name]) for name, tensor in tensors.items()}, strict=False)


def load_state(
    folder: Path, module: nn.Module, average: Average, found: list[torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Restore the latest state, or None when there is none."""
    if not (folder / "latest").exists():
        return None
    latest = folder / (folder / "latest").read_text().strip()
    _put(load_file(latest / "model.safetensors"), module, folder)
    kept = load_file(latest / "average.safetensors")
    average.tensors = {name: placed_like(tensor, average.tensors[name]) for name, tensor in kept.items()}
    for number, optimizer in enumerate(found):
        _restore(optimizer, load_file(latest / f"optimizer{number}.safetensors"))
    position: dict[str, Any] = json.loads((latest / "position.json").read_text())
    return position


def load_average(folder: Path, module: nn.Module) -> None:
    """Put the averaged weights of the latest state into a module."""
    latest = folder / (folder / "latest").read_text().strip()
    _put(load_file(latest / "average.safetensors"), module, folder)


def save_best(folder: Path, average: Average, step: int, scores: dict[str, float]) -> None:
    """Keep the averaged weights as the best so far, and what they scored."""
    partial = folder / f"{BEST}.partial"
    with told_where_full(partial, "the best weights so far are kept"):
        _save(average.tensors, partial)
        if is_first_process():
            files.settle(partial, folder / BEST)
            files.write(folder / BEST_SCORES, json.dumps({"step": step, **scores}))


def load_best(folder: Path, module: nn.Module) -> None:
    """Put the weights of the best evaluation into a module."""
    _put(load_file(folder / BEST), module, folder)
