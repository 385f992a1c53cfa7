"""One process or many: who goes first, who speaks, and who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def accelerator() -> Any:
    """The handle on all processes of this run.

    Precision is left to the caller, because accelerate keeps one for the life of a process and stages may differ.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch of drafts alone leaves the projector without a gradient.
    return Accelerator(
        mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )


@contextmanager
def first_process_first() -> Iterator[None]:
    """Lets the first process do what is done once and kept on disk; the others wait and find it done."""
    with accelerator().main_process_first():
        yield


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks."""
    return bool(accelerator().is_main_process)


def only_first(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` in the first process; in the others, messages go nowhere."""
    return say if is_first_process() else lambda line: None


def wait_for_all() -> None:
    """Go on only when every process has come this far."""
    accelerator().wait_for_everyone()
