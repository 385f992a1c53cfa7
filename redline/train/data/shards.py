"""Shards of audio: tar files of many utterances in a bucket or a folder, read where a batch needs them (fsspec).

The manifest tells the place of each recording (`shard`: URL#FIRST+SIZE, in bytes), so any order of utterances is a few
requests for parts of files, and a run goes on at any batch without reading what came before.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from torch import Tensor

from redline.errors import DataError, packages_of
from redline.features import FRAME_RATE, FRAME_SAMPLES
from redline.manifest import Utterance
from redline.train.loop.distributed import accelerator
from redline.types import SAMPLE_RATE

AHEAD = 4
"""Batches of a process that are read before their turn, each by a thread."""
_T = TypeVar("_T")
_R = TypeVar("_R")
_B = TypeVar("_B")


def read_sharded(row: Utterance) -> bytes:
    """The recording of an utterance that lies in a shard; raises `DataError` where it cannot be read."""
    matched = re.fullmatch(r"(.+)#(\d+)\+(\d+)", row.shard)
    if matched is None:
        raise DataError(
            f"{row.id}: shard is {row.shard[:200]!r}; it is the URL of a tar file, # and FIRST+SIZE in bytes"
        )
    url, first, size = matched[1], int(matched[2]), int(matched[3])
    try:
        files, path = _opened(url.rpartition("/")[0]), url
        data: bytes = files.cat_file(path, start=first, end=first + size)
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{url}: cannot be read: {error}") from error
    if len(data) != size:
        raise DataError(
            f"{url}: ends before {row.id}, at {first + len(data)} bytes; it is not the file that was written"
        )
    return data


@cache
def _opened(folder: str) -> Any:
    with packages_of("cluster", "a manifest of shards"):
        import fsspec
    return fsspec.core.url_to_fs(folder)[0]


class StreamedView:
    """Features of utterances, computed when they are asked for; has what a `FeatureCache` has.

    The same utterance in the same view gives the same features as there, to the bit.
    """

    def __init__(self, rows: Sequence[Utterance], render: Callable[[Utterance], Tensor]) -> None:
        self._rows, self._render = {row.id: row for row in rows}, render
        # By what the manifest says, which `write_shards` measured.
        self.offsets = {
            row.id: (0, round(row.duration * FRAME_RATE)) for row in rows if row.duration * SAMPLE_RATE >= FRAME_SAMPLES
        }

    def __getitem__(self, identity: str) -> Tensor:
        return self._render(self._rows[identity])


def ahead(plans: Iterator[_T], read: Callable[[_T], _R], finish: Callable[[_T, _R], _B]) -> Iterator[Callable[[], _B]]:
    """Functions that give the batches of plans, of which those of this process are read before they are asked for.

    Of n processes each takes every n-th, as the loop does. `read` runs in threads, `finish` where a function is called:
    what draws from global generators belongs there.
    """
    runner = accelerator()
    processes, index = runner.num_processes, runner.process_index
    waiting = deque[tuple[_T, Future[_R] | None]]()
    pool = ThreadPoolExecutor(AHEAD, "redline-shards")

    def taken() -> Callable[[], _B]:
        plan, reading = waiting.popleft()
        return lambda: finish(plan, reading.result() if reading is not None else read(plan))

    try:
        for place, plan in enumerate(plans):
            waiting.append((plan, pool.submit(read, plan) if place % processes == index else None))
            if len(waiting) > AHEAD * processes:
                yield taken()
        while waiting:
            yield taken()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
