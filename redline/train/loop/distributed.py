"""One process or many: which goes first, which writes, and who waits (accelerate's process group)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from redline.errors import ConfigError

T = TypeVar("T")


def accelerator() -> Any:
    """The handle on all processes of this run; what it wraps stays on the device where it is.

    Precision is left to the caller, because accelerate keeps one for the life of a process and stages may differ.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch of drafts alone leaves the projector without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision="no", device_placement=False, kwargs_handlers=[unused])


def training_device(asked: str | None = None) -> torch.device:
    """Where this process computes: the fastest device, its own of several processes, or the one that is asked for.

    Raises `ConfigError` where several processes are asked to share one.
    """
    runner = accelerator()
    if asked is not None and runner.num_processes > 1:
        raise ConfigError(f"device is {asked}; each of {runner.num_processes} processes has its own: leave it out")
    own: torch.device = runner.device
    return own if asked is None else torch.device(asked)


def first_process_first() -> AbstractContextManager[None]:
    """Lets the first process do what is done once and kept on disk; the others wait and find it done."""
    context: AbstractContextManager[None] = accelerator().main_process_first()
    return context


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return bool(accelerator().is_main_process)


def only_first(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` in the first process; in the others, messages go nowhere."""
    return say if is_first_process() else lambda line: None


def from_first(value: T) -> T:
    """What the first process has, in all of them."""
    from accelerate.utils import broadcast_object_list

    received: list[T] = broadcast_object_list([value])
    return received[0]


def wait_for_all() -> None:
    """Go on only when every process has come this far."""
    accelerator().wait_for_everyone()
