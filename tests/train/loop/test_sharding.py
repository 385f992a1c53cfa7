"""Two processes that hold half of every parameter learn what one process learns, and leave whole tensors on disk."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp  # before the fork
from safetensors.torch import load_file

from redline.checkpoints import nar
from redline.errors import ConfigError
from redline.train.finetune import FinetuneOptions, finetune
from redline.train.loop import loop
from redline.train.loop.checkpointing import STATE
from redline.train.loop.distributed import is_first_process
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.sharding import full_tensors, placed_like, shard, sharding
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, build
from tests.corpus import learn, silent, small_tiny_recipe
from tests.processes import run_processes

FSDP = {  # as `accelerate launch --use_fsdp --fsdp_version 2` sets them
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def adapted(accumulate: int) -> NarRecipe:
    """An editor with adapters that learns from sound, and from drafts alone, which give the projector no gradient."""
    units = {"share": 0.8, "words": [2, 4], "batch_s": 4, "text_batch_s": 8, "text_share": 0.5, "epoch_batches": 8}
    sections = {
        "edit": {"lora_rank": 4},
        "auxiliary": {"audio_ctc_weight": 0.3, "punctuation_weight": 0.1},
        "encoder_cache": {"renderings": 1, "least_score": -100.0},
        "unit_selection": units,
    }
    recipe = small_tiny_recipe(
        sections, steps=4, accumulate=accumulate, floor=1.0, evaluate_every=2, keep_best="edited_wer"
    )
    return replace(recipe, projector={**recipe.projector, "dropout_prob": 0.0})


def edit(data: Path, books: Path, out: Path, accumulate: int) -> None:
    """Train and export the editor on top of the encoder and the language model that are in `out`."""
    build(adapted(accumulate), Materials(data, out, books), ("editor", "export"), silent)


def in_each_process(data: Path, books: Path, folder: Path) -> None:
    held: list[float] = []

    def noted(module: torch.nn.Module) -> None:
        total = sum(parameter.numel() for parameter in module.parameters())
        shard(module)
        held.append(sum(parameter.to_local().numel() for parameter in module.parameters()) / total)  # type: ignore[operator]

    def stop(line: str) -> None:
        if line.startswith("encoder 2/4"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "shard", noted)
        learn(data, folder / "first", 1, 1)
    assert 0.4 < held[0] < 0.6
    with pytest.raises(KeyboardInterrupt):
        learn(data, folder / "stopped", 4, 1, stop)
    if is_first_process():
        shutil.copytree(folder / "stopped", folder / "then-one")
    learn(data, folder / "stopped", 4, 1)
    learn(data, folder / "two", 4, 1)
    learn(data, folder / "then-two", 4, 1)
    edit(data, books, folder / "together", 1)
    options = FinetuneOptions(steps=3, lora_rank=4, batch_s=4, text="spoken", lr=1e-2)
    finetune(folder / "alone" / "model", data, folder / "tuned", options, silent)

    rank = torch.distributed.get_rank()
    full = torch.arange(12.0).view(3, 4)
    part = torch.nn.Linear(4, 3)
    part.weight.data = full + 100 * rank
    shard(part)
    assert torch.equal(part.weight.to_local(), full.chunk(2)[rank]), "all begin as the first process does"
    assert torch.equal(placed_like(-full, part.weight).to_local(), -full.chunk(2)[rank])
    gathered = full_tensors({"weight": part.weight.detach()})
    assert torch.equal(gathered["weight"], full) if rank == 0 else not gathered

    with pytest.raises(ConfigError, match='set optimizer = "adamw"'):
        sharding(TrainingOptions(optimizer="muon"))
    for name, value, advice in (
        ("FSDP_VERSION", "1", "add --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "leave offloading out"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "leave it out"),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match=advice):
            patch.setenv("FSDP_SYNC_MODULE_STATES", "false")  # what version 1 would do, it cannot on CPUs
            patch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
            patch.setenv(name, value)
            sharding(TrainingOptions())


@pytest.fixture(scope="module")
def folder(corpus: Path, books: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns and what two learn, side by side."""
    folder = tmp_path_factory.mktemp("fsdp")
    base = Materials(corpus, folder / "alone", books)
    build(small_tiny_recipe(steps=1), base, ("tokenizer", "encoder", "lm"), silent)
    shutil.copytree(folder / "alone", folder / "together")
    edit(corpus, books, folder / "alone", 2)
    learn(corpus, folder / "one", 1, 2)
    learn(corpus, folder / "one-for-long", 4, 2)
    learn(corpus, folder / "then-two", 2, 2)
    run_processes(2, in_each_process, corpus, books, folder, **FSDP)
    learn(corpus, folder / "then-one", 4, 2)
    return folder


def state(out: Path, name: str, stage: str = "encoder") -> dict[str, torch.Tensor]:
    """A saved state without the statistics of batch norms, which tell of the first process's batches alone."""
    tensors = load_file(out / stage / STATE)
    return {key: tensor for key, tensor in tensors.items() if key.startswith(name) and "running_" not in key}


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[key], second[key], rtol=1e-3, atol=1e-6) for key in first
    )


def test_gradients_are_those_of_one_process(folder: Path) -> None:
    # After one update the first moments are the gradients, a fiftieth of them.
    alone, together = state(folder / "one", "optimizer0"), state(folder / "first", "optimizer0")
    assert close(alone, together)
    assert max(float(tensor.abs().max()) for name, tensor in alone.items() if name.endswith("exp_avg")) > 1e-4


@pytest.mark.parametrize("name", ["model", "ema", "optimizer0"])
def test_weights_and_their_average_are_those_of_one_process(folder: Path, name: str) -> None:
    assert close(state(folder / "one-for-long", name), state(folder / "two", name))
    assert not close(state(folder / "one", "model"), state(folder / "two", "model"))


@pytest.mark.parametrize("name", ["model", "ema", "optimizer0"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(folder: Path, name: str) -> None:
    stopped, whole_run = state(folder / "stopped", name), state(folder / "two", name)
    assert stopped.keys() == whole_run.keys()
    assert all(torch.equal(tensor, whole_run[key]) for key, tensor in stopped.items())


@pytest.mark.parametrize("run", ["then-one", "then-two"])
def test_a_run_goes_on_with_another_number_of_processes(folder: Path, run: str) -> None:
    for name in ("model", "ema", "optimizer0"):
        assert close(state(folder / "one-for-long", name), state(folder / run, name))


def test_an_editor_with_adapters_learns_and_is_exported_as_by_one_process(folder: Path) -> None:
    assert '"text"' in (folder / "together" / "editor" / "log.jsonl").read_text(), "there were drafts without sound"
    for name in ("model", "ema"):
        assert close(state(folder / "alone", name, "editor"), state(folder / "together", name, "editor"))
    first, second = (load_file(folder / out / "editor" / "best.safetensors") for out in ("alone", "together"))
    assert close(first, second)
    alone, together = (nar.load_nar(folder / out / "model")[0].state_dict() for out in ("alone", "together"))
    assert alone.keys() == together.keys()
    assert all(torch.allclose(alone[key], together[key], atol=1e-3) for key in alone), "in half precision"


def test_a_finetuned_checkpoint_is_whole(folder: Path) -> None:
    old = nar.load_nar(folder / "alone" / "model")[0].state_dict()
    new = nar.load_nar(folder / "tuned" / "model")[0].state_dict()
    changed = {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    assert new.keys() == old.keys() and any("q_proj" in name for name in changed)
    assert all(tensor.isfinite().all() for tensor in new.values())


def test_one_process_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not sharding(TrainingOptions(optimizer="muon"))
