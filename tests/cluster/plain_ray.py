"""A twin of the part of Ray that a run uses, in one process: tasks and actors one after the other, in any order.

`wait` does one thing that is due, drawn by a seed. What a task gets and gives is pickled, as between processes. A
process ends where its code raises `EndedError`, and takes with it what an actor has in its queue.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any


class EndedError(BaseException):
    """The process that computes ends here."""


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RayActorError(RayError):
    pass


class Ref:
    """A result to come: of one call, or of a generator one after the other."""

    def __init__(self) -> None:
        self.is_there = False
        self.value: Any = None
        self.error: RayError | None = None
        self.items: list[Ref] = []  # of a generator, that nobody has taken

    def settle(self, value: Any = None, error: RayError | None = None) -> None:
        self.is_there, self.value, self.error = True, pickle.loads(pickle.dumps(value)), error

    def __next__(self) -> Ref:
        if self.items:
            return self.items.pop(0)
        if self.error is not None:
            ref, self.error = Ref(), None
            ref.settle(error=RayActorError("its decoder ended"))
            return ref
        raise StopIteration


class Function:
    """`ray.remote(...)(function)`."""

    def __init__(self, ray: PlainRay, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._ray, self._function, self._options = ray, function, options

    def options(self, **more: Any) -> Function:
        return Function(self._ray, self._function, self._options | more)

    def remote(self, *arguments: Any) -> Any:
        strategy = self._options.get("scheduling_strategy")
        node = strategy.node_id if hasattr(strategy, "node_id") else self._ray.next_node()
        if isinstance(self._function, type):
            return Actor(self._ray, self._function, arguments, node)
        ref = Ref()
        is_stream = self._options.get("num_returns") == "streaming"
        self._ray.due.append((ref, self._steps(ref, arguments, node, is_stream)))
        return ref

    def _steps(self, ref: Ref, arguments: Sequence[Any], node: str, is_stream: bool) -> Iterator[None]:
        while (missing := [each for each in arguments if isinstance(each, Ref) and not each.is_there]) and missing:
            yield
        broken = [each.error for each in arguments if isinstance(each, Ref) and each.error is not None]
        if broken:
            ref.settle(error=broken[0])
            return
        given = [each.value if isinstance(each, Ref) else each for each in arguments]
        self._ray.node = node
        try:
            result = self._function(*pickle.loads(pickle.dumps(given)))
            if is_stream:
                while True:
                    self._ray.node = node
                    item = Ref()
                    item.settle(next(result))
                    ref.items.append(item)
                    yield
        except StopIteration:
            ref.is_there = True
        except EndedError:
            ref.settle(error=RayActorError("the process has ended"))
        except Exception as error:
            ref.settle(error=RayTaskError(error))
        else:
            ref.settle(result)


class Actor:
    """An actor, whose calls are done in their order."""

    def __init__(self, ray: PlainRay, kind: type, arguments: Sequence[Any], node: str) -> None:
        self._ray, self.node, self.is_dead = ray, node, False
        self._made: Any = None
        self._make = lambda: kind(*pickle.loads(pickle.dumps(arguments)))
        self._queue: list[tuple[list[Ref], str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(count: int, *arguments: Any) -> Any:
            refs = [Ref() for _ in range(count)]
            self._queue.append((refs, name, arguments))
            self._ray.due.append((refs[0], self._steps(refs)))
            return refs if count > 1 else refs[0]

        return SimpleNamespace(
            remote=lambda *arguments: call(1, *arguments),
            options=lambda num_returns: SimpleNamespace(remote=lambda *arguments: call(num_returns, *arguments)),
        )

    def _steps(self, refs: list[Ref]) -> Iterator[None]:
        while not self.is_dead and self._queue[0][0] is not refs:
            yield
        if self.is_dead:
            return
        _, name, arguments = self._queue[0]
        self._ray.node = self.node
        try:
            self._made = self._made or self._make()
            given = [each.value if isinstance(each, Ref) else each for each in arguments]
            result = getattr(self._made, name)(*pickle.loads(pickle.dumps(given)))
        except EndedError:
            self.die()
            return
        for ref, value in zip(refs, result if len(refs) > 1 else [result], strict=True):
            ref.settle(value)
        self._queue.pop(0)

    def die(self) -> None:
        self.is_dead = True
        for refs, _, _ in self._queue:
            for ref in refs:
                ref.settle(error=RayActorError("the actor has died"))


class PlainRay:
    """What `ray` is to a run: nodes by name, each with two CPUs."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, RayActorError=RayActorError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda node_id, soft: SimpleNamespace(node_id=node_id)
        )
    )

    def __init__(self, seed: int = 0, names: Sequence[str] = ("one", "two")) -> None:
        self.names, self._draw, self._placed = names, random.Random(seed), 0
        self.node = ""
        """Where what runs now is."""
        self.due: list[tuple[Ref, Iterator[None]]] = []

    def next_node(self) -> str:
        self._placed += 1
        return self.names[self._placed % len(self.names)]

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: self.node)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0}} for name in self.names]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0 * len(self.names)}

    def remote(self, **options: Any) -> Callable[[Any], Function]:
        return lambda function: Function(self, function, options)

    def get(self, ref: Ref) -> Any:
        while not ref.is_there:
            self._do_one()
        if ref.error is not None:
            raise ref.error
        return ref.value

    def wait(self, refs: Sequence[Ref], num_returns: int, timeout: float, fetch_local: bool) -> tuple[list[Ref], Any]:
        for _ in range(1000):
            ready = [ref for ref in refs if ref.is_there or ref.items or ref.error is not None]
            if ready or not timeout:
                return ready[:num_returns], None
            self._do_one()
        raise AssertionError("nothing comes any more")

    def kill(self, actor: Actor) -> None:
        actor.die()

    def _do_one(self) -> None:
        at = self._draw.randrange(len(self.due))
        _, steps = self.due[at]
        if next(steps, steps) is steps:
            del self.due[at]
