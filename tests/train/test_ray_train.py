"""`redline train --ray`: two processes that Ray Train starts learn what one learns, and begin again where one ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from redline.errors import ConfigError
from redline.train.ray_train import RayTrainOptions, train_on_ray
from redline.train.recipe import read_recipe
from redline.train.run import Materials
from tests.cluster.ray_archives import cluster_of
from tests.train.test_two_nodes import PATIENCE_S, ROOT, command, recipe, state

pytestmark = pytest.mark.battery


def test_two_workers_of_ray_learn_what_one_process_learns(corpus: Path, tmp_path: Path) -> None:
    alone = command(recipe(tmp_path, 4, 2), corpus, tmp_path / "one")
    subprocess.run([sys.executable, *alone], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    materials, said = Materials(corpus, tmp_path / "ray"), list[str]()
    with cluster_of(2):
        stages, options = ("tokenizer", "encoder"), RayTrainOptions(2)
        with pytest.raises(ConfigError, match="no stage"):  # as it is said without Ray
            train_on_ray(read_recipe(recipe(tmp_path, 4, 1)), materials, ("encodre",), options, said.append)
        train_on_ray(read_recipe(recipe(tmp_path, 4, 1)), materials, stages, options, said.append)
    one, other = state(tmp_path / "one"), state(tmp_path / "ray")
    learned = [name for name in one if ".running_" not in name]
    assert len(learned) > 40 and not said
    for name in learned:
        assert torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7), name
