"""The loop: a run that goes wrong says so and keeps the best weights; an interrupted one goes on to the bit."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from redline.errors import ConfigError, DivergedError
from redline.train.loop.checkpointing import BEST, STATE, read_metadata
from redline.train.loop.loop import stop_signals
from redline.train.run import Materials, build
from tests.corpus import silent, small_recipe
from tests.train.loop.line import Line, run


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_weights(tmp_path: Path) -> None:
    stage = Line([5.0, 3.0, 4.0], bad_from=13)
    with pytest.raises(DivergedError, match=r"step 13.*learning rate.*those of step 5, the best so far"):
        run(stage, tmp_path, keep_best="wer")
    assert math.isfinite(stage.weight)
    assert read_metadata(tmp_path / BEST) == {"step": 5, "wer": 3.0} and not (tmp_path / STATE).exists()
    again = Line([5.0], bad_from=1)
    with pytest.raises(DivergedError, match="step 13"):
        run(again, tmp_path, keep_best="wer")
    assert again.seen == 0, "the same command learns nothing more"


def test_a_diverged_run_goes_on_from_its_last_save_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run(Line([2.0] * 9, bad_from=8), tmp_path, save_every_s=0.0)
    lines = run(Line([2.0] * 9), tmp_path, save_every_s=0.0, lr=1e-4)
    assert any("goes on from step 7 with other settings: lr 0.0001 instead of 0.001" in line for line in lines)
    assert read_metadata(tmp_path / STATE)["step"] == 20


def test_a_gradient_that_is_no_number_changes_no_weight(tmp_path: Path) -> None:
    stage = Line([])
    stage.objective.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="step 1,"):
        run(stage, tmp_path, evaluate_every=99, steps=30)
    assert stage.weight == 1.0


def test_the_weights_it_began_with_are_a_candidate_for_the_best(tmp_path: Path) -> None:
    stage = Line([1.0, 2.0, 3.0, 4.0, 5.0])
    run(stage, tmp_path, keep_best="wer")
    assert stage.weight == 1.0 and read_metadata(tmp_path / BEST)["step"] == 0


def test_what_is_learned_and_as_good_goes_before_what_it_began_with(tmp_path: Path) -> None:
    stage = Line([1.0, 2.0, 1.0, 1.0, 5.0])
    run(stage, tmp_path, keep_best="wer")
    assert read_metadata(tmp_path / BEST)["step"] == 10 and stage.weight == stage.evaluated[2]


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    run(Line([math.nan, 2.0, math.nan, 3.0, 4.0]), tmp_path, keep_best="wer")
    assert read_metadata(tmp_path / BEST) == {"step": 5, "wer": 2.0}


def test_learning_ends_when_the_score_no_longer_falls_and_keeps_the_best(tmp_path: Path) -> None:
    stage = Line([9.0, 3.0, 1.0, 2.0, 2.0, 2.0])
    lines = run(stage, tmp_path, steps=50, keep_best="wer", patience=2)
    assert len(stage.evaluated) == 5, "two evaluations without a better score"
    assert stage.weight == stage.evaluated[2] and any("wer has not fallen for 2" in line for line in lines)
    with pytest.raises(ConfigError, match="this stage has wer"):
        run(Line([1.0]), tmp_path / "other", keep_best="cer")


@pytest.mark.parametrize("patience", [0, 2])
def test_a_finished_run_trains_nothing_more(tmp_path: Path, patience: int) -> None:
    run(Line([3.0, 4.0, 5.0, 6.0, 7.0]), tmp_path, keep_best="wer", patience=patience)
    state = (tmp_path / STATE).read_bytes()
    again = Line([3.0] * 9)
    assert any("nothing is left to train" in line for line in run(again, tmp_path, keep_best="wer", patience=patience))
    assert again.seen == 0 and (tmp_path / STATE).read_bytes() == state


def test_settings_that_changed_on_the_way_are_told(tmp_path: Path) -> None:
    run(Line([1.0] * 9), tmp_path, lr=1e-3)
    lines = run(Line([1.0] * 9), tmp_path, steps=25, lr=1e-2)
    assert any("other settings: steps 25 instead of 20, lr 0.01 instead of 0.001" in line for line in lines)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_equals_uninterrupted(corpus: Path, tmp_path: Path, optimizer: str) -> None:
    def train(folder: Path, steps: int) -> dict[str, torch.Tensor]:
        # A constant learning rate, because the decay depends on the number of steps asked for.
        recipe = small_recipe(optimizer=optimizer, floor=1.0, steps=steps)
        build(recipe, Materials(corpus, folder), ("tokenizer", "encoder"), silent)
        return load_file(folder / "encoder" / STATE)

    whole = train(tmp_path / "whole", 7)
    train(tmp_path / "parts", 3)
    parts = train(tmp_path / "parts", 7)
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)


def test_a_run_that_is_asked_to_stop_is_saved_first(tmp_path: Path) -> None:
    class Stopped(Line):
        def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            if self.seen == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(Stopped([2.0] * 9), tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert any("going on from step 7 of 20" in line for line in run(Line([2.0] * 9), tmp_path))


def test_a_second_signal_ends_it_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
