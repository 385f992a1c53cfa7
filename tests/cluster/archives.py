"""What tests of archives share: recordings that are quick to read, a store in memory, a run with a fake recognizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile

from redline.audio import AudioOptions
from redline.cluster.ledger import Ledger, RunSettings
from redline.cluster.local import LocalRun
from redline.cluster.progress import ShardShare
from redline.cluster.report import BatchReport
from redline.cluster.source import Source
from redline.cluster.stages import PlanBook
from redline.cluster.store import ArchiveStore, StoreError
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Waveform

OPTIONS: dict[str, Any] = {"vad": False, "audio_options": AudioOptions(isolated=False)}


def settings(shard_size: int = 2, outputs: tuple[str, ...] = ("json",), **options: Any) -> RunSettings:
    return RunSettings("fake", "0123", options, shard_size, outputs)


def archive(folder: Path, count: int = 5, step_s: float = 0.02) -> Path:
    """A folder of recordings that all differ, each longer than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        soundfile.write(folder / f"{number:03}.wav", tone(0.1 + step_s * number).samples, 16_000)
    return folder


def level(clip: Waveform) -> str:
    """A text that tells recordings apart."""
    return f"{clip.duration:.3f} seconds {abs(clip.samples).sum():.4f}"


def run(
    source: Path | str,
    store: ArchiveStore,
    respond: Callable[[Waveform], Any] = level,
    *,
    share: ShardShare = ShardShare(),  # noqa: B008
    said: RunSettings | None = None,
    **more: Any,
) -> BatchReport:
    transcriber = Transcriber(FakeRecognizer(respond))
    ledger = Ledger(store, said or settings())
    return LocalRun(ledger, Source(str(source)), transcriber, PlanBook.of(transcriber, **OPTIONS), share, **more).run()


class MemoryStore:
    """A store that outlives the runs on it; its `fail_at`-th operation fails, once."""

    address = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fail_at: int | None = None
        self.operations = 0
        self.written: list[str] = []

    def _count(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise StoreError("memory: injected")

    def read(self, name: str) -> bytes | None:
        self._count()
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        self._count()
        self.written.append(name)
        self.files[name] = data

    def create(self, name: str, data: bytes) -> bytes:
        self._count()
        return self.files.setdefault(name, data)

    def exists(self, name: str) -> bool:
        self._count()
        return name in self.files

    def remove(self, name: str) -> None:
        self._count()
        self.files.pop(name, None)

    def names(self, folder: str) -> list[str]:
        self._count()
        return sorted(name.rsplit("/", 1)[1] for name in self.files if name.rsplit("/", 1)[0] == folder)


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder by their names, but for reports, which tell times."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("report")}


def rows(store: ArchiveStore) -> list[dict[str, Any]]:
    """The recordings of all shards that are finished."""
    shards = [json.loads(store.read(f"shards/{name}") or b"") for name in store.names("shards")]
    return [row for shard in shards for row in shard["recordings"]]
