"""`redline train --ray`: two processes that Ray Train starts learn what one learns, and begin again where one ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from redline.errors import ConfigError, RedlineError
from redline.train.ray_train import RayTrainOptions, train_on_ray
from redline.train.recipe import Recipe, read_recipe
from redline.train.run import Materials
from tests.cluster.ray_archives import cluster_of
from tests.corpus import small_recipe
from tests.train.test_two_nodes import PATIENCE_S, ROOT, command, recipe, state

pytest.importorskip("ray.train.torch", reason="needs redline[cluster]")
from ray.train.v2.api.exceptions import WorkerGroupError


@pytest.mark.battery
def test_two_workers_of_ray_learn_what_one_process_learns(corpus: Path, tmp_path: Path) -> None:
    alone = command(recipe(tmp_path, 4, 2), corpus, tmp_path / "one")
    subprocess.run([sys.executable, *alone], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    said = list[str]()
    with cluster_of(1, cpus=2):
        materials, stages = Materials(corpus, tmp_path / "ray"), ("tokenizer", "encoder")
        train_on_ray(read_recipe(recipe(tmp_path, 4, 1)), materials, stages, RayTrainOptions(2), said.append)
    one, other = state(tmp_path / "one"), state(tmp_path / "ray")
    learned = [name for name in one if ".running_" not in name]
    assert len(learned) > 40 and not said
    for name in learned:
        assert torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7), name


def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *ends: Exception) -> list[str]:
    """What is said where the processes of one start after the other end so, and those of the next one well."""
    left, said = list(ends), list[str]()

    class Trainer:
        def __init__(self, process: Any, *, train_loop_config: dict[str, Any], **_: Any) -> None:
            assert isinstance(train_loop_config["recipe"], Recipe) and train_loop_config["materials"].out.is_absolute()

        def fit(self) -> None:
            if left:
                raise WorkerGroupError("it went wrong", {1: left.pop(0)})

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    materials = Materials(tmp_path / "manifest.jsonl", tmp_path / "out")
    train_on_ray(small_recipe(), materials, (), RayTrainOptions(2), said.append)
    return said


def test_processes_that_a_cluster_has_no_room_for_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    said = trained(monkeypatch, tmp_path)
    assert said == ["2 processes need 2 CPU, and the cluster has 1: training begins when it has them (or --workers 1)"]
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    assert trained(monkeypatch, tmp_path) == []


def test_where_a_process_ends_all_begin_again_and_after_three_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = RuntimeError("the node died")
    assert trained(monkeypatch, tmp_path) == []
    said = trained(monkeypatch, tmp_path, lost, lost)
    assert len(said) == 2 and "ended (the node died); all begin again" in said[0]
    with pytest.raises(RedlineError, match="ended 3 times: the node died"):
        trained(monkeypatch, tmp_path, lost, lost, lost)


def test_what_is_refused_without_ray_is_refused_by_the_same_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no stage encodre"):
        trained(monkeypatch, tmp_path, ConfigError("no stage encodre"))
