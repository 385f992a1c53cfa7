"""How far a run is: counted while it goes on, and told in its report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from redline.cluster.ledger import Ledger, RowResult, ShardManifest
from redline.cluster.report import BatchEngine, BatchReport, BatchScore, FailedRecording, StageRates
from redline.cluster.source import Shard, Source
from redline.errors import DataError

_MOST_FAILURES = 1000
_SHARDS_AHEAD, _READERS = 64, 16  # manifests that are read together: a bucket answers many at once as fast as one


@dataclass(frozen=True)
class ShardShare:
    """Which shards of a source are this machine's: every `count`-th, from number `index` on."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise DataError(f"shard {self.index}/{self.count}: allowed are 1/{self.count} to {self.count}/{self.count}")

    def has(self, shard: Shard) -> bool:
        return shard.number % self.count == self.index - 1

    def recordings_of(self, recordings: int, shard_size: int) -> int:
        """How many of so many recordings are in this machine's shards."""
        firsts = range((self.index - 1) * shard_size, recordings, self.count * shard_size)
        return sum(min(shard_size, recordings - first) for first in firsts)


@dataclass
class Tally:
    """What is done, what failed, and what it cost."""

    recordings: int = 0
    """Of the source, as far as they are this run's."""
    done: int = 0
    failed: int = 0
    audio_s: float = 0.0
    settled: int = 0
    settled_s: float = 0.0
    """Of recordings that have their result, in shards that are not done yet."""
    recognized: int = 0
    recognized_s: float = 0.0
    """Of sound that this run recognized."""
    decode_cpu_s: float = 0.0
    recognize_s: float = 0.0
    write_s: float = 0.0
    driver_s: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    words: int = 0
    errors: int = 0
    scored: int = 0
    failures: list[FailedRecording] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    start_s: float | None = None
    """From `began` to the first batch."""

    def has_started(self, at_s: float) -> None:
        """A batch was begun; the first one counts."""
        if self.start_s is None:
            self.start_s = at_s

    def settle(self, result: RowResult) -> None:
        """A recording of a shard that is not done yet has its result."""
        self.settled += 1
        self.settled_s += result.duration

    def finish(self, settled: Iterable[RowResult], results: Iterable[RowResult]) -> None:
        """A shard is done, whose recordings were settled one by one."""
        for result in settled:
            self.settled -= 1
            self.settled_s -= result.duration
        self.add(results)

    def add(self, results: Iterable[RowResult]) -> None:
        """A shard is done."""
        for result in results:
            if result.is_done:
                self.done += 1
                self.audio_s += result.duration
                if result.words is not None and result.errors is not None:
                    self.scored += 1
                    self.words += result.words
                    self.errors += result.errors
            else:
                self.failed += 1
                if len(self.failures) < _MOST_FAILURES:
                    reason = result.reason or ""
                    self.failures.append(FailedRecording(result.audio, reason, result.attempts, result.id))

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def left_s(self) -> float | None:
        """About how long it will take, at the pace since the first batch; None while that cannot be told."""
        here = self.recognized + self.failed
        left = self.recordings - self.done - self.failed - self.settled
        return (self.wall_s - (self.start_s or 0.0)) * left / here if here and left >= 0 else None

    def report(
        self,
        engine: BatchEngine,
        model: str,
        source: Source,
        *,
        machines: int = 1,
        decode_workers: int = 1,
        recognize_workers: int = 1,
        price: float | None = None,
    ) -> BatchReport:
        hours = self.recognized_s / 3600
        rates = StageRates(
            self.decode_cpu_s / hours if hours else None,
            self.recognize_s / hours if hours else None,
            self.write_s / self.recognized if self.recognized else None,
            self.driver_s / self.recognized if self.recognized else None,
            self.read_bytes,
            self.written_bytes,
            self.start_s,
        )
        return BatchReport(
            engine,
            model,
            source.address,
            self.recordings,
            self.done,
            self.failed,
            self.audio_s / 3600,
            self.recognized,
            hours,
            self.wall_s,
            machines,
            decode_workers,
            recognize_workers,
            rates,
            tuple(self.failures),
            BatchScore(self.scored, self.words, self.errors) if self.scored else None,
            price,
        )


OnProgress = Callable[[Tally], None]


def unfinished(
    ledger: Ledger, source: Source, share: ShardShare, tally: Tally, *, retry_failed: bool
) -> Iterator[tuple[Shard, ShardManifest | None]]:
    """The shards that are to be worked on, with what is known of them; those that are done are counted."""
    begun = ledger.begun()
    shards = (shard for shard in source.shards(ledger.settings.shard_size) if share.has(shard))
    ahead: deque[tuple[Shard, Future[ShardManifest | None]]] = deque()
    with ThreadPoolExecutor(_READERS) as readers:
        while True:
            for shard in islice(shards, _SHARDS_AHEAD - len(ahead)):
                ahead.append((shard, readers.submit(ledger.manifest, shard)))
            if not ahead:
                return
            shard, reading = ahead.popleft()
            manifest = reading.result()
            if manifest is None or rows_left(manifest, retry_failed=retry_failed):
                yield shard, manifest
                continue
            tally.add(manifest.recordings)
            if shard.number in begun and not manifest.left:
                ledger.tidy(shard)


def rows_left(manifest: ShardManifest, *, retry_failed: bool) -> set[int]:
    """The rows that are to be tried again; with `retry_failed` also those that would not be."""
    return {each.row for each in manifest.recordings if not each.is_done} if retry_failed else manifest.left
