"""The training loop: one straight function over an objective, resumable at any step.

An objective is a module whose forward takes a batch and returns the loss, so that accelerate can wrap it for one
process or many. State is safetensors and JSON, written whole and then named, so an interrupted run loses at most the
steps since the last save.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redline.errors import ConfigError, DataError

BEST = "best.safetensors"


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast to train; the learning rate rises, stays, then falls to a floor."""

    steps: int = 10_000
    lr: float = 1e-3
    warmup_steps: int = 300
    decay_share: float = 0.35
    floor: float = 0.01
    """Last learning rate as a share of the peak."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of the hidden matrices; every other tensor stays with AdamW."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: Literal["no", "bf16"] = "bf16"
    average_decay: float = 0.998
    """Exponential average of the weights; the average is what is evaluated and exported."""
    log_every: int = 25
    evaluate_every: int = 500
    save_every_s: float = 240.0
    keep_best: str = ""
    """Name of a score: the weights with the lowest are kept (best.safetensors) and left in the objective at the end."""
    patience: int = 0
    """Stop after so many evaluations without a lower `keep_best`; 0 goes on to the last step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer is {self.optimizer!r}; allowed are 'adamw' and 'muon'")
        if self.precision not in ("no", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}; allowed are 'no' and 'bf16'")
        if self.patience and not self.keep_best:
            raise ConfigError("patience needs keep_best, the name of the score that should fall")


class Stage(Protocol):
    """What the loop needs to know of a task."""

    name: str

    @property
    def objective(self) -> nn.Module:
        """Batch -> loss and its parts."""
        ...

    def batches(self, epoch: int, skip: int) -> Iterator[Any]:
        """Batches of one epoch after the first `skip`; the order depends on the epoch alone."""
        ...

    def seconds(self, batch: Any) -> float:
        """Seconds of audio (or tokens, for text) in a batch, for the progress line."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Scores of the objective as it stands, on data it does not train on."""
        ...


def learning_rate(step: int, options: LoopOptions) -> float:
    """The learning rate of one step: linear warm-up, a plateau, linear decay over the last `decay_share`."""
    rise = min(1.0, (step + 1) / max(1, options.warmup_steps))
    decay = max(1.0, options.decay_share * options.steps)
    fall = min(1.0, max(0.0, (options.steps - step) / decay))
    return options.lr * rise * (options.floor + (1.0 - options.floor) * fall)


def optimizers(module: nn.Module, options: LoopOptions) -> list[torch.optim.Optimizer]:
    """AdamW over everything, or Muon over the hidden matrices and AdamW over the rest."""
    hidden: list[Tensor] = []
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    edges = ("embed", "emb.", "input_linear", "out.", "out_mid", "out_bpe", "query", "positions")
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and options.optimizer == "muon" and not any(edge in name for edge in edges):
            hidden.append(parameter)
        elif parameter.ndim >= 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, fused=True)]
    if hidden:
        muon = torch.optim.Muon(
            hidden, lr=options.lr, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        found.append(muon)
    return found


def _tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat names, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).contiguous()
        for index, row in state.items()
        for key, value in row.items()
    }


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
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


def save_state(
    folder: Path, module: nn.Module, average: Average, found: list[torch.optim.Optimizer], position: dict[str, Any]
) -> None:
    """Write everything a run needs to go on, then make it the latest in one step."""
    target = folder / f"step-{position['step']}"
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in _trained(module).items()}, partial / "model.safetensors")
    save_file(average.tensors, partial / "average.safetensors")
    for number, optimizer in enumerate(found):
        save_file(_tensors_of(optimizer), partial / f"optimizer{number}.safetensors")
    (partial / "position.json").write_text(json.dumps(position))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    pointer = folder / "latest.partial"
    pointer.write_text(target.name)
    pointer.replace(folder / "latest")
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
    module.load_state_dict(tensors, strict=False)


def load_state(
    folder: Path, module: nn.Module, average: Average, found: list[torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Restore the latest state, or None when there is none."""
    if not (folder / "latest").exists():
        return None
    latest = folder / (folder / "latest").read_text().strip()
    _put(load_file(latest / "model.safetensors"), module, folder)
    average.tensors = load_file(latest / "average.safetensors")
    for number, optimizer in enumerate(found):
        _restore(optimizer, load_file(latest / f"optimizer{number}.safetensors"))
    position: dict[str, Any] = json.loads((latest / "position.json").read_text())
    return position


def load_average(folder: Path, module: nn.Module) -> None:
    """Put the averaged weights of the latest state into a module."""
    latest = folder / (folder / "latest").read_text().strip()
    _put(load_file(latest / "average.safetensors"), module, folder)


def load_best(folder: Path, module: nn.Module) -> None:
    """Put the weights of the best evaluation into a module."""
    _put(load_file(folder / BEST), module, folder)


def _note_best(options: LoopOptions, scores: dict[str, float], average: Average, position: dict[str, Any]) -> bool:
    """Whether these scores are the best so far; counts the evaluations since."""
    if options.keep_best not in scores:
        raise ConfigError(f"keep_best is {options.keep_best!r}; this stage has {', '.join(scores)}")
    better = bool(scores[options.keep_best] < position.get("best", math.inf))
    position["best"] = scores[options.keep_best] if better else position["best"]
    position["stale"] = 0 if better else position.get("stale", 0) + 1
    return better


class _StopSignal:
    """Turns Ctrl-C and SIGTERM into a request, so that a run is saved before it stops; a second Ctrl-C is immediate."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


Say = Callable[[str], None]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to_nobody(line: str) -> None:
    """Where the messages of all processes but the first go."""


def _share(batches: Iterator[Any], accelerator: Any) -> Iterator[Any]:
    """This process's part of the batches; a last incomplete round is left out, so that all processes step together."""
    for group in zip(*[iter(batches)] * accelerator.num_processes, strict=False):
        yield group[accelerator.process_index]


def fit(stage: Stage, options: LoopOptions, folder: Path, say: Say = _to_stderr) -> dict[str, float]:
    """Train a stage's objective to its last step, going on from `folder` when it holds a state.

    Writes `folder/log.jsonl` (one object a line: step, epoch, loss parts, lr, rate, and scores when evaluated) and
    leaves the averaged weights in the objective. Returns the last scores.
    """
    from accelerate import Accelerator

    # Autocast is ours, because accelerate keeps one precision for the life of a process and stages may differ.
    accelerator = Accelerator(mixed_precision="no")
    narrow = options.precision == "bf16"
    torch.manual_seed(options.seed)
    module = stage.objective
    average = Average(module, options.average_decay)
    found = optimizers(module, options)
    position = load_state(folder, module, average, found) or {"step": 0, "epoch": 0, "batch": 0, "hours": 0.0}
    wrapped, *found = accelerator.prepare(module, *found)
    folder.mkdir(parents=True, exist_ok=True)
    main = accelerator.is_main_process
    if not main:
        say = _to_nobody
    step, started, saved, scores = position["step"], time.monotonic(), time.monotonic(), {}
    if step:
        say(f"{stage.name}: going on from step {step} of {options.steps}")
    first_step, heard_s, count = step, 0.0, 0
    sums: dict[str, float] = {}

    def evaluate() -> dict[str, float]:
        average.swap(module)
        module.eval()
        with torch.no_grad(), torch.autocast(accelerator.device.type, torch.bfloat16, enabled=narrow):
            result = stage.evaluate()
        module.train()
        average.swap(module)
        return result

    def note(row: dict[str, Any]) -> None:
        if main:
            with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    module.train()
    stop = _StopSignal()
    enough = False
    while step < options.steps and not enough:
        for batch in _share(stage.batches(position["epoch"], position["batch"]), accelerator):
            torch.manual_seed(options.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
            rate = learning_rate(step, options)
            for optimizer in found:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=narrow):
                loss, parts = wrapped(batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(module.parameters(), options.clip)
            for optimizer in found:
                optimizer.step()
                optimizer.zero_grad()
            average.update(module, step)
            step += 1
            position["batch"] += accelerator.num_processes
            position["step"] = step
            heard_s += stage.seconds(batch)
            position["hours"] += stage.seconds(batch) / 3600
            for key, value in {"loss": loss.detach(), **parts}.items():
                sums[key] = sums.get(key, 0.0) + float(value)
            count += 1
            if step % options.log_every == 0 or step == options.steps:
                elapsed = time.monotonic() - started
                left = elapsed / (step - first_step) * (options.steps - step)
                row = {"step": step, "epoch": position["epoch"], "lr": rate, "seconds": round(elapsed, 1)}
                row |= {key: round(value / count, 4) for key, value in sums.items()}
                note(row)
                shown = "  ".join(f"{key} {value / count:.3f}" for key, value in sums.items())
                say(
                    f"{stage.name} {step}/{options.steps}  epoch {position['epoch']}  {shown}  "
                    f"{heard_s / elapsed:.0f}/s  {left / 60:.0f} min left"
                )
                sums, count = {}, 0
            if step % options.evaluate_every == 0 or step == options.steps:
                scores = evaluate()
                note({"step": step, **scores})
                say(f"{stage.name} {step}  " + "  ".join(f"{key} {value:.2f}" for key, value in scores.items()))
                if options.keep_best:
                    if _note_best(options, scores, average, position) and main:
                        save_file(average.tensors, folder / f"{BEST}.partial")
                        (folder / f"{BEST}.partial").replace(folder / BEST)
                    enough = 0 < options.patience <= position["stale"]
            if main and (
                time.monotonic() - saved > options.save_every_s or step == options.steps or stop.asked or enough
            ):
                save_state(folder, module, average, found, position)
                saved = time.monotonic()
            if stop.asked:
                raise KeyboardInterrupt
            if enough:
                say(f"{stage.name}: {options.keep_best} has not fallen for {position['stale']} evaluations: enough")
            if enough or step == options.steps:
                break
        else:
            position["epoch"] += 1
            position["batch"] = 0
    stop.restore()
    accelerator.wait_for_everyone()
    if options.keep_best and (folder / BEST).exists():
        load_best(folder, module)
    else:
        average.swap(module)
    module.eval()
    return scores
