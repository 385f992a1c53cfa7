"""`accelerate launch` on two nodes: each a network namespace with its own address, where this machine allows that."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from redline.train.loop.checkpointing import STATE
from tests.corpus import small_sections

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0
pytestmark = pytest.mark.battery


@dataclass(frozen=True)
class Node:
    """Where a process of a run is started."""

    prefix: tuple[str, ...]
    interface: str


@dataclass(frozen=True)
class TwoNodes:
    """Two nodes, and the address of the first."""

    nodes: tuple[Node, Node]
    address: str


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    """Two namespaces with a cable between them; two processes of this machine where namespaces are not allowed."""
    names = [f"redline-{os.getpid()}-{number}" for number in range(2)]
    cables = [f"rl{os.getpid() % 10**8}{end}" for end in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), start=1):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", cable)
            for device in ("lo", cable):
                ip("-n", name, "link", "set", device, "up")
        first, second = (Node(("ip", "netns", "exec", name), cable) for name, cable in zip(names, cables, strict=True))
        yield TwoNodes((first, second), "10.77.0.1")
    except (OSError, subprocess.CalledProcessError):
        yield TwoNodes((Node((), "lo"), Node((), "lo")), "127.0.0.1")
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def toml(table: Mapping[str, Any]) -> str:
    """Keys and sections of a recipe as a file has them; JSON's values are TOML's here."""
    keys = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    sections = [f"[{key}]\n{toml(value)}" for key, value in table.items() if isinstance(value, Mapping)]
    return "\n".join([*keys, *sections])


def recipe(folder: Path, steps: int, accumulate: int) -> Path:
    """A small encoder without dropout (every process draws its own) at a constant rate (the decay counts)."""
    sections = small_sections(steps=steps, accumulate=accumulate, floor=1.0, evaluate_every=2)
    sections["encoder"] |= {"dropout": 0.0, "pred_dropout": 0.0}
    path = folder / f"recipe-{steps}-{accumulate}.toml"
    path.write_text(toml(sections), encoding="utf-8")
    return path


def command(recipe: Path, corpus: Path, out: Path) -> list[str]:
    stages = ["--stage", "tokenizer", "--stage", "encoder"]
    return ["-m", "redline", "train", str(recipe), "--data", str(corpus), "--out", str(out), *stages]


def train_on(nodes: TwoNodes, recipe: Path, corpus: Path, out: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    launch += ["--num_processes", "2", "--main_process_ip", nodes.address, "--main_process_port", str(port)]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    running = []
    for rank, node in enumerate(nodes.nodes):
        variables = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": node.interface, "OMP_NUM_THREADS": "1"}
        started = subprocess.Popen(
            [*node.prefix, *launch, "--machine_rank", str(rank), *command(recipe, corpus, out)],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(started)
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)


def state(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "encoder" / STATE)


def test_two_nodes_learn_what_one_process_learns_and_go_on_where_they_stopped(
    two_nodes: TwoNodes, corpus: Path, tmp_path: Path
) -> None:
    alone = command(recipe(tmp_path, 4, 2), corpus, tmp_path / "one")
    subprocess.run([sys.executable, *alone], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    train_on(two_nodes, recipe(tmp_path, 4, 1), corpus, tmp_path / "whole")
    train_on(two_nodes, recipe(tmp_path, 2, 1), corpus, tmp_path / "parts")
    train_on(two_nodes, recipe(tmp_path, 4, 1), corpus, tmp_path / "parts")
    one, whole, parts = (state(tmp_path / name) for name in ("one", "whole", "parts"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in parts.items())
    # Running statistics of batch norm are those of the first process's batches, in which learning takes no part.
    learned = [name for name in one if ".running_" not in name]
    moments = [name for name in learned if name.startswith("optimizer0") and name.endswith("exp_avg")]
    assert len(moments) > 40 and max(float(one[name].abs().max()) for name in moments) > 1e-4
    for name in learned:
        assert torch.allclose(one[name], whole[name], rtol=1e-5, atol=1e-7), name
    print(two_nodes.address, "to the bit:", all(torch.equal(one[name], whole[name]) for name in learned))
