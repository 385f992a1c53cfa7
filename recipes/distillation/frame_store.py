"""Frame store: what something says of every frame of a set of utterances, on disk, found by utterance id.

Rows are appended while they are computed, so a job that was stopped goes on behind the last utterance that was written
whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redline.errors import DataError

TYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float16: np.dtype("<f2"), torch.int32: np.dtype("<i4")}


class FrameStore:
    """Rows [T_i, width] of one type in `stem`.frames, and a line for each utterance in `stem`.jsonl."""

    def __init__(self, stem: Path, width: int, dtype: torch.dtype) -> None:
        """Open a store, or begin one; raises `DataError` for one of another width or type."""
        self.stem, self.width, self.dtype = stem, width, dtype
        self.offsets: dict[str, tuple[int, int]] = {}
        """First row of an utterance and the one behind its last."""
        self._size = 0
        stem.parent.mkdir(parents=True, exist_ok=True)
        index = stem.with_suffix(".jsonl")
        shape = {"width": width, "dtype": str(dtype)}
        if not index.exists() or not index.stat().st_size:
            index.write_text(json.dumps(shape) + "\n", encoding="utf-8")
            stem.with_suffix(".frames").write_bytes(b"")
        lines = index.read_text(encoding="utf-8").splitlines()
        if json.loads(lines[0]) != shape:
            raise DataError(f"{index} holds {lines[0]}, not {json.dumps(shape)}; choose another folder")
        for identity, first, last in map(json.loads, lines[1:]):
            self.offsets[identity] = first, last
            self._size = last
        # What was written behind the last line is a part of an utterance.
        with stem.with_suffix(".frames").open("r+b") as file:
            file.truncate(self._size * self._row_bytes)
        self._frames: NDArray[Any] | None = None

    @property
    def _row_bytes(self) -> int:
        size: int = TYPES[self.dtype].itemsize
        return self.width * size

    def __contains__(self, identity: object) -> bool:
        return identity in self.offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[str]:
        return iter(self.offsets)

    def append(self, identity: str, rows: Tensor) -> None:
        """Write the rows [T, width] of one more utterance."""
        assert identity not in self.offsets and rows.shape[1] == self.width
        first, last = self._size, self._size + len(rows)
        with self.stem.with_suffix(".frames").open("ab") as file:
            file.write(rows.to(self.dtype).contiguous().numpy().astype(TYPES[self.dtype]).tobytes())
        with self.stem.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps([identity, first, last]) + "\n")
        self.offsets[identity] = first, last
        self._size, self._frames = last, None

    def __getitem__(self, identity: str) -> Tensor:
        """The rows [T, width] of an utterance."""
        if self._frames is None:
            file = self.stem.with_suffix(".frames")
            self._frames = np.memmap(file, TYPES[self.dtype], mode="r", shape=(self._size, self.width))
        first, last = self.offsets[identity]
        return torch.from_numpy(np.array(self._frames[first:last]))
