"""The training loop: one straight function over an objective, resumable at any step."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from redline.errors import ConfigError, DataError, DivergedError
from redline.train.loop import checkpointing
from redline.train.loop.checkpointing import BEST, EMA, STATE, Position
from redline.train.loop.distributed import Say, accelerator, only_first, training_device
from redline.train.loop.log import TrainingLog
from redline.train.loop.optim import TrainingOptions, learning_rate, optimizers
from redline.train.loop.sharding import shard, sharding, unsharded
from redline.train.loop.stage import TrainingStage

DIVERGED = "diverged"
"""File that tells why a run ended; the same command does not try again."""


def fit(
    stage: TrainingStage, options: TrainingOptions, folder: Path, say: Say, device: str | None = None
) -> dict[str, float]:
    """Train a stage's objective to its last step, going on from `folder` when it holds a state.

    Writes `folder/log.jsonl` (one object a line: step, epoch, loss parts, lr, seconds, or the scores of an evaluation)
    and leaves the averaged weights in the objective, or the best with `keep_best`, among them those it began with;
    under FSDP they stay in shards there. Returns the last scores. Raises `DataError` when an epoch has fewer batches
    than one update needs or nothing can be written, `DivergedError` when loss or gradient is no finite number: the
    weights are then those of before that step, and nothing on disk is touched.
    """
    from accelerate.utils import broadcast_object_list

    runner, sharded, place = accelerator(), sharding(options), training_device(device)
    processes, name, say = runner.num_processes, stage.name, only_first(say)
    autocast = partial(torch.autocast, place.type, torch.bfloat16, enabled=options.uses_bf16(place))
    if options.precision == "bf16" and not options.uses_bf16(place):
        say(f"{name}: this CPU has no bfloat16, so precision is float32")
    log = TrainingLog(checkpointing.make_folder(folder), options.tensorboard)
    torch.manual_seed(options.seed)
    module = stage.objective.to(place)

    def score() -> dict[str, float]:
        module.eval()
        with torch.no_grad(), autocast():
            scores = stage.evaluate()
        module.train()
        return dict(broadcast_object_list([scores])[0])  # all do as the first process does

    # What it begins with is a candidate too: training may only make it worse. Shards are first put together by a step.
    is_new = not any((folder / file).exists() for file in (STATE, DIVERGED))
    scores = score() if is_new and options.keep_best and options.steps else {}
    if sharded:
        shard(module)
    ema = EMA(module, options.average_decay)
    optims = optimizers(module, options)
    position = checkpointing.load_state(folder, module, ema, optims)
    _compare_options(position, options, name, folder / DIVERGED, say)
    wrapped: Any = module
    if not sharded:
        wrapped, *optims = runner.prepare(module, *optims)

    def update(batches: Sequence[Any]) -> None:
        lr = learning_rate(position.step, options)
        for group in (group for optim in optims for group in optim.param_groups):
            group["lr"] = lr * group.get("lr_share", 1.0)
        for number, batch in enumerate(batches, start=1):
            # Shards are summed after every batch: without that, each process would keep the gradients of all.
            with nullcontext() if sharded or number == len(batches) else runner.no_sync(wrapped):
                with autocast():
                    loss, parts = wrapped(batch)
                runner.backward(loss / len(batches))
            log.add({"loss": loss.detach(), **parts})
        norm = runner.clip_grad_norm_(module.parameters(), options.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not torch.isfinite(runner.gather(torch.stack((loss.detach().float(), norm.to(place).float())))).all():
            kept = "those of the last save" if (folder / STATE).exists() else "none, it came before the first save"
            if position.best_step is not None:
                kept = f"those of step {position.best_step}, the best so far"
            reason = (
                f"{name}: the loss or its gradient is no number at step {position.step + 1}, at a learning rate of "
                f"{lr:g}; weights that are kept: {kept}. Begin again in another folder with a lower learning rate "
                "(a tenth)"
            )
            (folder / DIVERGED).write_text(reason, encoding="utf-8")
            raise DivergedError(reason)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        ema.update(module, position.step)

    def note(scores: dict[str, float]) -> None:
        log.write({"step": position.step, **scores})
        say(f"{name} {position.step}  {_formatted(scores, 2)}")
        if options.keep_best and _is_best(position, scores, options.keep_best):
            checkpointing.save_best(folder, ema, position.step, scores)

    def is_finished() -> bool:
        return position.step >= options.steps or 0 < options.patience <= position.stale

    first, seconds = position.step, 0.0
    if is_finished():
        say(f"{name}: was finished at step {first}; nothing is left to train")
    elif first:
        say(f"{name}: going on from step {first} of {options.steps}")
    module.train()
    updates = _updates(stage, position, processes, runner.process_index, options.accumulate)
    started = saved = time.monotonic()
    with stop_signals() as stop:
        if scores:
            note(scores)
        while not is_finished():
            batches = next(updates)
            torch.manual_seed(options.seed * 1_000_003 + position.step * processes + runner.process_index)
            update(batches)
            position.step += 1
            position.batch += processes * len(batches)
            seconds += processes * sum(batch.seconds for batch in batches)
            step, is_last = position.step, position.step == options.steps
            if step % options.log_every == 0 or is_last:
                elapsed, means = time.monotonic() - started, log.means()
                row = {"step": step, "epoch": position.epoch, "lr": learning_rate(step - 1, options)}
                log.write(row | {"seconds": round(elapsed, 1)} | {key: round(means[key], 4) for key in means})
                left_min = elapsed / (step - first) * (options.steps - step) / 60
                progress = f"{seconds / elapsed:.0f}/s  {left_min:.0f} min left"
                say(f"{name} {step}/{options.steps}  epoch {position.epoch}  {_formatted(means, 3)}  {progress}")
            if step % options.evaluate_every == 0 or is_last:
                ema.swap(module)
                with unsharded(module):
                    scores = score()
                ema.swap(module)
                note(scores)
            is_due = time.monotonic() - saved > options.save_every_s
            is_stopped, is_due = broadcast_object_list([stop.is_set(), is_due])
            if is_stopped or is_due or is_finished():
                checkpointing.save_state(folder, module, ema, optims, position)
                saved = time.monotonic()
            if is_stopped:
                raise KeyboardInterrupt
    if first < position.step < options.steps:
        say(f"{name}: {options.keep_best} has not fallen for {position.stale} evaluations: enough")
    log.close()
    runner.wait_for_everyone()
    if options.keep_best and (folder / BEST).exists():
        checkpointing.load_best(folder, module)
    else:
        ema.swap(module)
    module.eval()
    return scores


def _updates(
    stage: TrainingStage, position: Position, processes: int, index: int, accumulate: int
) -> Iterator[Sequence[Any]]:
    """This process's batches of each update, epoch after epoch.

    A last incomplete round of an epoch is left out, so that all processes step together.
    """
    while True:
        batches = iter(stage.source.epoch(position.epoch, position.batch))
        for group in zip(*[batches] * (processes * accumulate), strict=False):
            yield [batch() if callable(batch) else batch for batch in group[index::processes]]
        if position.batch == 0:
            raise DataError(
                f"{stage.name}: an epoch has fewer batches than one update of {processes} processes x "
                f"{accumulate} needs; give more data, smaller batches or fewer processes"
            )
        position.epoch, position.batch = position.epoch + 1, 0


def _compare_options(position: Position, options: TrainingOptions, name: str, diverged: Path, say: Say) -> None:
    """Tell what a run that goes on is asked to do otherwise; one that diverged goes on only then."""
    now, before = json.loads(json.dumps(asdict(options))), position.options
    changed = [f"{key} {now[key]} instead of {before[key]}" for key in now if before.get(key, now[key]) != now[key]]
    if diverged.exists() and not changed:
        raise DivergedError(diverged.read_text(encoding="utf-8"))
    if changed:
        say(f"{name}: goes on from step {position.step} with other settings: {', '.join(changed)}")
        diverged.unlink(missing_ok=True)
    position.options = now


def _is_best(position: Position, scores: Mapping[str, float], key: str) -> bool:
    """Whether these scores are the best so far, which is noted."""
    if key not in scores:
        raise ConfigError(f"keep_best is {key!r}; this stage has {', '.join(scores)}")
    score, best = scores[key], position.best
    # A score that is no number is worse than any; the first one counts whatever it is. What was learned and is as good
    # goes before what it began with.
    better = (
        position.best_step is None or score < best or math.isnan(best) or (score == best and not position.best_step)
    )
    if better:
        position.best, position.best_step = score, position.step
    position.stale = 0 if better else position.stale + 1
    return better


def _formatted(values: Mapping[str, float], digits: int) -> str:
    return "  ".join(f"{key} {value:.{digits}f}" for key, value in values.items())


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that a run is saved before it stops; a second one is immediate."""
    stop, before = threading.Event(), dict[int, Any]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(*_: object) -> None:
        stop.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()
