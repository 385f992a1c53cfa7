"""The training loop: one straight function over an objective, resumable at any step.

An objective is a module whose forward takes a batch and returns the loss, so that accelerate can wrap it for one
process or many.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from redline.errors import ConfigError, DataError, DivergedError
from redline.train.loop.checkpointing import BEST, Average, load_best, load_state, make_folder, save_best, save_state
from redline.train.loop.distributed import accelerator, only_first
from redline.train.loop.optim import TrainingOptions, learning_rate, optimizers
from redline.train.loop.sharding import shard, sharding, unsharded
from redline.train.loop.tensorboard import Board


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


def _note_best(options: TrainingOptions, scores: dict[str, float], position: dict[str, Any]) -> bool:
    """Whether these scores are the best so far; counts the evaluations since."""
    if options.keep_best not in scores:
        raise ConfigError(f"keep_best is {options.keep_best!r}; this stage has {', '.join(scores)}")
    score = scores[options.keep_best]
    # A score that is no number is worse than any; the first one counts whatever it is.
    better = "best" not in position or score < position["best"] or math.isnan(position["best"])
    # What was learned and is as good goes before what it began with.
    better |= position.get("best_step") == 0 and score == position["best"]
    if better:
        position |= {"best": score, "best_step": position["step"]}
    position["stale"] = 0 if better else position.get("stale", 0) + 1
    return better


def _changed(before: dict[str, Any], options: TrainingOptions) -> str:
    """What a run that goes on is asked to do otherwise than it began."""
    now = json.loads(json.dumps(asdict(options)))
    return ", ".join(
        f"{key} {now[key]} instead of {before[key]}" for key in now if key in before and before[key] != now[key]
    )


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


def _share(batches: Iterator[Any], accelerator: Any, accumulate: int) -> Iterator[Sequence[Any]]:
    """This process's batches of each update; a last incomplete round is left out, so that all step together."""
    count = accelerator.num_processes
    for group in zip(*[iter(batches)] * (count * accumulate), strict=False):
        yield group[accelerator.process_index :: count]


class _Meter:
    """Means of the loss and its parts since they were last told."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        for key, value in {"loss": loss.detach(), **parts}.items():
            self.values.setdefault(key, []).append(float(value))

    def tell(self) -> dict[str, float]:
        means = {key: sum(values) / len(values) for key, values in self.values.items()}
        self.values = {}
        return means


def fit(stage: Stage, options: TrainingOptions, folder: Path, say: Say = _to_stderr) -> dict[str, float]:
    """Train a stage's objective to its last step, going on from `folder` when it holds a state.

    Writes `folder/log.jsonl` (one object a line: step, epoch, loss parts, lr, rate, and scores when evaluated) and
    leaves the averaged weights in the objective, or the best with `keep_best`, among them those it began with; under
    FSDP they stay in shards there. Returns the last scores. Raises `DataError` when an epoch has fewer batches than one
    update needs or nothing can be written, `DivergedError` when loss or gradient is no finite number: the weights
    are then those of before that step, and nothing on disk is touched.
    """
    from accelerate.utils import broadcast_object_list

    all_of_us = accelerator()
    device, processes, main = all_of_us.device, all_of_us.num_processes, all_of_us.is_main_process
    sharded = sharding(options)
    narrow = options.narrow(device.type)
    say = only_first(say)
    if options.precision == "bf16" and not narrow:
        say(f"{stage.name}: this CPU has no bfloat16, so precision is float32")
    torch.manual_seed(options.seed)
    module = stage.objective.to(device)

    def agreed(value: Any) -> Any:
        """What the first process says, so that all do the same."""
        return broadcast_object_list([value])[0] if processes > 1 else value

    def watched() -> dict[str, float]:
        module.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            result = stage.evaluate()
        module.train()
        return dict(agreed(result))

    make_folder(folder)
    # What it begins with is a candidate too: training may only make it worse. Shards are first put together by a step.
    fresh = not any((folder / name).exists() for name in ("latest", "diverged"))
    began = watched() if fresh and options.keep_best and options.steps else {}
    if sharded:
        shard(module)
    average = Average(module, options.average_decay)
    found = optimizers(module, options)
    position = load_state(folder, module, average, found) or {"step": 0, "epoch": 0, "batch": 0, "hours": 0.0}
    if changed := _changed(position.get("options", {}), options):
        say(f"{stage.name}: goes on from step {position['step']} with other settings: {changed}")
    position["options"] = asdict(options)
    wrapped: Any = module
    if not sharded:
        wrapped, *found = all_of_us.prepare(module, *found)
    step = first_step = position["step"]
    diverged = folder / "diverged"
    if diverged.exists() and not changed:
        raise DivergedError(diverged.read_text(encoding="utf-8"))
    if changed and main:
        diverged.unlink(missing_ok=True)
    enough = 0 < options.patience <= position.get("stale", 0)
    if step >= options.steps or enough:
        say(f"{stage.name}: was finished at step {step}; nothing is left to train")
    elif step:
        say(f"{stage.name}: going on from step {step} of {options.steps}")

    def evaluate() -> dict[str, float]:
        average.swap(module)
        with unsharded(module):
            result = watched()
        average.swap(module)
        return result

    def update(batches: Sequence[Any], meter: _Meter) -> None:
        rate = learning_rate(step, options)
        for optimizer in found:
            for group in optimizer.param_groups:
                group["lr"] = rate
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            # Shards are summed after every batch: without that, each process would keep the gradients of all.
            with nullcontext() if last or sharded else all_of_us.no_sync(wrapped):
                with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
                    loss, parts = wrapped(batch)
                all_of_us.backward(loss / len(batches))
            meter.add(loss, parts)
        norm = all_of_us.clip_grad_norm_(module.parameters(), options.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)
        value = torch.stack((loss.detach().float(), norm.to(device).float()))
        if not torch.isfinite(all_of_us.gather(value)).all():
            diverge(rate)
        for optimizer in found:
            optimizer.step()
            optimizer.zero_grad()
        average.update(module, step)

    def diverge(rate: float) -> None:
        latest = folder / "latest"
        kept = f"the state of {latest.read_text()}" if latest.exists() else "none, it came before the first save"
        if "best_step" in position:
            kept = f"those of step {position['best_step']}, the best so far"
        reason = (
            f"{stage.name}: the loss or its gradient is no number at step {step + 1}, at a learning rate of {rate:g}; "
            f"weights that are kept: {kept}. Begin again in another folder with a lower learning rate (a tenth)"
        )
        if main:
            diverged.write_text(reason, encoding="utf-8")
        stop.restore()
        raise DivergedError(reason)

    board = Board(folder / "tensorboard") if options.tensorboard and main else None

    def note(row: dict[str, Any]) -> None:
        if main:
            with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if board is not None:
            board.note(row)

    module.train()
    stop, meter, scores = _StopSignal(), _Meter(), {}
    started = saved = time.monotonic()
    heard_s = 0.0
    if began:
        scores = began
        note({"step": step, **scores})
        say(f"{stage.name} {step}  " + "  ".join(f"{key} {value:.2f}" for key, value in scores.items()))
        _note_best(options, scores, position)
        save_best(folder, average, step, scores)
    while step < options.steps and not enough:
        before = step
        for batches in _share(stage.batches(position["epoch"], position["batch"]), all_of_us, options.accumulate):
            torch.manual_seed(options.seed * 1_000_003 + step * processes + all_of_us.process_index)
            update(batches, meter)
            step += 1
            seconds = processes * sum(map(stage.seconds, batches))
            heard_s += seconds
            position["hours"] += seconds / 3600
            position["batch"] += processes * len(batches)
            position["step"] = step
            if step % options.log_every == 0 or step == options.steps:
                elapsed = time.monotonic() - started
                left = elapsed / (step - first_step) * (options.steps - step)
                means = meter.tell()
                row = {"step": step, "epoch": position["epoch"], "lr": learning_rate(step - 1, options)}
                note(row | {"seconds": round(elapsed, 1)} | {key: round(value, 4) for key, value in means.items()})
                shown = "  ".join(f"{key} {value:.3f}" for key, value in means.items())
                say(
                    f"{stage.name} {step}/{options.steps}  epoch {position['epoch']}  {shown}  "
                    f"{heard_s / elapsed:.0f}/s  {left / 60:.0f} min left"
                )
            if step % options.evaluate_every == 0 or step == options.steps:
                scores = evaluate()
                note({"step": step, **scores})
                say(f"{stage.name} {step}  " + "  ".join(f"{key} {value:.2f}" for key, value in scores.items()))
                if options.keep_best:
                    if _note_best(options, scores, position):
                        save_best(folder, average, step, scores)
                    enough = 0 < options.patience <= position["stale"]
            stopped, due = agreed((stop.asked, time.monotonic() - saved > options.save_every_s))
            last = enough or stopped or step == options.steps
            if last or due:
                save_state(folder, module, average, found, position)
                saved = time.monotonic()
            if stopped:
                raise KeyboardInterrupt
            if enough:
                say(f"{stage.name}: {options.keep_best} has not fallen for {position['stale']} evaluations: enough")
            if last:
                break
        else:
            if step == before and position["batch"] == 0:
                raise DataError(
                    f"{stage.name}: an epoch has fewer batches than one update of {processes} processes x "
                    f"{options.accumulate} needs; give more data, smaller batches or fewer processes"
                )
            position["epoch"] += 1
            position["batch"] = 0
    stop.restore()
    if board is not None:
        board.close()
    all_of_us.wait_for_everyone()
    if options.keep_best and (folder / BEST).exists():
        load_best(folder, module)
    else:
        average.swap(module)
    module.eval()
    return scores
