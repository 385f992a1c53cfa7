"""Threads that each compute launches of their own, in place of threads that share one launch.

A launch of a few hundred rows is too small to share: threads would wait for each other behind every product. With a
launch each, one product follows another in the cache of one core, and no sum is split between threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None
"""Threads, and the process that they live in: a forked child makes its own."""
_mine = threading.local()
"""`share`: how many of PyTorch's threads a launch that runs in this thread has."""
_running, _threads = 0, 1
"""Calls that are no launches of others, and with how many threads the first of those that run began."""


def run_launches(
    launch: Callable[[int], None], count: int, most: int | None = None, *, is_sequential: bool = False
) -> None:
    """Call `launch` with each number below `count`, in as many threads as PyTorch computes with, or `most`.

    Each has its share of PyTorch's threads, or one where `is_sequential`, and may call this again. Launches of one call
    must not depend on each other, nor their order matter: those that are left over when every thread has had as many
    as the others share the threads. An error of one ends the others that have not begun, and is raised here.
    """
    share: int | None = getattr(_mine, "share", None)
    threads = share or _enter()
    rest = 0 if is_sequential or most or count < threads else count % threads
    try:
        for numbers in filter(None, (range(count - rest), range(count - rest, count))):
            callers = max(1, min(threads, len(numbers), most or threads))
            _run_round(launch, numbers, threads, callers, 1 if is_sequential else threads // callers)
    finally:
        if share is None:
            _leave()


def _run_round(launch: Callable[[int], None], numbers: Sequence[int], threads: int, callers: int, share: int) -> None:
    """Launches in so many of `threads`, each with its share of them."""
    left = deque(numbers)  # whoever is free takes the next

    def work() -> None:
        before = getattr(_mine, "share", None)
        _mine.share = share
        torch.set_num_threads(share)
        try:
            with torch.inference_mode():
                while (number := _next(left)) is not None:
                    launch(number)
        except BaseException:
            left.clear()
            raise
        finally:
            _mine.share = before

    helpers: list[Future[None]] = [_helpers().submit(work) for _ in range(callers - 1)]
    try:
        work()
    finally:
        # One that has not begun would find nothing to do, and might wait for a thread that waits for this one.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
        torch.set_num_threads(threads)  # once the others have ended: of MKL there is one number for all
    for error in errors:
        if error is not None:
            raise error


def _next(left: deque[int]) -> int | None:
    try:
        return left.popleft()
    except IndexError:
        return None


def _enter() -> int:
    """Count a call; how many threads it has. A thread that is new while others compute would believe their share."""
    global _running, _threads
    with _lock:
        own = torch.get_num_threads()
        _threads = max(own, _threads) if _running else own
        _running += 1
        return _threads


def _leave() -> None:
    global _running
    with _lock:
        _running -= 1


def _helpers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = os.getpid(), ThreadPoolExecutor(2 * max(torch.get_num_threads(), os.cpu_count() or 1), "redline")
        return _pool[1]
