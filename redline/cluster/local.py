"""A run, or every n-th shard of it, in this process: no Ray, nobody to talk to.

n processes that take every n-th shard each make the same as one, on one machine or on many that see the same DEST.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from threading import Lock

from redline.cluster import stages
from redline.cluster.ledger import ATTEMPTS, Ledger, RowResult, ShardManifest
from redline.cluster.progress import OnProgress, ShardShare, Tally, rows_left, unfinished
from redline.cluster.report import BatchReport
from redline.cluster.source import Shard, Source, SourceRecording
from redline.cluster.stages import PlanBook, Scorer, StageClock
from redline.cluster.store import StoreError, UnreadableError
from redline.engine.recordings import Flight, Recording
from redline.engine.scheduler import IsolatingScheduler
from redline.errors import RedlineError, UnsupportedTaskError
from redline.transcriber import Transcriber
from redline.types import Transcript

_log = logging.getLogger(__name__)
_AHEAD_S = 600.0  # sound that may wait for its text, as for any list of recordings
_READ_AHEAD = 4  # recordings that are fetched from buckets and web servers at once, while batches run
STARTS = 3
"""So many starts of a shard without one recording done, and its recordings are worked on one by one."""


class _DoneElsewhereError(RedlineError):
    """The transcript of this content is there, or being made."""


@dataclass
class ShardWork:
    """A shard that is in work."""

    shard: Shard
    attempts: dict[int, int]
    """Of its rows before this run."""
    results: dict[int, RowResult] = field(default_factory=dict)
    has_advanced: bool = False
    """Whether it is written that the process survives this shard."""


class _RowRecording(Recording):
    """A recording of a shard; `id` is known once it was opened."""

    work: ShardWork
    row: SourceRecording
    clock: StageClock
    """Of reading, decoding and speech detection in this process."""
    id: str | None = None
    known: bytes | None = None
    """The JSON of its transcript, where that is there."""

    def read(self) -> None:
        with self.clock:
            super().read()


class _TimedScheduler(IsolatingScheduler):
    """A scheduler whose work is timed."""

    watch: StageClock
    tally: Tally

    def step(self) -> bool:
        began_s = self.tally.wall_s
        with self.watch:
            has_worked = super().step()
        if has_worked:
            self.tally.has_started(began_s)
        return has_worked


class LocalRun:
    """The shards of one process: recordings of all of them share batches."""

    def __init__(
        self,
        ledger: Ledger,
        source: Source,
        transcriber: Transcriber,
        plans: PlanBook,
        share: ShardShare = ShardShare(),  # noqa: B008
        *,
        scorer: Scorer | None = None,
        retry_failed: bool = False,
        on_progress: OnProgress = lambda tally: None,
    ) -> None:
        self._ledger, self._source, self._share = ledger, source, share
        self._transcriber, self._plans, self._scorer = transcriber, plans, scorer
        self._retry_failed, self._on_progress = retry_failed, on_progress
        self.tally = Tally()
        self._working: dict[int, ShardWork] = {}
        self._lock = Lock()  # recordings are opened by threads
        self._in_work: dict[str, _RowRecording] = {}  # by id
        self._twins: dict[str, list[_RowRecording]] = {}  # that wait for the one in work with their content
        self._reading, self._recognizing, self._writing = StageClock(time.thread_time), StageClock(), StageClock()

    def run(self, *, price: float | None = None) -> BatchReport:
        """Work until all is done, and write the report; raises `StoreError` where DEST or the source fail for good."""
        self._ledger.open()
        tally, children_s = self.tally, stages.children_cpu_s()
        tally.recordings = self._share.recordings_of(self._source.count(), self._ledger.settings.shard_size)
        try:
            self._recognize(self._recordings())
        finally:
            with suppress(StoreError):  # else it counts as one more start in vain
                for work in self._working.values():
                    self._ledger.leave(work.shard)
        tally.decode_cpu_s = self._reading.seconds + stages.children_cpu_s() - children_s
        tally.recognize_s, tally.write_s = self._recognizing.seconds, self._writing.seconds
        return tally.report("local", self._transcriber.name, self._source, price=price)

    def _recordings(self) -> Iterator[_RowRecording]:
        """Those that are to be recognized, shard by shard."""
        for shard, manifest in unfinished(
            self._ledger, self._source, self._share, self.tally, retry_failed=self._retry_failed
        ):
            work = self._begun(shard, manifest)
            rows = [row for row in shard.recordings if row.row not in work.results]
            starts = self._ledger.begin(shard)
            if starts.starts > STARTS or starts.alone:
                self._work_alone(work, rows)
            else:
                yield from (self._row_recording(work, row) for row in rows)

    def _begun(self, shard: Shard, manifest: ShardManifest | None) -> ShardWork:
        work = self._working[shard.number] = ShardWork(shard, {})
        if manifest is not None:
            again = rows_left(manifest, retry_failed=self._retry_failed)
            work.attempts = {each.row: each.attempts for each in manifest.recordings}
            work.results = {each.row: each for each in manifest.recordings if each.row not in again}
            for result in work.results.values():
                self.tally.settle(result)
        return work

    def _work_alone(self, work: ShardWork, rows: list[SourceRecording]) -> None:
        """Recordings one by one, since the process keeps ending before one of the shard is done.

        One over which it has ended `ATTEMPTS` times is left out.
        """
        number = work.shard.number
        _log.warning("shard %d was begun %d times in vain; its recordings are done one by one", number, STARTS)
        for row in rows:
            before = self._ledger.work_alone(work.shard, row)
            if before >= ATTEMPTS:
                reason = f"the process ended {before} times while it was worked on alone; it is left out"
                self._settle(work, stages.failure_of(row, reason, before))
            else:
                self._recognize(iter((self._row_recording(work, row),)))
            self._ledger.survived(work.shard, row)

    def _row_recording(self, work: ShardWork, row: SourceRecording) -> _RowRecording:
        """A recording on its way; what keeps it from that is raised where it is opened."""
        try:
            plan = self._plans.plan(row)
        except RedlineError as error:
            problem = error

            def refuse() -> object:
                raise problem

            recording = _RowRecording(refuse, self._plans.usual.session(self._transcriber.embedder))  # type: ignore[arg-type]
        else:

            def opened() -> object:
                found = stages.open_recording(row, plan.audio)
                with self._lock:
                    recording.id = found.id
                    self.tally.read_bytes += found.size
                    first = self._in_work.setdefault(found.id, recording)
                    if first is not recording:
                        self._twins.setdefault(found.id, []).append(recording)
                if first is recording:
                    recording.known = stages.known_transcript(self._ledger, work.shard, found.id)
                if first is not recording or recording.known is not None:
                    found.reader.close()
                    raise _DoneElsewhereError(found.id)
                return found.reader

            session = plan.session(self._transcriber.embedder)
            recording = _RowRecording(opened, session, digits=plan.digits)  # type: ignore[arg-type]
        recording.work, recording.row, recording.clock = work, row, self._reading
        return recording

    def _recognize(self, recordings: Iterator[_RowRecording]) -> None:
        options = self._transcriber.batch
        if "://" in self._source.address:
            options = replace(options, read_ahead=max(options.read_ahead, _READ_AHEAD))
        scheduler = _TimedScheduler(self._transcriber.recognizer, options)
        scheduler.watch, scheduler.tally = self._recognizing, self.tally
        flight = Flight(recordings, scheduler, ahead_s=_AHEAD_S, most_ahead_s=_AHEAD_S)
        with closing(flight):
            for _ in flight.ticks():
                for recording in flight.take_finished():
                    assert isinstance(recording, _RowRecording)
                    self._finish(recording)

    def _finish(self, recording: _RowRecording) -> None:
        """A recording has its transcript, or its error."""
        work, id = recording.work, recording.id
        outcome: Transcript | RedlineError | None
        try:
            outcome = recording.result()
        except UnsupportedTaskError as refused:
            outcome = refused
        if isinstance(outcome, StoreError) and not isinstance(outcome, UnreadableError):
            raise outcome  # it is DEST that failed
        data = recording.known
        if isinstance(outcome, _DoneElsewhereError) and data is None:
            return  # it is settled with its twin
        if isinstance(outcome, Transcript) and id is not None:
            data = stages.render(outcome)
            with self._writing:
                self._ledger.keep(work.shard, id, data)
            self.tally.written_bytes += len(data)
            self.tally.recognized += 1
            self.tally.recognized_s += outcome.duration
        with self._lock:
            twins = self._twins.pop(id or "", [])
            if id is not None and self._in_work.get(id) is recording:
                del self._in_work[id]
        for each in (recording, *twins):
            self._settle(each.work, self._result(each, data, outcome))

    def _result(self, recording: _RowRecording, data: bytes | None, outcome: object) -> RowResult:
        """What came of a recording whose transcript is `data`, or whose outcome is an error."""
        row, work, id = recording.row, recording.work, recording.id
        if data is None or id is None:
            assert isinstance(outcome, RedlineError)
            return stages.failure_of(row, outcome, work.attempts.get(row.row, 0) + 1, id)
        if not self._ledger.has(work.shard, id):  # where each shard has transcripts of its own
            self._ledger.keep(work.shard, id, data)
        return stages.result_of(row, id, data, self._scorer)

    def _settle(self, work: ShardWork, result: RowResult) -> None:
        """One row more has its result; the last one finishes the shard."""
        work.results[result.row] = result
        self.tally.settle(result)
        if len(work.results) == len(work.shard.recordings):
            with self._writing:
                manifest = self._ledger.finish(work.shard, list(work.results.values()))
            self.tally.finish(work.results.values(), manifest.recordings)
            del self._working[work.shard.number]
        elif not work.has_advanced:
            work.has_advanced = True
            self._ledger.advance(work.shard)
        self._on_progress(self.tally)
