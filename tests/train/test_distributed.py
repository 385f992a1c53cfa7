"""Two processes learn what one learns: the same gradients, the same state to go on from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redline.decoding.ngram import NAME
from redline.errors import DataError
from redline.train.loop.checkpointing import STATE
from redline.train.loop.distributed import is_first_process, wait_for_all
from redline.train.loop.loop import Say
from redline.train.nar import Materials, build
from redline.train.objectives.ngram import NgramOptions
from tests.corpus import make_corpus, silent, small_recipe

SCRIPT = """
import sys
from pathlib import Path
from tests.train.test_distributed import learn, prepare
data, folder = map(Path, sys.argv[1:])
learn(data, folder / "first", 1, 1)
learn(data, folder / "parts", 2, 1)
learn(data, folder / "parts", 4, 1)
learn(data, folder / "whole", 4, 1)
prepare(data, folder / "prepared")
"""
ROOT = Path(__file__).parents[2]


def learn(data: Path, out: Path, steps: int, accumulate: int, say: Say = silent) -> None:
    """Train a small encoder without dropout (every process draws its own) at a constant rate (the decay counts)."""
    made = small_recipe(steps=steps, accumulate=accumulate, floor=1.0, evaluate_every=2)
    still = replace(made, encoder={**made.encoder, "dropout": 0.0, "pred_dropout": 0.0})
    if is_first_process():
        out.mkdir(exist_ok=True)
        shutil.copy(data.parent / "tokenizer.json", out)
    wait_for_all()
    build(still, Materials(data, out), ("encoder",), say)


def prepare(data: Path, out: Path) -> None:
    """What one process makes of books that all of them read."""
    recipe = replace(small_recipe(), draft_lm=NgramOptions(order=3, held_out=2))
    build(recipe, Materials(data, out, data.parent / "books"), ("tokenizer", "draft_lm"), silent)


def launch(processes: int, script: Path, *arguments: object) -> None:
    # accelerate itself starts several processes on a CPU only through MPI.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=paths
    )
    assert done.returncode == 0, done.stderr[-3000:]


def state(out: Path, part: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_file(out / "encoder" / STATE).items() if name.startswith(part)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = make_corpus(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "book.txt").write_text("The red house by the sea.\n" * 20, encoding="utf-8")
    build(small_recipe(), Materials(path, tmp_path), ("tokenizer",), silent)
    return path


def test_two_processes_learn_what_one_learns_and_go_on_where_they_stopped(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    learn(data, tmp_path / "one", 1, 2)
    launch(2, script, data, tmp_path)
    # After one update the first moments are the gradients, a tenth of them or a fiftieth.
    alone, together = state(tmp_path / "one", "optimizer0"), state(tmp_path / "first", "optimizer0")
    moments = [name for name in alone if name.endswith("exp_avg")]
    assert len(moments) > 40
    for name in moments:
        assert torch.allclose(alone[name], together[name], rtol=1e-3, atol=1e-6), name
    assert max(float(alone[name].abs().max()) for name in moments) > 1e-4
    parts, whole = state(tmp_path / "parts", "model"), state(tmp_path / "whole", "model")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in parts.items())
    rows = [json.loads(line) for line in (tmp_path / "whole" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4], "one process writes the log"
    assert (tmp_path / "prepared" / "draft_lm" / NAME).exists()


def test_too_few_batches_for_an_update_is_an_error_for_people(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer batches than one update"):
        learn(data, tmp_path / "run", 2, 1000)
