"""What is done, on disk where the transcripts are: the one truth about a run, however many machines work on it.

```
DEST/run.json               model, weights, options: one run; another one is refused
DEST/json/3f/3fa9....json   the transcript of a content; partial/000012/3fa9....json until a shard is done, where no
                            json is wanted
DEST/parquet/000012.parquet all of a shard
DEST/shards/000012.json     written last: its recordings, each with its transcript's id or why there is none
DEST/failed/000012.json     those without a transcript alone
DEST/starts/000012.json     of a shard that is in work: whether its process keeps ending before a recording is done
```
Every write is whole or not there, and writing again gives the same bytes: a machine that is killed leaves nothing to
repair, and two that do the same harm nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redline.cluster.source import Shard, SourceRecording
from redline.cluster.store import ArchiveStore
from redline.errors import DataError, RedlineError
from redline.formats.json import value_of
from redline.types import JsonRecord, listed

RUN, LEDGER_VERSION = "run.json", 1
OUTPUTS = ("json", "parquet")
ATTEMPTS = 3
"""After so many a recording is left out: in reading it, and of processes that ended while it was worked on."""


@dataclass(frozen=True)
class RowResult(JsonRecord):
    """What came of one recording: the `id` of its transcript, or why there is none."""

    row: int
    audio: str
    id: str | None = None
    duration: float = 0.0
    reason: str | None = None
    attempts: int = 0
    """Of a recording that failed."""
    is_final: bool = True
    """Whether a failure would come again; others are tried again by the next run."""
    words: int | None = None
    """Of the reference, where there is one."""
    errors: int | None = None

    @property
    def is_done(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class ShardManifest(JsonRecord):
    """The results of a shard, in the order of its rows; `digest` is that of the rows."""

    shard: int
    digest: str
    recordings: tuple[RowResult, ...]
    version: int = LEDGER_VERSION

    @property
    def left(self) -> set[int]:
        """The rows that are to be tried again."""
        return {each.row for each in self.recordings if not each.is_done and not each.is_final}


@dataclass(frozen=True)
class Starts(JsonRecord):
    """How often work on a shard began since a recording of it was done, and the rows that were alone then."""

    starts: int = 0
    alone: dict[str, int] = field(default_factory=dict)
    """Rows, and how often the process ended while one was worked on alone."""


@dataclass(frozen=True)
class RunSettings:
    """What a run is: all that decides about the bytes in DEST, but for the source."""

    model: str
    weights: str
    options: Mapping[str, Any]
    shard_size: int = 64
    outputs: tuple[str, ...] = ("json",)
    redline: str = ""
    """The version of the library."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", listed(self.outputs))
        if not self.outputs or set(self.outputs) - set(OUTPUTS):
            raise DataError(f"outputs are {', '.join(self.outputs)}; allowed are {', '.join(OUTPUTS)}")
        if self.shard_size < 1:
            raise DataError(f"shard_size is {self.shard_size}; allowed are 1 and above")

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": LEDGER_VERSION,
            "redline": self.redline,
            "model": self.model,
            "weights": self.weights,
            "options": dict(self.options),
            "shard_size": self.shard_size,
            "outputs": sorted(self.outputs),
        }


def _encoded(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode("utf-8", "backslashreplace")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, prefix=f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value, sort_keys=True)
    return flat


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, in words."""
    before, other = _flat(there), _flat(here)
    keys = [key for key in dict.fromkeys((*before, *other)) if before.get(key) != other.get(key)]
    return [
        f"{key.removeprefix('options.')}: {before.get(key, 'not given')}, now {other.get(key, 'not given')}"
        for key in keys
    ]


class Ledger:
    """The files of one run in a store."""

    def __init__(self, store: ArchiveStore, settings: RunSettings) -> None:
        self.store, self.settings = store, settings
        self._keeps_json = "json" in settings.outputs

    def open(self) -> None:
        """Begin the run, or go on with it; raises `RedlineError` where DEST holds another one."""
        here = self.settings.to_dict()
        data = self.store.create(RUN, _encoded(here))
        try:
            there = json.loads(data)
        except ValueError as error:
            raise DataError(f"{self.store.address}/{RUN}: is not JSON ({error}); choose another folder") from error
        if not isinstance(there, dict):
            raise DataError(f"{self.store.address}/{RUN}: is not of redline batch; choose another folder")
        if different := differences(there, json.loads(_encoded(here))):
            raise RedlineError(
                f"{self.store.address}: holds another run ({'; '.join(different)}); give the options it was begun "
                "with, or choose another --out"
            )

    def manifest(self, shard: Shard) -> ShardManifest | None:
        """What came of a shard; None where it has not been finished, or the source had other rows then."""
        data = self.store.read(f"shards/{shard.number:06}.json")
        if data is None:
            return None
        try:
            manifest: ShardManifest = value_of(ShardManifest, json.loads(data), "manifest")
        except (TypeError, ValueError, RecursionError) as error:
            where = f"{self.store.address}/shards/{shard.number:06}.json"
            advice = "remove it, and its recordings are done again"
            raise DataError(f"{where}: is no manifest of a shard ({error}); {advice}") from error
        return manifest if manifest.digest == shard.digest and manifest.version == LEDGER_VERSION else None

    def transcript_name(self, shard: Shard, id: str) -> str:
        return f"json/{id[:2]}/{id}.json" if self._keeps_json else f"partial/{shard.number:06}/{id}.json"

    def has(self, shard: Shard, id: str) -> bool:
        """Whether the transcript of a content is there."""
        return self.store.exists(self.transcript_name(shard, id))

    def transcript(self, shard: Shard, id: str) -> bytes | None:
        """The JSON of a transcript; None where it is not there."""
        return self.store.read(self.transcript_name(shard, id))

    def keep(self, shard: Shard, id: str, data: bytes) -> None:
        """Write the JSON of a transcript."""
        self.store.write(self.transcript_name(shard, id), data)

    def finish(self, shard: Shard, results: Sequence[RowResult]) -> ShardManifest:
        """All rows of a shard have a result: write its files, the manifest last."""
        manifest = ShardManifest(shard.number, shard.digest, tuple(sorted(results, key=lambda each: each.row)))
        if [each.row for each in manifest.recordings] != [each.row for each in shard.recordings]:
            raise AssertionError(f"shard {shard.number} has {len(results)} results of {len(shard.recordings)} rows")
        name = f"{shard.number:06}"
        if "parquet" in self.settings.outputs:
            table = self._parquet(shard, manifest)
            if table is None and (there := self.manifest(shard)) is not None:
                return there  # another machine has finished the same, and removed what was partial
            if table is None:
                gone = f"{self.store.address}: a transcript of shard {name} is gone, though it was written"
                raise RedlineError(f"{gone}; the same command writes it again")
            self.store.write(f"parquet/{name}.parquet", table)
        failed = [each.to_dict() for each in manifest.recordings if not each.is_done]
        if failed:
            self.store.write(f"failed/{name}.json", _encoded({"shard": shard.number, "recordings": failed}))
        elif self.store.exists(f"failed/{name}.json"):
            self.store.remove(f"failed/{name}.json")
        self.store.write(f"shards/{name}.json", _encoded(manifest.to_dict()))
        if manifest.left:
            self.leave(shard)
        else:
            self.tidy(shard)
        return manifest

    def _parquet(self, shard: Shard, manifest: ShardManifest) -> bytes | None:
        """None where a transcript is not there."""
        from redline.cluster.table import shard_table

        rows = []
        for recording, each in zip(shard.recordings, manifest.recordings, strict=True):
            data = self.transcript(shard, each.id) if each.is_done and each.id is not None else None
            if each.is_done and data is None:
                return None
            rows.append((recording, each, data))
        return shard_table(rows)

    def begin(self, shard: Shard) -> Starts:
        """Say that work on a shard begins; returns how often it did, this time included."""
        starts = self._starts(shard)
        starts = replace(starts, starts=starts.starts + 1)
        self._write_starts(shard, starts)
        return starts

    def advance(self, shard: Shard) -> None:
        """A recording of the shard was done: the process does not end before."""
        if not (starts := self._starts(shard)).alone:
            self._write_starts(shard, replace(starts, starts=0))

    def work_alone(self, shard: Shard, recording: SourceRecording) -> int:
        """Say that one recording is worked on alone; returns how often the process ended over it before."""
        starts = self._starts(shard)
        before = starts.alone.get(str(recording.row), 0)
        self._write_starts(shard, replace(starts, alone=starts.alone | {str(recording.row): before + 1}))
        return before

    def survived(self, shard: Shard, recording: SourceRecording) -> None:
        """Work on a recording alone has ended, one way or another."""
        starts = self._starts(shard)
        alone = {row: count for row, count in starts.alone.items() if row != str(recording.row)}
        self._write_starts(shard, replace(starts, alone=alone))

    def leave(self, shard: Shard) -> None:
        """The process ends in order, before the shard is done."""
        self._write_starts(shard, Starts())

    def begun(self) -> set[int]:
        """The shards that are in work, or were when a process ended."""
        names = (name.removesuffix(".json") for name in self.store.names("starts"))
        return {int(name) for name in names if name.isdecimal()}

    def tidy(self, shard: Shard) -> None:
        """Remove what only served a shard that is done."""
        if not self._keeps_json:
            for name in self.store.names(f"partial/{shard.number:06}"):
                self.store.remove(f"partial/{shard.number:06}/{name}")
        self.store.remove(f"starts/{shard.number:06}.json")

    def _starts(self, shard: Shard) -> Starts:
        data = self.store.read(f"starts/{shard.number:06}.json")
        try:
            values = {} if data is None else json.loads(data)
            alone = {str(row): int(count) for row, count in values.get("alone", {}).items()}
            return Starts(int(values.get("starts", 0)), alone)
        except (AttributeError, TypeError, ValueError):  # it only says how careful to be
            return Starts()

    def _write_starts(self, shard: Shard, starts: Starts) -> None:
        self.store.write(f"starts/{shard.number:06}.json", _encoded(starts.to_dict()))
