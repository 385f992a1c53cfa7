"""The stages as Ray runs them: plain functions and one class, between which pickled data travels.

read + decode + speech detection (CPU) -> recognize (an actor around the one scheduler) -> stitch + write
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redline.cluster import stages
from redline.cluster.ledger import Ledger, RowResult, RunSettings
from redline.cluster.ray_start import this_node
from redline.cluster.source import Shard, SourceRecording
from redline.cluster.stages import PlanBook, Scorer
from redline.cluster.store import StoreError, UnreadableError, open_store
from redline.engine.recording_plan import RecordingPlan
from redline.engine.scheduler import IsolatingScheduler
from redline.errors import RedlineError
from redline.longform.session import Session
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Request, Transcript

LOAD_S = 600.0
"""Sound that a worker gets at once: launches are full, and a copy of it is some 40 MB."""
Loader = Callable[[], Transcriber]


@dataclass(frozen=True)
class RayRunSpec:
    """What every stage needs to know; it travels with the functions."""

    address: str
    settings: RunSettings
    plans: PlanBook
    scorer: Scorer | None = None

    def ledger(self) -> Ledger:
        return Ledger(open_store(self.address), self.settings)


@dataclass(frozen=True)
class RayTask:
    """One recording to do, and how often it was tried before."""

    shard: int
    row: SourceRecording
    attempts: int = 0

    @property
    def home(self) -> Shard:
        """Its shard, for the names of files."""
        return Shard(self.shard, ())


@dataclass
class StageCosts:
    """What a stage took."""

    decode_cpu_s: float = 0.0
    recognize_s: float = 0.0
    write_s: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    recognized: int = 0
    recognized_s: float = 0.0

    def add(self, other: StageCosts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class CutRecording:
    """A recording that is cut: its closed session, the requests of it, or those of a part of it.

    Where all has to be recognized in order, the session has not given out its requests.
    """

    task: RayTask
    id: str
    session: Session | None
    requests: list[Request] = field(default_factory=list)
    part: int = 0
    parts: int = 0
    """With the session of a recording in parts: their number."""


@dataclass
class AnsweredPart:
    """The answers to a part of a recording, or the session that they are for."""

    task: RayTask
    id: str
    part: int
    answers: list[tuple[int, Hypothesis | RedlineError]]
    session: Session | None = None
    parts: int = 0


@dataclass
class FinishedRecording:
    """A recording with its transcript or its error."""

    task: RayTask
    id: str | None
    outcome: Transcript | RedlineError


@dataclass
class Load:
    """What goes from stage to stage together."""

    costs: StageCosts = field(default_factory=StageCosts)
    cut: list[CutRecording] = field(default_factory=list)
    parts: list[AnsweredPart] = field(default_factory=list)
    finished: list[FinishedRecording] = field(default_factory=list)
    results: list[tuple[RayTask, RowResult]] = field(default_factory=list)
    nodes: set[str] = field(default_factory=set)
    """Where it was decoded."""
    problem: str | None = None
    """DEST failed: the run has to stop."""


def decode_recordings(tasks: Sequence[RayTask], spec: RayRunSpec) -> Iterator[Load]:
    """Read, decode and cut recordings; short ones go on together, long ones in parts as they are read."""
    ledger, nodes = spec.ledger(), {this_node()}
    load, load_s, began_s = Load(nodes=nodes), 0.0, stages.process_cpu_s()
    try:
        for task in tasks:
            for cut, cut_s in _cut(task, spec, ledger, load):
                load.cut.append(cut)
                load_s += cut_s
                if load_s >= LOAD_S:
                    load.costs.decode_cpu_s += stages.process_cpu_s() - began_s
                    yield load
                    load, load_s, began_s = Load(nodes=nodes), 0.0, stages.process_cpu_s()
    except StoreError as error:
        load.problem = str(error)
    load.costs.decode_cpu_s += stages.process_cpu_s() - began_s
    yield load


def _cut(task: RayTask, spec: RayRunSpec, ledger: Ledger, load: Load) -> Iterator[tuple[CutRecording, float]]:
    """A recording, whole or in parts, and the seconds of sound in each; what needs no text goes into the load."""
    row, id = task.row, None
    try:
        plan = spec.plans.plan(row)
        opened = stages.open_recording(row, plan.audio)
        id = opened.id
        with opened.reader as sound:
            load.costs.read_bytes += opened.size
            if (data := stages.known_transcript(ledger, task.home, id)) is not None:
                load.results.append((task, stages.result_of(row, id, data, spec.scorer)))
                return
            session = plan.session()
            session.source = sound.name
            requests, requests_s, part = list[Request](), 0.0, 0
            for block in sound:
                session.feed(block)
                if plan.is_whole:
                    continue
                new = session.ready()
                requests += new
                requests_s += sum(request.clip.duration for request in new)
                if requests_s >= LOAD_S:
                    yield CutRecording(task, id, None, requests, part), requests_s
                    requests, requests_s, part = [], 0.0, part + 1
            session.close(sound.warnings)
        if not plan.is_whole:
            requests += session.ready()
        held_s = session.held_s if plan.is_whole else sum(request.clip.duration for request in requests)
        if part:  # the session stands for the last part
            yield CutRecording(task, id, None, requests, part), held_s
            yield CutRecording(task, id, session, [], part + 1, part + 1), 0.0
        else:
            yield CutRecording(task, id, session, requests), held_s
    except RedlineError as error:
        if isinstance(error, StoreError) and not isinstance(error, UnreadableError):
            raise
        load.finished.append(FinishedRecording(task, id, _portable(error)))


def _portable(error: RedlineError) -> RedlineError:
    """An error without what it came from, which other processes may not know."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class _RequestsOfPart:
    """Requests of one recording, for a scheduler."""

    def __init__(self, requests: list[Request]) -> None:
        self._unasked, self._ids = requests, {request.id for request in requests}
        self.answers: list[tuple[int, Hypothesis | RedlineError]] = []

    @property
    def done(self) -> bool:
        return not self._ids

    @property
    def waiting(self) -> int:
        return len(self._ids)

    def ready(self) -> list[Request]:
        requests, self._unasked = self._unasked, []
        return requests

    def wants(self, id: int) -> bool:
        return id in self._ids

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        self._ids.remove(id)
        kept = replace(outcome, timing=None) if isinstance(outcome, Hypothesis) else _portable(outcome)
        self.answers.append((id, kept))


class RecognizeWorker:
    """The model of one worker, and the scheduler that forms its launches; called with one load after the other."""

    def __init__(self, loading: Loader, spec: RayRunSpec) -> None:
        self._transcriber, self._spec = loading(), spec

    def ready(self) -> str:
        """Answers once the model is loaded: with the node that it is on."""
        return this_node()

    def recognize(self, load: Load) -> tuple[None, Load]:
        """The load with its texts, and in front of it what tells that without being brought anywhere."""
        return None, self._recognized(load)

    def _recognized(self, load: Load) -> Load:
        """All recordings and parts of a load share launches."""
        began = time.perf_counter()
        scheduler = IsolatingScheduler(self._transcriber.recognizer, self._transcriber.batch)
        parts: list[tuple[CutRecording, _RequestsOfPart]] = []
        for cut in load.cut:
            if cut.session is None or cut.requests:
                part = _RequestsOfPart(cut.requests)
                parts.append((cut, part))
                scheduler.submit(part)
            elif not cut.parts:
                plan = self._spec.plans.plan(cut.task.row)
                if plan.speakers is not None and self._transcriber.embedder is not None:
                    diarizer = plan.diarizer(self._transcriber.embedder)
                    assert diarizer is not None
                    cut.session.diarize_with(diarizer)
                scheduler.submit(cut.session)
        scheduler.run()
        load.costs.recognize_s += time.perf_counter() - began
        for cut, part in parts:
            if cut.session is None:
                load.parts.append(AnsweredPart(cut.task, cut.id, cut.part, part.answers))
                continue
            for window, outcome in part.answers:
                cut.session.put(window, outcome)
        for cut in load.cut:
            if cut.session is not None and cut.parts:
                load.parts.append(AnsweredPart(cut.task, cut.id, cut.part, [], cut.session, cut.parts))
            elif cut.session is not None:
                result = finished(cut.session, self._spec.plans.plan(cut.task.row))
                load.finished.append(FinishedRecording(cut.task, cut.id, result))
        load.cut = []
        return load


def finished(session: Session, plan: RecordingPlan) -> Transcript | RedlineError:
    """The transcript of a session that has all its answers, or the error in its place."""
    try:
        transcript = plan.finished(session.finish())
    except RedlineError as error:
        return _portable(error)
    return replace(transcript, segments=tuple(replace(each, timing=None) for each in transcript.segments))


def write_recordings(load: Load, spec: RayRunSpec) -> Load:
    """Render and write what is finished; answers to parts go on to where they are stitched."""
    ledger = spec.ledger()
    try:
        for each in load.finished:
            load.results.append((each.task, _written(each, spec, ledger, load.costs)))
    except StoreError as error:
        load.problem = str(error)
    load.finished = []
    return load


def _written(each: FinishedRecording, spec: RayRunSpec, ledger: Ledger, costs: StageCosts) -> RowResult:
    began = time.perf_counter()
    row = each.task.row
    if isinstance(each.outcome, RedlineError) or each.id is None:
        assert isinstance(each.outcome, RedlineError)
        return stages.failure_of(row, each.outcome, each.task.attempts + 1, each.id)
    data = stages.render(each.outcome)
    ledger.keep(each.task.home, each.id, data)
    result = stages.result_of(row, each.id, data, spec.scorer)
    costs.write_s += time.perf_counter() - began
    costs.written_bytes += len(data)
    costs.recognized += 1
    costs.recognized_s += result.duration
    return result


def stitch(parts: list[AnsweredPart], spec: RayRunSpec) -> Load:
    """All parts of a recording, in any order -> its transcript, written."""
    load, began = Load(), time.perf_counter()
    (session,) = (part.session for part in parts if part.session is not None)
    for part in parts:
        for window, outcome in part.answers:
            session.put(window, outcome)
    task = parts[0].task
    done = FinishedRecording(task, parts[0].id, finished(session, spec.plans.plan(task.row)))
    load.costs.write_s += time.perf_counter() - began
    load.results.append((task, _written(done, spec, spec.ledger(), load.costs)))
    return load


@dataclass(frozen=True)
class Probe:
    """What one worker found out before the others begin: how recordings are cut, and what an hour costs it."""

    plans: PlanBook
    model: str
    decode_cpu_s: float = 0.0
    """For an hour of sound."""
    recognize_s: float = 0.0


def probe(loading: Loader, asked: Callable[[Transcriber], Mapping[str, Any]], rows: Sequence[SourceRecording]) -> Probe:
    """Load the model, and measure both stages on the beginning of some recordings that can be read."""
    transcriber = loading()
    plans = PlanBook.of(transcriber, **asked(transcriber))
    audio_s = decode_s = recognize_s = 0.0
    for row in rows:
        began = stages.process_cpu_s()
        try:
            plan = plans.plan(row)
            session = plan.session(transcriber.embedder)
            with stages.open_recording(row, plan.audio).reader as sound:
                for block in sound:
                    session.feed(block)
                    if session.fed_s >= 60.0:
                        break
                session.close()
        except RedlineError:
            continue
        decode_s += stages.process_cpu_s() - began
        scheduler = IsolatingScheduler(transcriber.recognizer, transcriber.batch)
        scheduler.submit(session)
        started = time.perf_counter()
        scheduler.run()
        recognize_s += time.perf_counter() - started
        audio_s += session.fed_s
    hours = audio_s / 3600
    if not hours:
        return Probe(plans, transcriber.name)
    return Probe(plans, transcriber.name, decode_s / hours, recognize_s / hours)
