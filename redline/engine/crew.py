"""Threads that each compute launches of their own, in place of threads that share one launch.

A launch of a few hundred rows is too small to share: threads would wait for each other behind every product. With a
launch each, one product follows another in the cache of one core, and no sum is split between threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_pool: tuple[int, int, ThreadPoolExecutor] | None = None
"""Process and number of threads it was made for, and the threads; a forked child makes its own."""


def run_launches(launch: Callable[[int], None], count: int) -> None:
    """Call `launch` with each number below `count`, in as many threads as PyTorch computes with, each alone.

    Launches of one call must not depend on each other. An error of one is raised here, once the others have ended.
    """
    numbers = iter(range(count))  # whoever is free takes the next

    def work() -> None:
        with torch.inference_mode():
            for number in numbers:
                launch(number)

    threads = torch.get_num_threads()
    with _one_thread():
        futures: list[Future[None]] = []
        if min(threads, count) > 1:
            pool = _threads(threads - 1)
            futures = [pool.submit(work) for _ in range(min(threads, count) - 1)]
        try:
            work()
        finally:
            errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let products of this thread, and of those that it has given work, have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[:2] != (os.getpid(), count):
            _pool = os.getpid(), count, ThreadPoolExecutor(count, "redline", lambda: torch.set_num_threads(1))
        return _pool[2]
