"""Dropout with cheap masks is dropout."""

from __future__ import annotations

import pytest
import torch

from redline.models.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    y = Dropout(rate)(torch.ones(501, 401))
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert y[y != 0].unique().numel() == 1


def test_the_seed_of_torch_decides_and_each_call_draws_anew() -> None:
    x, drop = torch.ones(7, 33), Dropout(0.5)
    torch.manual_seed(1)
    first, second = drop(x), drop(x)
    torch.manual_seed(1)
    assert torch.equal(first, drop(x)) and not torch.equal(first, second)


def test_gradients_go_where_values_went() -> None:
    x = torch.randn(50, 30, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y.detach() == 0)


def test_nothing_is_dropped_where_nothing_should_be() -> None:
    x = torch.randn(4, 5)
    assert torch.equal(Dropout(0.0)(x), x) and torch.equal(Dropout(0.5).eval()(x), x)
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(x.bfloat16()).dtype == torch.bfloat16 and Dropout(0.5)(x[:0]).shape == (0, 5)
