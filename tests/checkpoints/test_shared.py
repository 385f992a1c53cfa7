"""Checkpoints that share an encoder or n-grams with a folder beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import ar, folder, shared
from redline.errors import CheckpointError

WEIGHTS, DRAFT_LM, SHARED = shared.WEIGHTS, shared.DRAFT_LM, shared.SHARED


def part_with(whole: Path, lender: Path) -> Path:
    """Move encoder and n-grams of a checkpoint into a folder beside it, among other tensors."""
    lender.mkdir()
    tensors = load_file(whole / WEIGHTS)
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    others = {"encoder.out_bpe.weight": torch.ones(3, 2), "language_model.model.norm.weight": torch.ones(2)}
    save_file(encoder | others, lender / WEIGHTS)
    save_file({name: tensors[name] for name in tensors.keys() - encoder.keys()}, whole / WEIGHTS)
    (whole / DRAFT_LM).rename(lender / DRAFT_LM)
    declare(whole, lender)
    return whole


def declare(borrower: Path, lender: Path, **more: Any) -> None:
    digests = {part: shared.part_digest(lender / file, part)[0] for part, (file, _) in shared.SHARED_PARTS.items()}
    (borrower / SHARED).write_text(json.dumps({"folder": lender.name, **digests, **more}))


@pytest.fixture
def parted(answering: Path, tmp_path: Path) -> Path:
    shutil.copytree(answering, tmp_path / "whole")
    return part_with(answering, tmp_path / "lender")


def test_it_loads_to_the_bit_as_what_stands_alone(parted: Path, tmp_path: Path) -> None:
    alone, sharing = ar.load_ar(tmp_path / "whole"), ar.load_ar(parted)
    expected, tensors = alone.model.state_dict(), sharing.model.state_dict()
    assert expected.keys() == tensors.keys() and all(torch.equal(expected[name], tensors[name]) for name in expected)
    assert alone.draft_lm is not None and sharing.draft_lm is not None
    assert alone.draft_lm.options == sharing.draft_lm.options
    assert (alone.draft_lm.grams(1).probs == sharing.draft_lm.grams(1).probs).all()
    assert ar.load_ar(parted, draft_lm="none").draft_lm is None


def test_what_else_the_other_folder_holds_may_change(parted: Path, tmp_path: Path) -> None:
    lender = tmp_path / "lender"
    tensors = load_file(lender / WEIGHTS)
    save_file({**tensors, "encoder.out_bpe.weight": torch.zeros(5), "more": torch.zeros(1)}, lender / WEIGHTS)
    assert ar.load_ar(parted).draft_lm is not None


def test_what_is_saved_stands_alone(parted: Path, tmp_path: Path) -> None:
    checkpoint = ar.load_ar(parted)
    saved = ar.save_ar(tmp_path / "far" / "saved", checkpoint.model, parted / "tokenizer.json", checkpoint.draft_lm)
    shutil.rmtree(tmp_path / "lender")
    again = ar.load_ar(saved)
    assert not (saved / SHARED).exists() and again.draft_lm is not None
    before, after = checkpoint.model.encoder.state_dict(), again.model.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_is_said_what_is_missing_and_what_differs(parted: Path, tmp_path: Path) -> None:
    lender = tmp_path / "lender"
    tensors = load_file(lender / WEIGHTS)
    name = next(name for name in tensors if name.endswith("ff1.up_proj.weight"))
    for changed in (tensors[name] + 1, tensors[name][:-1].clone()):
        save_file({**tensors, name: changed}, lender / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"its encoder is not the one that .*put back the file"):
            ar.load_ar(parted)
    save_file(tensors, lender / WEIGHTS)
    whole = (lender / DRAFT_LM).read_bytes()
    (lender / DRAFT_LM).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"its draft_lm is not the one that"):
        ar.load_ar(parted)
    (lender / DRAFT_LM).write_bytes(whole)
    shutil.copy(lender / DRAFT_LM, parted / DRAFT_LM)
    with pytest.raises(CheckpointError, match=r"shared\.json says that it is .*; remove one"):
        ar.load_ar(parted)
    (parted / DRAFT_LM).unlink()
    save_file({**load_file(parted / WEIGHTS), name: tensors[name]}, parted / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"is both in .*; remove one"):
        ar.load_ar(parted)
    shutil.rmtree(lender)
    with pytest.raises(CheckpointError, match=r"of the folder 'lender' beside it.* not there; copy both folders"):
        ar.load_ar(parted)


@pytest.mark.parametrize(
    "name",
    [
        "../lender",
        "..",
        ".",
        "",
        "/etc",
        "a/b",
        "a\\b",
        "lender\n",
        ".hidden",
        "x" * 200,
        "lender/../lender",
        ["a"],
        {},
    ],
)
def test_hostile_names_are_refused(parted: Path, tmp_path: Path, name: object) -> None:
    declare(parted, tmp_path / "lender", folder=name)
    with pytest.raises(CheckpointError, match=r"the name of a folder beside this one"):
        folder.headers(parted)


def test_nothing_outside_of_the_folder_beside_it_is_read(parted: Path, tmp_path: Path) -> None:
    lender, far = tmp_path / "lender", tmp_path / "far" / "lender"
    far.parent.mkdir()
    lender.rename(far)
    lender.symlink_to(far)
    with pytest.raises(CheckpointError, match="another folder beside this one is needed, not a link"):
        folder.headers(parted)
    lender.unlink()
    lender.mkdir()
    (lender / WEIGHTS).symlink_to(far / WEIGHTS)
    with pytest.raises(CheckpointError, match="a link out of the folder"):
        folder.headers(parted)
    declare(parted, far, folder=parted.name)
    with pytest.raises(CheckpointError, match="another folder beside this one"):
        folder.headers(parted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": "x"}, "allowed are the name of a folder"),
        ({"encoder": None}, "its encoder is not the one"),
        ({"encoder": ["x"]}, "allowed are the name of a folder"),
        ({"encoder": "0" * 64}, "its encoder is not the one"),
        ({"folder": 3}, "of the folder '3' beside it"),
    ],
)
def test_what_it_says_is_checked(parted: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    declare(parted, tmp_path / "lender", **change)
    with pytest.raises(CheckpointError, match=message):
        folder.headers(parted)


def test_a_folder_by_another_way_is_the_same(parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parted)
    assert ar.load_ar(Path()).draft_lm is not None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(parted)
    assert ar.load_ar(tmp_path / "elsewhere" / "link").draft_lm is not None
