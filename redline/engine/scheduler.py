"""Batching: the requests of any number of sessions -> batches of bounded padded length -> the recognizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from redline.errors import RecognitionError, RedlineError
from redline.longform.session import Session
from redline.threads import check_fork
from redline.types import SAMPLE_RATE, Hypothesis, Recognizer, Request

_log = logging.getLogger(__name__)
FILES, LIVE = 0, 1
"""Priorities: the higher goes first."""


@dataclass(frozen=True)
class BatchOptions:
    """What one call of the recognizer takes."""

    batch_s: float = 120.0
    """Seconds of audio, counted with the padding to the longest clip."""
    workers: int = 1
    """Parts of a batch that are recognized at once, each with its share of the threads, by a recognizer that several
    threads may call."""

    decoders: int = 0
    """Recordings that are decoded ahead while batches run, each by a thread and a process of its own."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; allowed are 1 and above")
        if self.decoders < 0:
            raise ValueError(f"decoders is {self.decoders}; allowed are 0 (none is decoded ahead) and above")
        if self.batch_s <= 0:
            raise ValueError(f"batch_s is {self.batch_s}; a batch must hold some audio")


class Account:
    """How much of the recognizer's time somebody has had, in seconds of audio; recordings of one caller share one."""

    def __init__(self) -> None:
        self.served_s = 0.0


@dataclass(eq=False)
class _Queue:
    """A session's requests that are ready."""

    session: Session
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
        self._queues: list[_Queue] = []
        self._served_s = 0.0  # on the account that was served last

    def submit(self, session: Session, priority: int = FILES, account: Account | None = None) -> None:
        """From now on recognize what a session has ready; without an account it has one of its own."""
        self._queues.append(_Queue(session, priority, account or Account()))

    def withdraw(self, session: Session) -> None:
        """Forget a session and its requests."""
        self._queues = [queue for queue in self._queues if queue.session is not session]

    def step(self) -> bool:
        """Recognize one batch; False where no session has a request ready. Sessions that are done are forgotten.

        Raises `RecognitionError` when the recognizer loses requests, and whatever is no `RedlineError` of a request.
        """
        busy = {queue.account for queue in self._queues if queue.waiting}
        for queue in self._queues:
            queue.waiting |= {request.id: request for request in queue.session.ready()}
        self._queues = [queue for queue in self._queues if queue.waiting or not queue.session.done]
        ready = [queue for queue in self._queues if queue.waiting]
        if not ready:
            return False
        for account in {queue.account for queue in ready} - busy:  # who was idle has no claim to the time of others
            account.served_s = max(account.served_s, self._served_s)
        ready = [queue for queue in ready if queue.priority == max(each.priority for each in ready)]
        batch = self._batch(ready)
        for (queue, request), outcome in zip(batch, self._recognize([request for _, request in batch]), strict=True):
            del queue.waiting[request.id]
            queue.session.put(request.id, outcome)
            queue.account.served_s += request.clip.duration
        return True

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

    def _recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """One answer per request, in order."""
        check_fork()
        answers = self._in_parts(requests) if self.options.workers > 1 else self._answers(requests)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, RedlineError):
                _log.debug("request %d of %s failed", request.id, request.clip.source, exc_info=answer)
        return answers

    def _in_parts(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """Parts of a batch at once: while one searches, in one thread, another one's products keep the others busy."""
        import torch

        from redline.engine.crew import run_launches
        from redline.engine.launch import own_stream

        parts = min(self.options.workers, len(requests), torch.get_num_threads())
        answers: list[list[Hypothesis | RedlineError]] = [[]] * parts

        def recognize(part: int) -> None:
            with own_stream():
                answers[part] = self._answers(requests[part::parts])

        run_launches(recognize, parts)
        return [answers[place % parts][place // parts] for place in range(len(requests))]

    def _answers(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        answers = self.recognizer.recognize(requests)
        if len(answers) != len(requests):
            raise RecognitionError(
                f"{self.recognizer.name} answered {len(requests)} requests with {len(answers)} hypotheses"
            )
        return answers


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
