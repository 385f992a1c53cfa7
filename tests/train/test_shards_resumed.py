"""A run on shards that is killed goes on at the sample; two processes hear each sample of an epoch once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from redline.manifest import read_manifest, write_manifest
from redline.train.data.batches import BatchSource, SpeechBatchOptions
from redline.train.data.feature_cache import AugmentOptions, streamed_view
from redline.train.data.shard_writer import ShardOptions, write_shards
from redline.train.loop.distributed import accelerator
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions
from tests.corpus import silent
from tests.processes import PATIENCE_S, run_processes

EPOCHS, OPTIONS = 3, SpeechBatchOptions(batch_s=3.0)


class Heard(torch.nn.Linear):
    """An objective that writes down what it hears, and kills its process after so many batches."""

    def __init__(self, log: Path, kill_after: int) -> None:
        super().__init__(160, 1)
        self.log, self.left = log, kill_after

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # type: ignore[override]
        with self.log.open("a") as file:
            file.write(json.dumps([*batch.ids, round(float(batch.features.sum()), 2)]) + "\n")
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch.features).mean(), {}


class ShardStage:
    """A stage whose batches come from shards."""

    name = "heard"

    def __init__(self, manifest: Path, log: Path, kill_after: int) -> None:
        rows, augment = read_manifest(manifest), AugmentOptions(views=2)
        views = [streamed_view(rows, view, augment, "nar") for view in range(2)]
        self.source, self.objective = BatchSource(rows, views, OPTIONS, None), Heard(log, kill_after)

    def evaluate(self) -> dict[str, float]:
        return {"none": 0.0}


def learn_from_shards(manifest: Path, out: Path, steps: int, accumulate: int = 1, kill_after: int = 0) -> None:
    """Train for so many updates, saving after each; what each process hears is in OUT.RANK."""
    log = out.with_suffix(f".{accelerator().process_index}")
    options = TrainingOptions(
        steps=steps, save_every_s=0.0, evaluate_every=10**6, precision="no", warmup_steps=1, accumulate=accumulate
    )
    fit(ShardStage(manifest, log, kill_after), options, out, silent)


def heard(out: Path, rank: int = 0) -> list[list[Any]]:
    return [json.loads(line) for line in out.with_suffix(f".{rank}").read_text().splitlines()]


@pytest.fixture
def manifest(corpus: Path, tmp_path: Path) -> Path:
    rows = write_shards(read_manifest(corpus), str(tmp_path / "shards"), ShardOptions(shard_mb=0.1))
    return write_manifest(tmp_path / "shards.jsonl", [row.to_dict() for row in rows])


def test_a_run_that_is_killed_goes_on_at_the_sample(manifest: Path, tmp_path: Path) -> None:
    size = sum(1 for _ in ShardStage(manifest, tmp_path / "none", 0).source.epoch(0))
    steps, kill = EPOCHS * size, size + size // 2
    learn_from_shards(manifest, tmp_path / "whole", steps)
    whole = heard(tmp_path / "whole")
    assert len(whole) == steps and len({json.dumps(batch) for batch in whole}) > size, "views and order change"
    process = multiprocessing.get_context("spawn").Process(
        target=learn_from_shards, args=(manifest, tmp_path / "killed", steps, 1, kill)
    )
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
    before = heard(tmp_path / "killed")
    learn_from_shards(manifest, tmp_path / "killed", steps)
    after = heard(tmp_path / "killed")[len(before) :]
    assert len(before) == kill, "in the middle of an epoch"
    # The update that was killed had not been saved, so its batch is heard again.
    assert before == whole[:kill] and after == whole[kill - 1 :]


@pytest.mark.battery
def test_two_processes_hear_each_sample_of_an_epoch_once(manifest: Path, tmp_path: Path) -> None:
    size = sum(1 for _ in ShardStage(manifest, tmp_path / "none", 0).source.epoch(0))
    assert size % 2 == 0, "of an odd number of batches one would be left out"
    steps = EPOCHS * size // 2
    run_processes(2, learn_from_shards, manifest, tmp_path / "two", steps // 2)
    run_processes(2, learn_from_shards, manifest, tmp_path / "two", steps)
    learn_from_shards(manifest, tmp_path / "one", steps, 2)
    pairs = zip(heard(tmp_path / "two", 0), heard(tmp_path / "two", 1), strict=True)
    together = [batch for pair in pairs for batch in pair]
    assert together == heard(tmp_path / "one"), "what one process hears with twice the batches an update"
    for epoch in range(EPOCHS):
        ids = [id for *batch, _ in together[epoch * size : (epoch + 1) * size] for id in batch]
        assert sorted(ids) == sorted(row.id for row in read_manifest(manifest))
