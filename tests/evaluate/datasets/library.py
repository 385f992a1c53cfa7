"""A stand-in for the `datasets` library, with some sets in it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import soundfile

NEWEST = "0123456789abcdef0123456789abcdef01234567"


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(16_000 * seconds), dtype=np.float32), 16_000, format="WAV")
    return file.getvalue()


class Rows:
    """As much of a `datasets.Dataset` as is used; sound that was not asked to stay undecoded cannot be had."""

    def __init__(self, columns: Mapping[str, list[Any]], decode: bool = True) -> None:
        self.columns, self.decode = dict(columns), decode
        self.read: list[int] = []
        """The rows whose sound was read."""

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def cast_column(self, name: str, feature: SimpleNamespace) -> Rows:
        assert name == "audio"
        return Rows(self.columns, feature.decode)

    def select_columns(self, names: list[str]) -> Rows:
        return Rows({name: self.columns[name] for name in names})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> dict[str, Any]:
        if "audio" in self.columns:
            assert not self.decode, "sound is decoded by redline.audio only"
            self.read.append(number)
        return {name: values[number] for name, values in self.columns.items()}


class Library(ModuleType):
    """A stand-in for the package `datasets` with some sets in it."""

    def __init__(self) -> None:
        super().__init__("datasets")
        self.sets: dict[tuple[str, str | None, str], Rows] = {}
        self.Audio = lambda decode: SimpleNamespace(decode=decode)
        self.config = SimpleNamespace()
        self.revisions: list[str | None] = []
        """Those that were asked for."""

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str | None) -> Rows:
        self.revisions.append(revision)
        if (name, config, split) in self.sets:
            return self.sets[name, config, split]
        if any(key[0] == name for key in self.sets):
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['test'].")
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (LocalEntryNotFoundError)")


def sounds(*seconds: float) -> list[dict[str, Any]]:
    return [{"bytes": wav(length), "path": None} for length in seconds]
