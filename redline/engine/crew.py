"""Threads that each compute launches of their own, in place of threads that share one launch.

A launch of a few hundred rows is too small to share: threads would wait for each other behind every product. With a
launch each, one product follows another in the cache of one core, and no sum is split between threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None
"""Threads, and the process that they live in: a forked child makes its own."""


def run_launches(launch: Callable[[int], None], count: int, most: int | None = None) -> None:
    """Call `launch` with each number below `count`, in as many threads as PyTorch computes with, or `most`.

    Each has its share of PyTorch's threads, and may call this again. Launches of one call must not depend on each
    other. An error of one is raised here, once the others have ended.
    """
    threads = torch.get_num_threads()
    callers = max(1, min(threads, count, most or threads))
    numbers = iter(range(count))  # whoever is free takes the next

    def work() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads // callers)
        try:
            with torch.inference_mode():
                for number in numbers:
                    launch(number)
        finally:
            torch.set_num_threads(before)

    helpers: list[Future[None]] = [_threads().submit(work) for _ in range(callers - 1)]
    try:
        work()
    finally:
        # One that has not begun would find nothing to do, and might wait for a thread that waits for this one.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
        torch.set_num_threads(threads)  # of MKL there is one number for all threads
    for error in errors:
        if error is not None:
            raise error


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            count = 2 * max(torch.get_num_threads(), os.cpu_count() or 1)
            _pool = os.getpid(), ThreadPoolExecutor(count, "redline", lambda: torch.set_num_threads(1))
        return _pool[1]
