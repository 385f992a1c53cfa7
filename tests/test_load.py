"""`load_model`: which checkpoint, where, and in which precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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


def test_dtype_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("redline.engine.precision.has_fast_bf16", lambda is_fast=is_fast: is_fast)
        assert pick_dtype(None, torch.device("cpu")) == expected
        assert pick_dtype(None, torch.device("cpu"), reads_prompts=True) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.bfloat16


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
