"""A frame store gives back what was appended, and goes on behind what was written whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redline.errors import DataError
from redline_recipes.distillation.frame_store import FrameStore


def test_rows_come_back_after_the_store_is_opened_again(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "states", 3, torch.float16)
    first, second = torch.randn(4, 3).half(), torch.randn(2, 3).half()
    store.append("a", first)
    store.append("b", second)
    again = FrameStore(tmp_path / "states", 3, torch.float16)
    assert list(again) == ["a", "b"] and "c" not in again and len(again) == 2
    assert torch.equal(again["a"], first) and torch.equal(again["b"], second)


def test_what_was_written_in_part_is_written_again(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "labels", 1, torch.int32)
    store.append("a", torch.tensor([[1], [2]]))
    with (tmp_path / "labels.frames").open("ab") as file:  # stopped between the rows and their line
        file.write(b"\0" * 6)
    again = FrameStore(tmp_path / "labels", 1, torch.int32)
    again.append("b", torch.tensor([[70_000]]))
    assert again["a"].tolist() == [[1], [2]] and again["b"].tolist() == [[70_000]]


def test_a_store_of_another_shape_is_refused(tmp_path: Path) -> None:
    FrameStore(tmp_path / "states", 3, torch.float16)
    with pytest.raises(DataError, match="width"):
        FrameStore(tmp_path / "states", 4, torch.float16)
