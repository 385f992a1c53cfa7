"""A run on Ray: the process that hands out the work, hears what came of it, and says in DEST what is done.

Three stages with fixed pools: decoders are tasks of Ray whose results come one by one, workers are actors, writers are
tasks. A worker holds two loads at most and a decoder two that nobody has taken, so sound waits nowhere in heaps. Ray
may lose or repeat anything: what is done is what DEST says, and what did not come back is tried again, alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redline.cluster import ray_stages, stages
from redline.cluster.ledger import ATTEMPTS, Ledger, RowResult, ShardManifest
from redline.cluster.progress import ShardShare, Tally, rows_left, unfinished
from redline.cluster.ray_bundles import Bundle, first_bundles
from redline.cluster.ray_stages import Load, Loader, Probe, RayRunSpec, RayTask, StageCosts
from redline.cluster.ray_start import RayOptions, cause_of, error_of, ray_package
from redline.cluster.report import BatchReport
from redline.cluster.source import Shard, Source, SourceRecording
from redline.cluster.stages import Scorer
from redline.cluster.store import StoreError
from redline.errors import RedlineError
from redline.transcriber import Transcriber

_log = logging.getLogger(__name__)
WAVE = 20_000
"""Recordings that are taken on at once: what this process has to remember does not grow with the source."""
_HEADROOM = 1.25  # of decoders over what the rates ask for
_PROBED = 3  # recordings
_LOADS_AHEAD = 2  # of a worker: one is brought while another is recognized
_LOOK_S = 5.0
_PATIENCE_S = 120.0  # that what failed waits for a worker that is being started, as it may be on another node
OnRayProgress = Callable[[Tally, int], None]
Asked = Callable[[Transcriber], Mapping[str, Any]]


@dataclass
class _OpenShard:
    """A shard that is in work."""

    shard: Shard
    attempts: dict[int, int]
    results: dict[int, RowResult]


@dataclass(eq=False)
class _Worker:
    """An actor, and how many loads it has."""

    actor: Any
    loads: int = 0
    is_ready: bool = False
    node: str = ""
    """Ray's id of where it is, or, until it is ready, should be."""


class RayRun:
    """One run; `run` may be called once."""

    def __init__(
        self,
        ledger: Ledger,
        source: Source,
        loading: Loader,
        asked: Asked,
        options: RayOptions = RayOptions(),  # noqa: B008
        *,
        scorer: Scorer | None = None,
        retry_failed: bool = False,
        on_progress: OnRayProgress = lambda tally, machines: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._ledger, self._source, self._loading, self._asked = ledger, source, loading, asked
        self._options, self._scorer, self._retry_failed = options, scorer, retry_failed
        self._on_progress, self._say = on_progress, say
        self.tally, self._costs = Tally(), StageCosts()
        self._machines, self._workers, self._decoders, self._side_by_side = 1, 1, 1, 1
        self._open: dict[int, _OpenShard] = {}
        self._queue: deque[Bundle] = deque()
        self._loads: deque[tuple[Any, Bundle]] = deque()  # decoded, for the next worker that is free
        self._reading: dict[Any, Bundle] = {}  # by what a decoder gives
        self._starting: dict[Any, _Worker] = {}  # by what tells that a model is loaded
        self._recognizing: dict[Any, _Worker] = {}
        self._writing: dict[Any, Bundle] = {}
        self._finishing: dict[Any, Shard] = {}
        self._pool: list[_Worker] = []
        self._failed_starts = 0
        self._lost: dict[int, int] = {}  # by row: how often it was lost when it was alone
        self._spec: RayRunSpec

    def run(self, *, price: float | None = None) -> BatchReport:
        """Work until all is done; Ray is left as it is."""
        ray = ray_package()
        self._ledger.open()
        tally, cpu_s = self.tally, time.process_time()
        tally.recordings = self._source.count()
        model = ""
        shards = unfinished(self._ledger, self._source, ShardShare(), tally, retry_failed=self._retry_failed)
        try:
            for wave in self._waves(shards):
                if not model:
                    model = self._plan(wave[:_PROBED])
                self._queue.extend(first_bundles(wave, self._workers))
                self._work()
        finally:
            for worker in list(self._pool):
                self._dismiss(worker)
        self._machines = sum(bool(node["Alive"]) for node in ray.nodes())
        tally.driver_s = time.process_time() - cpu_s
        return tally.report(
            "ray", model, self._source,
            machines=self._machines, decode_workers=self._decoders, recognize_workers=self._workers, price=price,
        )  # fmt: skip

    def _waves(self, shards: Iterator[tuple[Shard, ShardManifest | None]]) -> Iterator[list[RayTask]]:
        """The recordings that are to be done, in runs of whole shards."""
        wave: list[RayTask] = []
        for shard, manifest in shards:
            opened = self._open[shard.number] = _OpenShard(shard, {}, {})
            if manifest is not None:
                again = rows_left(manifest, retry_failed=self._retry_failed)
                opened.attempts = {each.row: each.attempts for each in manifest.recordings}
                opened.results = {each.row: each for each in manifest.recordings if each.row not in again}
                for result in opened.results.values():
                    self.tally.settle(result)
            rows = (row for row in shard.recordings if row.row not in opened.results)
            wave += [RayTask(shard.number, row, opened.attempts.get(row.row, 0)) for row in rows]
            if len(wave) >= WAVE:
                yield wave
                wave = []
        if wave:
            yield wave

    def _plan(self, sample: Sequence[RayTask]) -> str:
        """Have one worker load the model and measure; decide on the pools. Returns the model's name."""
        ray = ray_package()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._machines, options = len(nodes), self._options
        gpus = int(ray.cluster_resources().get("GPU", 0))
        on_gpus = bool(gpus) if options.on_gpus is None else options.on_gpus
        cpus = max(1.0, min(node["Resources"].get("CPU", 1.0) for node in nodes))
        self._workers = options.workers or (max(1, gpus) if on_gpus else len(nodes))
        side_by_side = self._side_by_side = math.ceil(self._workers / len(nodes))
        threads = options.worker_cpus or max(1, int(cpus / side_by_side))
        # Shares of a CPU are tickets here: all pools have room at the same time, whatever their sizes.
        share = {"num_gpus": 1, "num_cpus": 0} if on_gpus else {"num_cpus": cpus / 2 / side_by_side}
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
        self._worker_options = {**share, "scheduling_strategy": "SPREAD", "runtime_env": environment}
        found = self._probe([each.row for each in sample])
        self._spec = RayRunSpec(self._ledger.store.address, self._ledger.settings, found.plans, self._scorer)
        if options.decoders is not None:
            self._decoders, why = options.decoders, "as asked"
        elif found.recognize_s:
            asked = self._workers * found.decode_cpu_s / found.recognize_s
            self._decoders = max(1, math.ceil(_HEADROOM * asked))
            why = (
                f"an hour of audio takes a decoder {found.decode_cpu_s:.1f} s and a worker {found.recognize_s:.1f} s, "
                f"so all workers keep {asked:.2f} decoders busy"
            )
        else:
            self._decoders, why = len(nodes), "nothing could be measured: one per machine"
        tickets = min(1.0, 0.4 * cpus / math.ceil(self._decoders / len(nodes)))
        self._decode = ray.remote(
            num_returns="streaming", num_cpus=tickets, max_retries=ATTEMPTS, _generator_backpressure_num_objects=2
        )(ray_stages.decode_recordings)
        writing = ray.remote(num_cpus=0.05 * cpus, max_retries=ATTEMPTS)  # two processes of a machine
        self._write, self._stitch = writing(ray_stages.write_recordings), writing(ray_stages.stitch)
        self._finish = writing(finish_shard)
        self._say(f"machines: {self._machines}, workers: {self._workers}, decoders: {self._decoders} ({why})")
        return found.model

    def _probe(self, rows: list[SourceRecording]) -> Probe:
        """Where a recording ends the process that measures, nothing is measured."""
        ray = ray_package()
        for sample, tries in (rows, 0), ([], ATTEMPTS):
            task = ray.remote(max_retries=tries, **self._worker_options)(ray_stages.probe)
            try:
                found: Probe = ray.get(task.remote(self._loading, self._asked, sample))
                return found
            except ray.exceptions.RayTaskError as error:
                raise cause_of(error) from error
            except ray.exceptions.RayError as error:
                trouble = error
                _log.warning("measuring ended with its process: %s", error)
        raise RedlineError(f"workers cannot be started: {' '.join(str(trouble).split()):.500}") from trouble

    def _work(self) -> None:
        """Until every recording of the queue has its result, and every shard of it its manifest."""
        ray = ray_package()
        while self._queue or self._reading or self._loads or self._recognizing or self._writing or self._finishing:
            self._keep_workers()
            while self._queue and len(self._reading) < self._decoders and len(self._loads) < self._workers:
                bundle = self._queue.popleft()
                decode = self._decode_elsewhere(bundle) if bundle.before.decoders else self._decode
                self._reading[decode.remote(list(bundle.missing.values()), self._spec)] = bundle
            self._hand_out()
            decoded = self._reading if len(self._loads) < 2 * self._workers else {}
            waiting = [*decoded, *self._starting, *self._recognizing, *self._writing, *self._finishing]
            ready, _ = ray.wait(waiting, num_returns=1, timeout=_LOOK_S, fetch_local=False)
            more, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
            for ref in dict.fromkeys((*ready, *more)):
                self._collect(ref)
            self._on_progress(self.tally, self._machines)

    def _keep_workers(self) -> None:
        """As many as were planned, or as the machines that are left have room for beside their decoders."""
        if len(self._pool) == self._workers and not self._starting:
            return
        room = self._workers
        if not self._worker_options.get("num_gpus"):
            room = min(room, self._side_by_side * len(_alive_nodes()))
        while len(self._pool) < room:
            self._hire()
        surplus = max(0, len(self._pool) - room)
        for worker in list(self._starting.values())[:surplus]:  # meant for a machine that is lost
            self._dismiss(worker)

    def _hire(self) -> None:
        """One worker more, on the node that has the fewest; it gets loads once its model is loaded."""
        ray = ray_package()
        options, node = dict(self._worker_options), ""
        if not options.get("num_gpus"):  # of GPUs Ray knows where one is free
            node = min(_alive_nodes(), key=lambda node: sum(worker.node == node for worker in self._pool))
            options["scheduling_strategy"] = _preferably_on(node)
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(ray_stages.RecognizeWorker)
        worker = _Worker(actor.remote(self._loading, self._spec), node=node)
        self._pool.append(worker)
        self._starting[worker.actor.ready.remote()] = worker

    def _dismiss(self, worker: _Worker) -> None:
        ray = ray_package()
        self._pool.remove(worker)
        self._starting = {ref: each for ref, each in self._starting.items() if each is not worker}
        ray.kill(worker.actor)

    def _hand_out(self) -> None:
        """Give loads to the workers that have the fewest; what failed before, to those on another node."""
        for _ in range(len(self._loads)):
            load, bundle = self._loads.popleft()
            ready = [worker for worker in self._pool if worker.is_ready]
            elsewhere = [worker for worker in ready if worker.node not in bundle.before.workers]
            free = [worker for worker in elsewhere or ready if worker.loads < _LOADS_AHEAD]
            is_patient = time.monotonic() - bundle.since < _PATIENCE_S
            if not free or (bundle.before.workers and not elsewhere and self._starting and is_patient):
                self._loads.append((load, bundle))
                continue
            worker = min(free, key=lambda worker: worker.loads)
            bundle.now.workers.add(worker.node)
            self.tally.has_started(self.tally.wall_s)
            done, answered = worker.actor.recognize.options(num_returns=2).remote(load)
            worker.loads += 1
            self._recognizing[done] = worker
            self._writing[self._write.remote(answered, self._spec)] = bundle

    def _decode_elsewhere(self, bundle: Bundle) -> Any:
        """Decoding on a node on which the bundle has not failed, where there is one."""
        nodes = [node for node in _alive_nodes() if node not in bundle.before.decoders]
        if not nodes:
            return self._decode
        strategy = _preferably_on(nodes[next(iter(bundle.missing)) % len(nodes)])
        return self._decode.options(scheduling_strategy=strategy)

    def _collect(self, ref: Any) -> None:
        """Something is ready: a load is decoded, a worker free, a load written, a shard finished."""
        ray = ray_package()
        if (bundle := self._reading.get(ref)) is not None:
            try:
                self._loads.append((next(ref), bundle))
                bundle.loads += 1
            except StopIteration:
                del self._reading[ref]
                bundle.is_read = True
                self._close(bundle)
        elif (starting := self._starting.pop(ref, None)) is not None:
            error = error_of(ref)
            starting.is_ready = error is None
            starting.node = "" if error is not None else ray.get(ref)
            self._failed_starts = 0 if error is None else self._failed_starts + 1
            if error is not None:
                _log.warning("a worker could not be started: %s", error)
                self._dismiss(starting)
            if error is not None and self._failed_starts >= ATTEMPTS * self._workers:
                raise RedlineError(f"workers cannot be started: {' '.join(str(error).split()):.500}") from error
        elif ref in self._recognizing:
            worker = self._recognizing.pop(ref)
            worker.loads -= 1
            if isinstance(error_of(ref), ray.exceptions.RayActorError) and worker in self._pool:
                self._dismiss(worker)
        elif (bundle := self._writing.pop(ref, None)) is not None:
            bundle.loads -= 1
            try:
                self._take(ray.get(ref), bundle)
            except ray.exceptions.RayError as error:
                bundle.trouble = " ".join(str(cause_of(error)).split())[:300]
                _log.warning("a load was lost: %s", bundle.trouble)
            self._close(bundle)
        else:
            shard = self._finishing.pop(ref)
            try:
                manifest = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise cause_of(error) from error
            self.tally.finish(self._open.pop(shard.number).results.values(), manifest.recordings)

    def _take(self, load: Load, bundle: Bundle) -> None:
        """What came out of the stages."""
        if load.problem is not None:
            raise StoreError(load.problem)
        self._costs.add(load.costs)
        bundle.now.decoders.update(load.nodes)
        for name, value in vars(self._costs).items():
            setattr(self.tally, name, value)
        for task, result in load.results:
            if bundle.missing.pop(task.row.row, None) is None:
                continue  # it came twice
            if result.is_done or result.is_final:
                self._settle(task, result)
            else:  # another time, on whichever machine, it may go better
                self._queue.extend(bundle.again([replace(task, attempts=result.attempts)]))
        for part in load.parts:
            row = part.task.row.row
            if row in bundle.missing:
                parts = bundle.parts.setdefault(row, {})
                parts[part.part] = part
                total = next((each.parts for each in parts.values() if each.parts), 0)
                if total and len(parts) == total + 1:  # the session is the last of them
                    bundle.loads += 1
                    self._writing[self._stitch.remote(list(bundle.parts.pop(row).values()), self._spec)] = bundle

    def _close(self, bundle: Bundle) -> None:
        """Where nothing of a bundle is on its way any more, what did not come back was lost with a process.

        It is tried in smaller company then, and at last alone, so that it takes nobody with it; what was lost
        `ATTEMPTS` times alone is left out.
        """
        if bundle.loads or not bundle.is_read:
            return
        tasks = list(bundle.missing.values())
        if bundle.is_alone and tasks:
            row = tasks[0].row.row
            self._lost[row] = self._lost.get(row, 0) + 1
            if self._lost[row] >= ATTEMPTS:
                reason = f"lost {ATTEMPTS} times with the process that worked on it alone: {bundle.trouble}"
                self._settle(tasks[0], stages.failure_of(tasks[0].row, reason, ATTEMPTS))
                return
        self._queue.extend(bundle.again(tasks))

    def _settle(self, task: RayTask, result: RowResult) -> None:
        """A recording has its result; whoever is free finishes a shard that has all."""
        opened = self._open[task.shard]
        opened.results[result.row] = result
        self.tally.settle(result)
        if len(opened.results) == len(opened.shard.recordings):
            results = list(opened.results.values())
            self._finishing[self._finish.remote(self._spec, opened.shard, results)] = opened.shard


def _alive_nodes() -> list[str]:
    return [node["NodeID"] for node in ray_package().nodes() if node["Alive"]]


def _preferably_on(node: str) -> Any:
    """Where there is room on a node: there."""
    return ray_package().util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)


def finish_shard(spec: RayRunSpec, shard: Shard, results: list[RowResult]) -> ShardManifest:
    """Write the files of a shard whose recordings all have a result."""
    return spec.ledger().finish(shard, results)
