"""Sums of int8 are exact, rows do not see each other, and stored numbers stay what they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from redline.checkpoints.folder import resolve
from redline.engine import int8
from redline.engine.int8 import ZERO, Int8Matrix, Kernel, joined, kernel, quantized_rows, to_int8
from redline.load import load_model
from redline.models.draft_head import DraftHead
from redline.models.nar import NarModel
from redline.quantization import SCALE
from tests.builders import tiny_config

SIZES = [(256, 64), (2048, 32), (4096, 24), (37, 130)]


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("width", "rows"), SIZES)
def test_sums_are_exact_for_the_largest_numbers(width: int, rows: int) -> None:
    groups = torch.tensor(int8.PROBES[kernel().largest_pair], dtype=torch.int8)
    ints = groups.repeat(rows, -(-width // 4))[:, :width]
    matrix = Int8Matrix(ints, torch.ones(len(ints)))
    x = torch.tensor([1, ZERO, 2 * ZERO - 1], dtype=torch.uint8)[:, None].expand(-1, width).contiguous()
    exact = (x.double() - ZERO) @ ints.double().T
    assert torch.equal(matrix._sums(x), exact.float())


@pytest.mark.parametrize(("width", "rows"), SIZES)
def test_whatever_multiplies_gives_the_same_bits(width: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x, bias = draw(rows, width), draw(50, width, seed=1), draw(rows, seed=2)
    here, pair = Int8Matrix.of(weight)(x, bias), kernel().largest_pair
    monkeypatch.setattr(int8, "kernel", lambda: Kernel("float64", pair))
    assert torch.equal(Int8Matrix.of(weight)(x, bias), here)


@pytest.mark.parametrize(
    ("most", "first", "taken"),
    [
        (2**31 - 1, 0, Kernel("oneDNN")),  # VNNI adds in 32 bits
        (2**15 - 1, 0, Kernel("oneDNN", int8.NARROW_PAIR)),  # two products in 16 bits
        (2**15 - 1, 1, Kernel("float64")),  # of other neighbours
        (2**14 - 1, 0, Kernel("float64")),
    ],
)
def test_pairs_of_weights_are_as_large_as_the_kernel_sums_exactly(
    monkeypatch: pytest.MonkeyPatch, most: int, first: int, taken: Kernel
) -> None:
    def pairs(rows: torch.Tensor, scale: float, zero: int, weight: torch.Tensor, *_: object) -> torch.Tensor:
        products = (rows.double()[:, None] * weight.double()).roll(first, dims=-1)
        sums = products.unflatten(-1, (-1, 2)).sum(-1).clamp(-most - 1, most).sum(-1)
        return (sums - zero * weight.double().sum(-1)).float()

    monkeypatch.setattr(
        int8, "KERNEL", SimpleNamespace(qlinear_prepack=lambda weight, _: weight, qlinear_pointwise=pairs)
    )
    assert kernel.__wrapped__() == taken
    monkeypatch.setattr(int8, "KERNEL", object())
    assert kernel.__wrapped__().name == "float64"


@pytest.mark.parametrize("width", [64, 37])
def test_no_pair_of_weights_is_larger_than_the_kernel_sums(width: int) -> None:
    ints = torch.tensor([[127] * 4, [-128] * 4, [100, -128, 28, 101], [60] * 4]).repeat(50, -(-width // 4))[:, :width]
    ints = torch.cat((ints, torch.randint(-128, 128, (500, width), generator=torch.Generator().manual_seed(0))))
    narrow, scales = int8.within_pairs(ints.to(torch.int8), torch.ones(len(ints)), int8.NARROW_PAIR)
    sums = F.pad(narrow.long(), (0, width % 2)).unflatten(1, (-1, 2)).sum(-1).abs()
    assert int(sums.max()) <= int8.NARROW_PAIR
    assert float((narrow * scales[:, None] - ints).abs().max()) <= float(scales.max()) / 2 + 1e-4
    assert torch.equal(narrow[3], ints[3]) and float(scales[3]) == 1.0  # it was narrow before
    assert int8.within_pairs(ints, scales, int8.ANY_PAIR)[0] is ints


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_mapped_alone_as_among_any_number(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        matrix, bias, x = Int8Matrix.of(draw(96, 200)), draw(96), draw(700, 200, seed=1)
        together = matrix(x, bias)
        for first, count in ((0, 1), (3, 2), (690, 10), (5, 333)):
            assert torch.equal(matrix(x[first : first + count], bias), together[first : first + count])
    finally:
        torch.set_num_threads(before)


def test_a_row_is_close_to_what_it_was() -> None:
    weight, x = draw(96, 200), draw(50, 200, seed=1)
    exact = x @ weight.T
    assert float((Int8Matrix.of(weight)(x) - exact).norm() / exact.norm()) < 0.03


def test_rows_of_zeros_and_rows_that_are_no_numbers_harm_only_themselves() -> None:
    matrix, bias, x = Int8Matrix.of(draw(96, 64)), draw(96), draw(5, 64)
    x[1], x[2], x[3, 7] = 0.0, torch.nan, torch.inf
    y = matrix(x, bias)
    assert torch.equal(y[1], bias) and not y[2].isfinite().any() and not y[3].isfinite().any()
    assert torch.equal(y[[0, 4]], matrix(x[[0, 4]], bias))
    ints, scales = quantized_rows(torch.tensor([[-2.0, 0.0, 1.0, 2.0]]))
    assert ints.tolist() == [[1, 128, 192, 255]] and float(scales) == pytest.approx(2 / 127)


def test_matrices_are_joined_and_scaled_by_their_scales() -> None:
    first, second, x = Int8Matrix.of(draw(32, 64)), Int8Matrix.of(draw(16, 64, seed=1)), draw(9, 64, seed=2)
    both = joined([0.5 * first, second])
    assert torch.equal(both(x), torch.cat((0.5 * first(x), second(x)), dim=-1))


@pytest.mark.parametrize("name", ["tiny", "tiny-multi", "tiny-plus"])
def test_numbers_of_a_bundled_model_are_not_rounded_again(name: str) -> None:
    tensors = load_file(resolve(name) / "model.safetensors")
    stored = {key: tensor for key, tensor in tensors.items() if tensor.dtype == torch.int8}
    assert len(stored) > 30
    for key, ints in stored.items():
        scale = tensors[key + SCALE]
        matrix = Int8Matrix.of((ints.float() * scale.float()).half())
        assert torch.equal(matrix.ints, ints.flatten(1)), key
        torch.testing.assert_close(matrix.scales, scale.flatten().float(), rtol=2**-10, atol=0.0)


def test_linear_maps_are_int8_and_the_rest_float32() -> None:
    model = NarModel(tiny_config(200)).eval().half()
    encoder = model.encoder
    ends = [encoder.input_linear, encoder.out, encoder.out_mid]
    maps = [part for part in model.modules() if isinstance(part, (torch.nn.Linear, DraftHead)) and part not in ends]
    to_int8(model)
    to_int8(model)  # a second time changes nothing
    assert maps and all(isinstance(part.weight, Int8Matrix) for part in maps)
    assert isinstance(model.language_model.model.embed_tokens.weight, Int8Matrix)
    rest = (*model.parameters(), *model.buffers())
    assert all(part.dtype == torch.float32 for part in rest if part.is_floating_point())


@pytest.mark.parametrize("options", [{}, {"effort": "draft"}, {"engine": "plain"}])
@pytest.mark.parametrize("name", ["tiny", "tiny-plus"])
def test_a_bundled_model_says_in_int8_what_it_says(name: str, options: Any, demo: Path) -> None:
    text = load_model(name, dtype="int8", **options).transcribe(demo).text
    assert "fellow america" in text.lower() and "your country" in text
