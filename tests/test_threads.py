"""Threads: never more than the process may use, and none that a fork has lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from redline import load_model, threads
from redline.errors import ConfigError

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own; a child that hangs ends the test, not the suite."""
    values = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=values | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("files", "membership", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "max 100000"}, "0::/", float("inf")),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b", 2.0),
        ({"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpu:/a", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", float("inf")),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/a\n0::/",
            3.0,
        ),
        ({"cpu.max": "100000 100000"}, "0::/outside/of/the/container", 1.0),
        ({"cpu.max": "nonsense"}, "nonsense", float("inf")),
        ({}, "", float("inf")),
    ],
)
def test_the_quota_is_the_least_of_all_groups(
    files: dict[str, str], membership: str, cpus: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    (tmp_path / "membership").write_text(membership + "\n", encoding="utf-8")
    assert threads._quota(tmp_path, tmp_path / "membership") == cpus


def test_no_more_threads_than_the_process_may_use(random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(threads, "available_threads", lambda: 1)
        torch.set_num_threads(2)
        load_model(random_checkpoint)
        assert torch.get_num_threads() == 1
        load_model(random_checkpoint, threads=2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "available_threads", lambda: 8)
        torch.set_num_threads(1)
        load_model(random_checkpoint)
        assert torch.get_num_threads() == 1, "what was chosen stays"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_threads_that_are_no_count_are_refused(count: object) -> None:
    with pytest.raises(ConfigError, match="threads is"):
        load_model("tiny", threads=count)  # type: ignore[arg-type]


def test_half_a_cpu_is_one_thread_and_one_and_a_half_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for quota in (0.5, 1.0, 1.5):
        monkeypatch.setattr(threads, "_quota", lambda *_, quota=quota: quota)
        assert threads.available_threads() == 1


FORK = """
import os, sys, torch, redline
from redline.longform import vad
from redline.types import Request, Waveform
import numpy as np
torch.set_num_threads({parent})
noise = Waveform(np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32))
if {load_before}:
    model = redline.load_model({model!r}, threads=torch.get_num_threads())
    said = model.transcribe(noise, vad=False).text
    vad.SileroVad().probabilities(noise.samples)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if not {load_before}:
    model = redline.load_model({model!r}, threads=torch.get_num_threads())
if {child}:
    torch.set_num_threads({child})
def recognize():
    (answer,) = model.recognizer.recognize([Request(noise)])
    if isinstance(answer, redline.RedlineError):
        raise answer
for what in (
    lambda: model.transcribe(noise),
    lambda: list(model.transcribe_each([noise], vad=False)),
    lambda: list(model.stream(noise)),
    recognize,
    lambda: vad.SileroVad().probabilities(noise.samples),
    lambda: redline.load_model({model!r}),
):
    try:
        what()
        print("computed")
    except redline.RedlineError as error:
        print("refused" if "start workers with 'spawn'" in str(error) else error)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.parametrize(
    ("parent", "load_before", "child", "outcome"),
    [
        (2, True, 0, "refused"),
        (2, True, 1, "computed"),
        (2, False, 0, "computed"),
    ],
    ids=["after use", "one thread in the child", "loaded after the fork"],
)
def test_a_forked_process_computes_or_says_why_not_and_never_hangs(
    parent: int, load_before: bool, child: int, outcome: str, random_checkpoint: Path
) -> None:
    done = run(FORK.format(parent=parent, load_before=load_before, child=child, model=str(random_checkpoint)))
    assert (done.stdout.split(), done.returncode) == ([outcome] * 6, 0), done.stderr


def test_threads_that_wait_do_not_spin_unless_the_user_wants_it() -> None:
    code = "import os, redline.engine.start as s; s.settle_threads(); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(code).stdout.strip() == "2000"
    assert run(code, OMP_WAIT_POLICY="active").stdout.strip() == "None"
    assert run(code, GOMP_SPINCOUNT="1000").stdout.strip() == "1000"


def test_small_products_of_the_command_stay_in_their_thread_unless_the_user_wants_others() -> None:
    code = "import os, redline.engine.start as s; s.settle_threads(); print(os.environ['OPENBLAS_NUM_THREADS'])"
    assert [run(code).stdout.strip(), run(code, OPENBLAS_NUM_THREADS="3").stdout.strip()] == ["1", "3"]


@pytest.mark.parametrize(("allowed", "uses"), [("", True), ("ALL", True), ("AVX512_CORE_AMX", True), ("AVX2", False)])
def test_amx_is_used_where_the_processor_has_it_and_the_user_lets_it(
    monkeypatch: pytest.MonkeyPatch, allowed: str, uses: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    if not allowed:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert threads.has_amx.__wrapped__() == uses
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not threads.has_amx.__wrapped__()


def test_intels_products_are_strict_unless_the_user_wants_another_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_is_intel", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    threads.pin_kernels()
    assert os.environ.pop("MKL_CBWR") == "AVX512,STRICT"
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    threads.pin_kernels()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_threads_are_told_how_to_wait_before_pytorch_is_loaded() -> None:
    code = (
        "import sys; import redline.cli.main as cli; assert 'torch' not in sys.modules\n"
        "import redline.threads; assert 'torch' not in sys.modules; print('light')"
    )
    assert run(code).stdout.strip() == "light"
