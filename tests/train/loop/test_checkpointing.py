"""What is on the disk is whole: a full disk keeps the last state, and a state fits the model that it is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from redline.errors import DataError
from redline.train.loop import checkpointing
from redline.train.loop.checkpointing import EMA, make_folder, trained_tensors
from redline.train.run import Materials, build
from tests.corpus import silent, small_recipe
from tests.train.loop.line import Line, run


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_keeps_the_last_state_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run(Line([2.0] * 9), tmp_path, steps=10, keep_best="wer")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpointing, "save_file", full)
    with pytest.raises(DataError, match=r"disk is full.*the last state\.safetensors is kept.*same command"):
        run(Line([2.0] * 9), tmp_path, steps=15, keep_best="wer")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert not list(tmp_path.rglob("*partial*"))
    monkeypatch.undo()
    assert any("going on from step 10" in line for line in run(Line([2.0] * 9), tmp_path, steps=15, keep_best="wer"))


def test_a_state_of_another_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    build(small_recipe(steps=1), Materials(corpus, tmp_path), ("tokenizer", "encoder"), silent)
    other = small_recipe(steps=1)
    other = replace(other, encoder={**other.encoder, "hidden_dim": 24})
    with pytest.raises(DataError, match="another shape"):
        build(other, Materials(corpus, tmp_path), ("encoder",), silent)


def test_a_run_of_an_earlier_version_is_refused_and_never_begun_anew_in_silence(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("step-4")
    module = torch.nn.Linear(2, 2)
    with pytest.raises(DataError, match="a run of an earlier version"):
        checkpointing.load_state(tmp_path, module, EMA(module, 0.5), [])


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, reason in ((tmp_path / "file", "is no folder"), (tmp_path / "file" / "run", "is a file, not a folder")):
        with pytest.raises(DataError, match=f"{reason}; choose another --out"):
            make_folder(folder)


def test_what_is_frozen_is_neither_averaged_nor_saved() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    module[1].requires_grad_(False)
    buffers = {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert trained_tensors(module).keys() == {"0.bias", "2.weight", "2.bias"} | buffers


def test_an_average_is_exchanged_and_comes_back() -> None:
    module = torch.nn.Linear(2, 2)
    start = module.weight.detach().clone()
    ema = EMA(module, decay=0.5)
    module.weight.data += 1.0
    ema.update(module, step=100)
    for expected in (start + 0.5, start + 1.0):
        ema.swap(module)
        torch.testing.assert_close(module.weight.data, expected)
