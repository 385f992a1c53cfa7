"""int8 weights on disk: what is read is the matrix within half a step, and a broken scale is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from redline import quantization
from redline.checkpoints import ar, nar
from redline.checkpoints.shared import WEIGHTS
from redline.errors import CheckpointError
from redline.train.run import dtype_of

BIG = "encoder.layers.0.ff1.up_proj.weight"


@given(seed=st.integers(0, 2**31), size=st.sampled_from([(3, 8), (5, 1), (4, 2, 3)]), power=st.integers(-4, 4))
def test_a_number_is_read_within_half_a_step(seed: int, size: tuple[int, ...], power: int) -> None:
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 10.0**power
    matrix[0] = 0.0
    numbers, scale = quantization.quantize_rows(matrix)
    assert numbers.dtype == torch.int8 and scale.shape == (len(matrix), *[1] * (matrix.dim() - 1))
    assert ((numbers * scale - matrix).abs() <= 0.501 * scale).all()
    assert not numbers[0].any(), "a row of zeros stays one"


@pytest.fixture
def byte_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A NAR checkpoint whose matrices, small as they are, take a byte a number."""
    monkeypatch.setattr(quantization, "SMALLEST", 64)
    model, _, _ = nar.load_nar(folder)
    return nar.save_nar(tmp_path / "int8", model, folder / "tokenizer.json", dtype=torch.float16, int8=True)


def test_a_nar_checkpoint_of_int8_weights_is_the_one_it_was_made_of(folder: Path, byte_weights: Path) -> None:
    before, now = nar.load_nar(folder)[0].state_dict(), nar.load_nar(byte_weights)[0].state_dict()
    stored = load_file(byte_weights / WEIGHTS)
    assert stored[BIG].dtype == torch.int8 and stored[BIG + "_scale"].shape == (len(stored[BIG]), 1)
    assert (byte_weights / WEIGHTS).stat().st_size < 0.5 * (folder / WEIGHTS).stat().st_size
    for name, tensor in before.items():
        step = 2.0 * tensor.abs().max() / 127.0 if tensor.dim() > 1 else tensor.abs().max() * 2.0**-10
        assert (now[name] - tensor).abs().max() <= step, name


def test_fine_tuning_goes_on_from_int8_weights_in_half_precision(byte_weights: Path) -> None:
    assert dtype_of(byte_weights) == torch.float16


def test_an_ar_checkpoint_may_have_int8_weights(answering: Path, tmp_path: Path) -> None:
    model, config = ar.load_ar(answering)[:2]
    path = ar.save_ar(tmp_path / "int8", model, answering / "tokenizer.json", dtype=torch.float16, int8=True)
    assert ar.load_ar(path)[1] == config


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda scale: scale[:-1], "a float for each row"),
        (lambda scale: scale[:, 0], "a float for each row"),
        (lambda scale: scale.int(), "a float for each row"),
        (lambda scale: scale * float("nan"), "NaN"),
        (lambda scale: scale * 1e30, "beyond the range"),
        (lambda scale: None, "numbers of type torch.int8"),
    ],
)
def test_scales_that_do_not_fit_are_refused(byte_weights: Path, change: object, seen: str) -> None:
    tensors = load_file(byte_weights / WEIGHTS)
    scale = change(tensors.pop(BIG + "_scale"))  # type: ignore[operator]
    if scale is not None:
        tensors[BIG + "_scale"] = scale.contiguous()
    save_file(tensors, byte_weights / WEIGHTS)
    with pytest.raises(CheckpointError, match=seen):
        nar.load_nar(byte_weights)


def test_a_scale_without_its_matrix_is_a_tensor_too_many(byte_weights: Path) -> None:
    tensors = load_file(byte_weights / WEIGHTS)
    tensors[BIG] = tensors[BIG].half()
    save_file(tensors, byte_weights / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"unexpected.*up_proj\.weight_scale"):
        nar.load_nar(byte_weights)
