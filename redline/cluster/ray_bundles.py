"""Recordings that one decoder reads, on a run on Ray: how many go together, and where they go when they failed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from redline.cluster.ray_stages import AnsweredPart, RayTask

_MOST_S, _MOST_BYTES, _MOST = 600.0, 32 << 20, 64
_USUAL_S, _USUAL_BYTES = 60.0, 4 << 20  # of a recording of which the source tells nothing
_LEAST_BUNDLES = 4  # for each worker, so that all have work to the end
_PIECES = 8  # of a bundle that is lost: what ends a process is found in two steps


@dataclass
class Places:
    """Ray's ids of nodes."""

    decoders: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Bundle:
    """Recordings that one decoder reads, and what of them is still on its way."""

    missing: dict[int, RayTask]
    """By row: those without a result."""
    is_alone: bool = False
    """Whether it has one recording, which was in others' company before."""
    loads: int = 0
    """That were decoded and have not been written."""
    is_read: bool = False
    parts: dict[int, dict[int, AnsweredPart]] = field(default_factory=dict)
    before: Places = field(default_factory=Places)
    """Where it failed: it is tried elsewhere, each stage for itself."""
    now: Places = field(default_factory=Places)
    since: float = field(default_factory=time.monotonic)
    trouble: str = ""
    """Why something of it was lost."""

    def again(self, tasks: Sequence[RayTask]) -> Iterator[Bundle]:
        """Recordings of it once more: in smaller company, and at last alone."""
        before = Places(self.before.decoders | self.now.decoders, self.before.workers | self.now.workers)
        for few in in_bundles(tasks, math.ceil(len(tasks) / _PIECES)):
            yield Bundle({task.row.row: task for task in few}, len(few) == 1, before=before)


def first_bundles(tasks: Sequence[RayTask], workers: int) -> Iterator[Bundle]:
    """Recordings in bundles, of which each of so many workers gets some."""
    most = min(_MOST, math.ceil(len(tasks) / (_LEAST_BUNDLES * workers)))
    for few in in_bundles(tasks, most):
        yield Bundle({task.row.row: task for task in few})


def in_bundles(tasks: Sequence[RayTask], most: int) -> Iterator[list[RayTask]]:
    """Recordings in groups of at most so many: few where they are long, as far as the source tells."""
    bundle: list[RayTask] = []
    load_s = load_bytes = 0.0
    for task in tasks:
        own_s = task.row.duration or (0.0 if task.row.size else _USUAL_S)
        own_bytes = task.row.size or (0.0 if task.row.duration else _USUAL_BYTES)
        full = len(bundle) >= most or load_s + own_s > _MOST_S or load_bytes + own_bytes > _MOST_BYTES
        if bundle and full:
            yield bundle
            bundle, load_s, load_bytes = [], 0.0, 0.0
        bundle.append(task)
        load_s, load_bytes = load_s + own_s, load_bytes + own_bytes
    if bundle:
        yield bundle
