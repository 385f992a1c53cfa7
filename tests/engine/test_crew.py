"""Launches run once each, alone in their threads, and leave the threads of the process as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from redline.engine.crew import run_launches


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 48, 50])
def test_every_launch_runs_once_alone_in_its_thread_but_those_left_over(threads: int, count: int) -> None:
    seen: list[tuple[int, int]] = []
    run_launches(lambda number: seen.append((number, torch.get_num_threads())), count)
    rest = count % threads
    assert sorted(seen) == [(number, 1 if number < count - rest else threads // rest) for number in range(count)]


def test_launches_that_are_sequential_have_one_thread_each(threads: int) -> None:
    seen: list[int] = []
    run_launches(lambda _: seen.append(torch.get_num_threads()), 1, is_sequential=True)
    assert seen == [1]


def test_launches_of_launches_share_what_their_caller_has(threads: int) -> None:
    seen: list[tuple[int, int, int]] = []

    def outer(part: int) -> None:
        own = torch.get_num_threads()
        run_launches(lambda number: seen.append((part, number, torch.get_num_threads())), 20)
        assert torch.get_num_threads() == own == threads // min(threads, 2)

    for _ in range(10):
        seen.clear()
        run_launches(outer, 2, most=2)
        assert sorted(seen) == [(part, number, 1) for part in range(2) for number in range(20)]


def test_an_error_ends_what_has_not_begun_and_is_raised(threads: int) -> None:
    begun: list[int] = []

    def launch(number: int) -> None:
        begun.append(number)
        time.sleep(0.001)
        if number == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_launches(launch, 1000)
    assert len(begun) < 100


def test_ctrl_c_does_not_wait_for_all_launches(threads: int) -> None:
    begun: list[int] = []

    def launch(number: int) -> None:
        begun.append(number)
        if threading.current_thread() is threading.main_thread() and len(begun) > 5:
            raise KeyboardInterrupt
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        run_launches(launch, 1000)
    assert len(begun) < 100


def test_a_thread_that_begins_while_others_compute_has_as_many_threads(threads: int) -> None:
    arrived: list[int] = []

    def late() -> None:
        together = threading.Barrier(threads, timeout=60)  # breaks unless so many threads come to it
        run_launches(lambda number: arrived.append(together.wait()), threads)

    def launch(number: int) -> None:
        other = threading.Thread(target=late)
        other.start()
        other.join()

    run_launches(launch, 1)
    assert sorted(arrived) == list(range(threads))
