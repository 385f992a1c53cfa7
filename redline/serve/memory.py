"""Memory that requests leave behind: little in the first place, and what a burst leaves goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

TRIM_S = 20.0
"""Between two looks at whether something is to be given back."""
ARENAS = 2
"""That all threads share: by default each has one of its own, which keeps what that thread has freed."""
_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_arenas() -> None:
    """Have the threads that are still to come share glibc's arenas, unless the user has said how many there are."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def allocator_trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`: free pages between pieces in use go back, which `free` alone keeps; elsewhere None."""
    with suppress(OSError, AttributeError):
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return trim
    return None


@asynccontextmanager
async def memory_returned(state: Any) -> AsyncIterator[None]:
    """Beside the doors: trims behind the last of some requests."""
    task = asyncio.create_task(_trim(state))
    try:
        yield
    finally:
        task.cancel()


async def _trim(state: Any) -> None:
    trim, trimmed = allocator_trim(), 0
    while trim is not None:
        await asyncio.sleep(TRIM_S)
        service, seen = state.service, state.requests
        if seen != trimmed and not (service.active or service.waiting or service.streams):
            trimmed = seen
            await asyncio.to_thread(trim, 0)
