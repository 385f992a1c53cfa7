"""`load_model`: which checkpoint, where, and in which precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redline.checkpoints.folder import bundled_names, is_quantized, resolve
from redline.engine.precision import pick_dtype
from redline.errors import CheckpointError, RedlineError
from redline.load import load_model
from tests.builders import tiny_checkpoint

JFK = Path(__file__).parent / "data" / "jfk.flac"


def test_load_model_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model("no-such-model")
    folder = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(RedlineError, match="allowed here are auto, cpu"):
        load_model(folder, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(RedlineError, match="'cuda' is not available"):
            load_model(folder, device="cuda")
    with pytest.raises(RedlineError, match=r"allowed on \w+ are float32, bfloat16"):
        load_model(folder, dtype="int4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float32])
def test_dtype_is_what_was_asked_for(tmp_path: Path, dtype: str | torch.dtype) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "model"), device="cpu", dtype=dtype)
    assert str(model.recognizer.dtype).endswith(str(dtype).removeprefix("torch."))  # type: ignore[attr-defined]
    assert model.transcribe(JFK).segments


@pytest.mark.parametrize(
    ("bf16", "int8", "quantized", "expected"),
    [
        (True, True, True, torch.bfloat16),
        (False, True, True, torch.int8),
        (False, True, False, torch.float32),  # nothing is rounded to int8 unasked
        (False, False, True, torch.float32),
    ],
)
def test_dtype_follows_the_device_and_the_weights_on_disk(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, int8: bool, quantized: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr("redline.engine.precision.has_fast_bf16", lambda: bf16)
    monkeypatch.setattr("redline.engine.precision.has_fast_int8", lambda: int8)
    assert pick_dtype(None, torch.device("cpu"), is_quantized=quantized) == expected
    assert pick_dtype(None, torch.device("cpu"), reads_prompts=True, is_quantized=quantized) == torch.float32
    assert pick_dtype(None, torch.device("cuda"), is_quantized=quantized) == torch.bfloat16
    assert pick_dtype(None, torch.device("mps"), is_quantized=quantized) == torch.float32


def test_bundled_weights_are_int8_on_disk_and_those_of_a_test_are_not(tmp_path: Path) -> None:
    assert all(is_quantized(resolve(name)) for name in bundled_names())
    assert not is_quantized(tiny_checkpoint(tmp_path / "model"))


def test_a_model_has_another_identity_where_weights_or_options_are_others(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    identity = load_model(folder).identity()
    assert load_model(folder, threads=1).identity() == identity, "how many threads compute changes no text"
    assert load_model(folder, punctuate=False).identity() != identity
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_model(folder).identity() != identity
