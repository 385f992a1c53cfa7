"""Batching: the requests of any number of sessions -> batches of bounded padded length -> the recognizer.

Where answers are written token by token, requests join a running decode and leave it with their answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from redline.errors import RecognitionError, RedlineError, is_memory_error
from redline.threads import check_fork
from redline.types import SAMPLE_RATE, Hypothesis, Recognizer, Request

_log = logging.getLogger(__name__)
JOBS, FILES, PARTIAL, LIKELY, LIVE = -1, 0, 1, 2, 3
"""Priorities: the higher goes first."""
RUN_STEPS = 8
"""Steps of a running decode until others have their turn, if nobody leaves it before."""
_T = TypeVar("_T")
_Answer = Hypothesis | RedlineError


class Schedulable(Protocol):
    """What a scheduler needs of a session: it gives out requests, and takes their answers in any order."""

    @property
    def done(self) -> bool:
        """Whether no request will come any more."""
        ...

    @property
    def waiting(self) -> Any:
        """Whether, or how many, requests have no answer yet."""
        ...

    def ready(self) -> list[Request]:
        """Requests that may be recognized now, each given out once."""
        ...

    def wants(self, id: int) -> bool:
        """Whether the answer to a request is waited for."""
        ...

    def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
        """The answer to a request."""
        ...


class StreamEngine(Protocol):
    """Who recognizes what live streams have ready."""

    def submit(self, finals: Any, likely: Any, partials: Any) -> None:
        """A stream's windows, those that are likely, and its partial texts: each waits for everybody's before it."""
        ...

    def withdraw(self, *sources: Any) -> None:
        """Forget them."""
        ...

    def run(
        self, waits: Callable[[], bool], expects: Callable[[], bool] = ..., hopes: Callable[[], bool] = ...
    ) -> None:
        """Recognize, or wait, while somebody waits; see to a likely window that is expected, and to partial texts."""
        ...


class Written(Protocol):
    """A request whose answer is written token by token."""

    decoding: Any
    """What the decoder writes."""

    def answer(self) -> _Answer:
        """The answer, once it is written."""
        ...


class Decoder(Protocol):
    """A running decode (`redline.engine.decoder.ContinuousDecoder`)."""

    def wants(self, priority: int) -> bool:
        """Whether nobody waits who goes before new texts of this priority."""
        ...

    def join(self, texts: Sequence[Any], priority: int = 0) -> None:
        """Let texts into the next steps."""
        ...

    def leave(self, text: Any) -> None:
        """Forget a text."""
        ...

    def run(self, steps: int) -> list[Any]:
        """So many tokens more of each text, or fewer, until one has ended; returns those that have."""
        ...


class ContinuousRecognizer(Recognizer, Protocol):
    """A recognizer that need not wait for the end of a batch."""

    decoders: Any
    """Has `take(workers) -> Decoder` and `give(decoder)`, for one caller at a time."""

    def begin(self, requests: Sequence[Request]) -> Sequence[_Answer | Written]:
        """An answer to each request, or what a decoder has to write for it."""
        ...


@dataclass(frozen=True)
class BatchOptions:
    """What one call of the recognizer takes."""

    batch_s: float = 120.0
    """Seconds of audio, counted with the padding to the longest clip."""
    workers: int = 1
    """Parts of a batch that are recognized at once, each with its share of the threads, by a recognizer that several
    threads may call."""
    read_ahead: int = 0
    """Recordings that are decoded ahead while batches run, each by a thread and a process of its own."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; allowed are 1 and above")
        if self.read_ahead < 0:
            raise ValueError(f"read_ahead is {self.read_ahead}; allowed are 0 (none is decoded ahead) and above")
        if self.batch_s <= 0:
            raise ValueError(f"batch_s is {self.batch_s}; a batch must hold some audio")


class Account:
    """How much of the recognizer's time somebody has had, in seconds of audio; recordings of one caller share one."""

    def __init__(self) -> None:
        self.served_s = 0.0


@dataclass(eq=False)
class _Queue:
    """A session's requests that are ready."""

    session: Schedulable
    priority: int
    account: Account
    waiting: dict[int, Request] = field(default_factory=dict)


class Scheduler:
    """The one owner of batch sizes: fair between accounts, deterministic, and without influence on any text.

    The oldest request of the highest priority and, within it, of the account that was served least goes next (fair
    queueing, so none starves), in a batch with the ready requests of that priority, of all sessions, that are nearest
    to it in length. Sessions that share an account are served in their order.
    """

    def __init__(self, recognizer: Recognizer, options: BatchOptions = BatchOptions()) -> None:
        self.recognizer = recognizer
        self.options = options
        self.answered = 0
        """Requests that have their answer."""
        self._queues: list[_Queue] = []
        self._served_s = 0.0  # on the account that was served last
        self._continuous: Any = recognizer if getattr(recognizer, "decoders", None) is not None else None
        self._decoder: Decoder | None = None
        self._written: dict[Any, tuple[_Queue, Request, Written]] = {}  # who is in it
        self._unanswered: list[tuple[_Queue, Request]] = []  # of the batch that runs, or raised

    def submit(self, session: Schedulable, priority: int = FILES, account: Account | None = None) -> None:
        """From now on recognize what a session has ready; without an account it has one of its own."""
        self._queues.append(_Queue(session, priority, account or Account()))

    def withdraw(self, session: Schedulable) -> None:
        """Forget a session and its requests."""
        self._queues = [queue for queue in self._queues if queue.session is not session]
        for text in [text for text, (queue, _, _) in self._written.items() if queue.session is session]:
            del self._written[text]
            if self._decoder is not None:
                self._decoder.leave(text)

    def step(self) -> bool:
        """Recognize one batch; False where no session has a request ready. Sessions that are done are forgotten.

        Where requests join a running decode, they do so here, and it goes on for `RUN_STEPS`, or until somebody leaves
        it. Raises `RecognitionError` when the recognizer loses requests, and whatever is no `RedlineError` of a
        request, which loses none.
        """
        self._unanswered = []
        busy = {queue.account for queue in self._queues if queue.waiting}
        busy |= {queue.account for queue, _, _ in self._written.values()}
        for queue in self._queues:
            queue.waiting |= {request.id: request for request in queue.session.ready()}
            queue.waiting = {id: each for id, each in queue.waiting.items() if queue.session.wants(id)}
        self._queues = [queue for queue in self._queues if queue.waiting or not queue.session.done]
        ready = [queue for queue in self._queues if queue.waiting]
        if not ready and not self._written:
            return False
        for account in {queue.account for queue in ready} - busy:  # who was idle has no claim to the time of others
            account.served_s = max(account.served_s, self._served_s)
        priority = max((queue.priority for queue in ready), default=JOBS)
        ready = [queue for queue in ready if queue.priority == priority]
        if self._continuous is not None:
            self._go_on(ready, priority)
            return True
        batch = self._batch(ready)
        for (queue, request), outcome in zip(batch, self._recognize(batch, self.recognizer.recognize), strict=True):
            self._put(queue, request, outcome)
        return True

    def step_alone(self) -> bool:
        """Recognize each request of the batch that raised by itself; whatever one raises is its answer.

        False where no batch raised.
        """
        batch, self._unanswered = self._unanswered, []
        for queue, request in batch:
            if request.id not in queue.waiting:
                continue
            try:
                (outcome,) = self._recognize([(queue, request)], self.recognizer.recognize)
            except RedlineError as failure:
                outcome = failure
            except Exception as error:
                outcome = RecognitionError(f"{request.clip.source}: the model failed: {type(error).__name__}: {error}")
            self._put(queue, request, outcome)
        return bool(batch)

    def run(self) -> None:
        """Recognize all that is ready, and what becomes ready by that."""
        while self.step():
            pass

    def _batch(self, ready: Sequence[_Queue]) -> list[tuple[_Queue, Request]]:
        """The batch with the request that is next."""
        due = min(ready, key=lambda queue: queue.account.served_s)
        self._served_s = due.account.served_s
        requests = [(queue, request) for queue in ready for request in queue.waiting.values()]
        oldest = next(index for index, (queue, _) in enumerate(requests) if queue is due)
        lengths = [len(request.clip.samples) for _, request in requests]
        groups = batches_by_length(lengths, self.options.batch_s * SAMPLE_RATE)
        return [requests[index] for group in groups if oldest in group for index in sorted(group)]

    def _go_on(self, ready: Sequence[_Queue], priority: int) -> None:
        """Let the next batch join the running decode, where nobody waits in front of it, and go on with that."""
        decoder = self._decoder = self._decoder or self._continuous.decoders.take(self.options.workers)
        assert decoder is not None
        try:
            if ready and decoder.wants(priority):
                batch = self._batch(ready)
                for (queue, request), begun in zip(batch, self._recognize(batch, self._continuous.begin), strict=True):
                    if isinstance(begun, Hypothesis | RedlineError):
                        self._put(queue, request, begun)
                    else:
                        del queue.waiting[request.id]
                        queue.account.served_s += request.clip.duration
                        self._written[begun.decoding] = queue, request, begun
                        decoder.join([begun.decoding], priority)
            for text in decoder.run(RUN_STEPS) if self._written else ():
                queue, request, written = self._written.pop(text)
                queue.waiting[request.id] = request  # until it is answered
                queue.account.served_s -= request.clip.duration
                try:
                    outcome = written.answer()
                except RedlineError as failure:
                    outcome = failure
                self._put(queue, request, outcome)
        except BaseException as error:
            alone = list(self._written.values())
            self._written, self._decoder = {}, None
            self._unanswered += [(queue, request) for queue, request, _ in alone]
            for queue, request, _ in alone:
                queue.waiting = {request.id: request} | queue.waiting
                queue.account.served_s -= request.clip.duration
            if not is_memory_error(error):
                raise
            for queue, request, _ in alone:  # a decoder with fewer in it may have room for them
                self._put(queue, request, self._recognize([(queue, request)], self.recognizer.recognize)[0])
        if not self._written and self._decoder is not None:
            self._continuous.decoders.give(self._decoder)
            self._decoder = None

    def _put(self, queue: _Queue, request: Request, outcome: _Answer) -> None:
        if isinstance(outcome, RedlineError):
            _log.debug("request %d of %s failed", request.id, request.clip.source, exc_info=outcome)
        del queue.waiting[request.id]
        queue.session.put(request.id, outcome)
        queue.account.served_s += request.clip.duration
        self.answered += 1

    def _recognize(
        self, batch: Sequence[tuple[_Queue, Request]], recognize: Callable[[Sequence[Request]], Sequence[_T]]
    ) -> list[_T]:
        """One outcome per request, in order."""
        check_fork()
        self._unanswered = list(batch)
        requests = [request for _, request in batch]
        return self._in_parts(requests, recognize) if self.options.workers > 1 else self._checked(requests, recognize)

    def _in_parts(
        self, requests: Sequence[Request], recognize: Callable[[Sequence[Request]], Sequence[_T]]
    ) -> list[_T]:
        """Parts of a batch at once: while one searches, in one thread, another one's products keep the others busy."""
        import torch

        from redline.engine.crew import run_launches
        from redline.engine.launch import own_stream

        parts = min(self.options.workers, len(requests), torch.get_num_threads())
        outcomes: list[list[_T]] = [[]] * parts

        def run(part: int) -> None:
            with own_stream():
                outcomes[part] = self._checked(requests[part::parts], recognize)

        run_launches(run, parts)
        return [outcomes[place % parts][place // parts] for place in range(len(requests))]

    def _checked(self, requests: Sequence[Request], recognize: Callable[[Sequence[Request]], Sequence[_T]]) -> list[_T]:
        outcomes = list(recognize(requests))
        if len(outcomes) != len(requests):
            raise RecognitionError(
                f"{self.recognizer.name} answered {len(requests)} requests with {len(outcomes)} hypotheses"
            )
        return outcomes


class IsolatingScheduler(Scheduler):
    """A scheduler that outlives what its recognizer raises: the requests of that batch are recognized one by one."""

    def step(self) -> bool:
        try:
            return super().step()
        except Exception:
            _log.exception("a batch failed; its requests are recognized one by one")
            if not self.step_alone():
                raise  # it was no batch
            return True


def batches_by_length(lengths: Sequence[float], most: float) -> list[list[int]]:
    """Indices of clips grouped by length, longest first; a group's count times its longest is at most `most`.

    A clip that is longer than `most` is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
