"""One process or many: which goes first, which writes, and who waits (accelerate's process group)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from redline.errors import ConfigError

Say = Callable[[str], None]


def accelerator() -> Any:
    """The handle on all processes of this run; what it wraps stays on the device where it is.

    Precision is left to the caller, because accelerate keeps one for the life of a process and stages may differ.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch of drafts alone leaves the projector without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision="no", device_placement=False, kwargs_handlers=[unused])


def training_device(device: str | None = None) -> torch.device:
    """Where this process computes: on the device that is asked for, else the fastest; of several each has its own."""
    from redline.load import pick_device

    runner = accelerator()
    if device is None:
        return torch.device(runner.device)
    if runner.num_processes > 1:
        raise ConfigError(f"device is {device}; each of {runner.num_processes} processes has its own: leave it out")
    return pick_device(device)


def first_process_first() -> AbstractContextManager[None]:
    """Lets the first process do what is done once and kept on disk; the others wait and find it done."""
    return cast(AbstractContextManager[None], accelerator().main_process_first())


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return bool(accelerator().is_main_process)


def only_first(say: Say) -> Say:
    """`say` in the first process; in the others, messages go nowhere."""
    return say if is_first_process() else lambda line: None


def wait_for_all() -> None:
    accelerator().wait_for_everyone()
