"""Two processes learn what one learns: the same gradients, the same state to go on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redline.checkpoints.shared import DRAFT_LM
from redline.errors import ConfigError, DataError, RedlineError
from redline.train.loop.checkpointing import STATE
from redline.train.loop.distributed import training_device
from redline.train.run import Materials, build
from tests.corpus import learn, silent, small_tiny_recipe
from tests.processes import run_processes


def in_each_process(data: Path, folder: Path, books: Path) -> None:
    learn(data, folder / "first", 1, 1)
    learn(data, folder / "parts", 2, 1)
    learn(data, folder / "parts", 4, 1)
    learn(data, folder / "whole", 4, 1)
    recipe = small_tiny_recipe({"draft_lm": {"order": 3, "held_out": 2}})
    build(recipe, Materials(data, folder / "prepared", books), ("tokenizer", "draft_lm"), silent)
    with pytest.raises(ConfigError, match="each of 2 processes has its own"):
        training_device("cpu")


def state(out: Path, part: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_file(out / "encoder" / STATE).items() if name.startswith(part)}


def test_two_processes_learn_what_one_learns_and_go_on_where_they_stopped(
    corpus: Path, books: Path, tmp_path: Path
) -> None:
    learn(corpus, tmp_path / "one", 1, 2)
    run_processes(2, in_each_process, corpus, tmp_path, books)
    # After one update the first moments are the gradients, a tenth of them or a fiftieth.
    alone, together = state(tmp_path / "one", "optimizer0"), state(tmp_path / "first", "optimizer0")
    moments = [name for name in alone if name.endswith("exp_avg")]
    assert len(moments) > 40
    for name in moments:
        assert torch.allclose(alone[name], together[name], rtol=1e-3, atol=1e-6), name
    assert max(float(alone[name].abs().max()) for name in moments) > 1e-4
    parts, whole = state(tmp_path / "parts", ""), state(tmp_path / "whole", "")
    assert parts.keys() == whole.keys() and all(torch.equal(tensor, whole[name]) for name, tensor in parts.items())
    rows = [json.loads(line) for line in (tmp_path / "whole" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4], "one process writes the log"
    assert (tmp_path / "prepared" / "draft_lm" / DRAFT_LM).exists()


def test_too_few_batches_for_an_update_is_an_error_for_people(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer batches than one update"):
        learn(corpus, tmp_path, 2, 1000)


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(RedlineError, match="no device is called 'gpu'; allowed here are auto, cpu"):
        training_device("gpu")
    assert training_device("cpu").type == "cpu"
