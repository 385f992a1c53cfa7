"""The process that hands out the work, on a twin of Ray: in whichever order things come, the bytes are the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline.cluster import ray_run, ray_stages, ray_start
from redline.cluster.ray_start import RayOptions
from redline.cluster.report import BatchReport
from redline.cluster.store import FolderStore
from redline.errors import RecognitionError
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Waveform
from tests.cluster.archives import archive, contents, level, run, settings
from tests.cluster.plain_ray import EndedError, PlainRay
from tests.cluster.ray_archives import run_on_ray

SAID = settings(4)
Hear = Callable[[Waveform], str]
_hears: dict[str, Hear] = {}


def load(name: str) -> Transcriber:
    return Transcriber(FakeRecognizer(lambda clip: _hears[name](clip)))


@pytest.fixture
def on_twin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., BatchReport]:
    def start(ray: PlainRay, source: Path, out: Path, respond: Hear = level, **more: Any) -> BatchReport:
        for module in ray_run, ray_start:
            monkeypatch.setattr(module, "ray_package", lambda: ray)
        _hears["it"] = respond
        options = RayOptions(workers=2, worker_cpus=1, decoders=2)
        return run_on_ray(source, out, loading, said=SAID, options=options, **more)

    return start


def loading() -> Transcriber:
    return load("it")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven short recordings, and one that goes in parts."""
    monkeypatch.setattr(ray_stages, "LOAD_S", 2.0)
    folder = archive(tmp_path / "in", 11)
    soundfile.write(folder / "long.wav", tone(70.0).samples, 16_000)
    return folder


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path) -> dict[str, bytes]:
    assert run(source, FolderStore(tmp_path / "one"), said=SAID).done == 12
    return contents(tmp_path / "one")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_first_and_whoever_ends_the_bytes_are_those_of_one_process(
    on_twin: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    ray, draw, kills = PlainRay(seed, ("one", "two", "three")), random.Random(seed), 0

    def respond(clip: Waveform) -> str:
        nonlocal kills
        if kills < seed and draw.random() < 0.3:
            kills += 1
            raise EndedError
        return level(clip)

    report = on_twin(ray, source, tmp_path / "out", respond)
    assert (report.done, report.failed, kills) == (12, 0, seed)
    assert contents(tmp_path / "out") == undisturbed


def test_what_fails_on_a_node_is_tried_on_another(on_twin: Any, source: Path, tmp_path: Path) -> None:
    for seed in range(4):
        ray, nodes = PlainRay(seed), list[str]()

        def respond(clip: Waveform, ray: PlainRay = ray, nodes: list[str] = nodes) -> str:
            if abs(clip.duration - 0.18) < 0.005:
                nodes.append(ray.node)
                if nodes.count(ray.node) == len(nodes):
                    raise RecognitionError("no memory on this node")
            return level(clip)

        report = on_twin(ray, source, tmp_path / f"out-{seed}", respond)
        assert (report.done, report.failed) == (12, 0)
        assert len(nodes) == 2 and set(nodes) == {"one", "two"}


def test_what_ends_every_process_is_left_out_and_takes_nobody_with_it(
    on_twin: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    def respond(clip: Waveform) -> str:
        if abs(clip.duration - 0.14) < 0.005:
            raise EndedError
        return level(clip)

    report = on_twin(PlainRay(), source, tmp_path / "out", respond)
    assert (report.done, report.failed) == (11, 1)
    (failure,) = report.failures
    assert failure.audio.endswith("002.wav") and failure.attempts == 3 and "lost 3 times" in failure.reason
    there = contents(tmp_path / "out")
    missing = {name for name in undisturbed if name.startswith("json/")} - there.keys()
    assert len(missing) == 1 and all(there[name] == undisturbed[name] for name in there if name.startswith("json/"))


def test_a_node_alone_tries_again_itself(on_twin: Any, source: Path, tmp_path: Path) -> None:
    tries = 0

    def respond(clip: Waveform) -> str:
        nonlocal tries
        if abs(clip.duration - 0.18) < 0.005 and (tries := tries + 1) < 3:
            raise RecognitionError("not today")
        return level(clip)

    report = on_twin(PlainRay(names=("one",)), source, tmp_path / "out", respond)
    assert (report.done, report.failed, tries) == (12, 0, 3)


def test_with_a_machine_lost_there_are_as_many_workers_as_the_others_have_room_for(
    on_twin: Any, source: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hired, hire = list[int](), ray_run.RayRun._hire
    monkeypatch.setattr(ray_run.RayRun, "_hire", lambda run: (hired.append(0), hire(run)))
    for seed in range(4):
        ray, heard = PlainRay(seed), list[Waveform]()

        def respond(clip: Waveform, ray: PlainRay = ray, heard: list[Waveform] = heard) -> str:
            heard.append(clip)
            if len(heard) == 8:  # behind those that are heard to measure
                ray.names = ("one",)
                raise EndedError
            return level(clip)

        report = on_twin(ray, source, tmp_path / f"out-{seed}", respond)
        assert (report.done, report.failed, len(hired)) == (12, 0, 2)
        assert contents(tmp_path / f"out-{seed}") == undisturbed
        hired.clear()
