"""Optimizers, learning rate, and options that mean nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from redline.errors import ConfigError
from redline.train.loop.optim import Muon, TrainingOptions, learning_rate, optimizers, orthogonal


def test_muon_steps_as_that_of_torch_does() -> None:
    torch.manual_seed(0)
    start = torch.randn(48, 96)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    own = Muon([ours], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(48, 96)
        theirs.grad = ours.grad.clone()
        own.step()
        other.step()
    # The other one computes in bfloat16.
    assert (ours - theirs).abs().max() < 0.02 * (ours - start).abs().max()
    assert own.state_dict()["state"].keys() == other.state_dict()["state"].keys()
    values = torch.linalg.svdvals(orthogonal(torch.randn(40, 20)))
    assert values.min() > 0.5 and values.max() < 1.4


def test_half_width_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for computes, multiplies in ((True, True), (True, False), (False, False)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda computes=computes: computes)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda multiplies=multiplies: multiplies)
        assert TrainingOptions().uses_bf16(cpu) == multiplies and TrainingOptions().uses_bf16(cuda)
        assert not any(TrainingOptions(precision="no").uses_bf16(device) for device in (cpu, cuda))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    options = TrainingOptions(steps=100, lr=1.0, warmup_steps=10, decay_share=0.5, floor=0.1)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[20] == 1.0 and rates[49] == 1.0
    assert rates[99] == pytest.approx(0.1, abs=0.03)
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_the_learning_rate_may_fall_along_a_cosine() -> None:
    options = TrainingOptions(steps=100, lr=1.0, warmup_steps=10, decay_share=0.9, floor=0.1, decay="cosine")
    rates = [learning_rate(step, options) for step in range(101)]
    straight = [learning_rate(step, replace(options, decay="linear")) for step in range(101)]
    assert rates[:11] == straight[:11] and rates[100] == straight[100] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(straight[55]) and rates[30] > straight[30] and rates[80] < straight[80]
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_new_heads_may_learn_faster_than_the_body_that_they_read() -> None:
    parts = {"out": torch.nn.Linear(4, 4), "to_out": torch.nn.Linear(4, 4), "language_head": torch.nn.Linear(4, 2)}
    module = torch.nn.ModuleDict(parts)

    def shares(options: TrainingOptions) -> dict[str, float]:
        groups = [group for optimizer in optimizers(module, options) for group in optimizer.param_groups]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        return {names[id(own)]: group["lr_share"] for group in groups for own in group["params"]}

    plain = shares(TrainingOptions(lr=1e-4))
    assert set(plain.values()) == {1.0} and len(plain) == 6
    own = shares(TrainingOptions(lr=1e-4, head_lr=5e-4))
    faster = {name for name, share in own.items() if share == pytest.approx(5.0)}
    assert faster == {"out.weight", "out.bias", "language_head.weight", "language_head.bias"}
    assert {own[name] for name in own.keys() - faster} == {1.0}


def test_options_that_mean_nothing_are_refused() -> None:
    for name in ("lr", "head_lr", "warmup_steps", "decay_share", "floor", "weight_decay", "clip", "average_decay"):
        for value in (-1.0, math.nan, math.inf):
            with pytest.raises(ConfigError, match=f"{name} is"):
                TrainingOptions(**{name: value})
    for name, value in {
        "steps": -1,
        "accumulate": 0,
        "decay": "exponential",
        "optimizer": "sgd",
        "precision": "fp8",
    }.items():
        with pytest.raises(ConfigError, match=f"{name} is '?{value}'?; allowed are"):
            TrainingOptions(**{name: value})
    with pytest.raises(ConfigError, match="patience needs keep_best"):
        TrainingOptions(patience=1)
