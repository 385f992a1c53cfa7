"""`scripts/share.py` takes from a checkpoint what the folder beside it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import ar
from redline.checkpoints.shared import DRAFT_LM, SHARED, WEIGHTS
from tests import hostile
from tests.scripts.loading import script


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole checkpoint, and another with its encoder in half precision and its n-grams."""
    base = tmp_path_factory.mktemp("share")
    whole = hostile.answering(base / "whole")
    (base / "beside").mkdir()
    lender = Path(shutil.copytree(whole, base / "beside" / "lender"))
    tensors = {name: tensor for name, tensor in load_file(whole / WEIGHTS).items() if name.startswith("encoder.")}
    save_file({name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}, lender / WEIGHTS)
    return whole, lender


def test_the_copy_holds_the_rest_and_loads(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lender = folders
    out = lender.with_name("out")
    monkeypatch.setattr("sys.argv", ["share.py", str(whole), str(lender), str(out)])
    assert script("share").main() == 0
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()} - {DRAFT_LM} | {SHARED}
    assert not any(name.startswith("encoder.") for name in load_file(out / WEIGHTS))
    model, expected = ar.load_ar(out), ar.load_ar(whole)
    assert model.draft_lm is not None
    for name, tensor in expected.model.state_dict().items():
        assert torch.allclose(model.model.state_dict()[name].float(), tensor.float(), atol=2e-3)
    n_grams_only = lender.with_name("n-grams")
    monkeypatch.setattr("sys.argv", ["share.py", str(whole), str(lender), str(n_grams_only), "--parts", "draft_lm"])
    assert script("share").main() == 0
    assert (n_grams_only / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert ar.load_ar(n_grams_only).draft_lm is not None


def test_only_an_equal_encoder_is_shared(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = folders[0]
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    tensors = load_file(other / WEIGHTS)
    save_file({**tensors, "encoder.out.bias": tensors["encoder.out.bias"] + 1}, other / WEIGHTS)
    for out, message in (
        (tmp_path / "out", "its encoder.out.bias is not that of"),
        (tmp_path / "far" / "out", "in the same folder as"),
        (other, "must be new"),
    ):
        monkeypatch.setattr("sys.argv", ["share.py", str(whole), str(other), str(out)])
        assert script("share").main() == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "far").exists()
