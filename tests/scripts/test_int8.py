"""`scripts/int8.py` halves a checkpoint and keeps what belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.checkpoints.folder import resolve
from redline.checkpoints.shared import DRAFT_LM, SHARED
from tests.scripts.loading import script


@pytest.mark.parametrize("name", ["tiny", "tiny-plus"])
def test_everything_of_a_checkpoint_is_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["int8.py", name, str(tmp_path / "out")])
    assert script("int8").main() == 0
    of_other_weights = {"README.md", "word_confidence.json", SHARED}
    expected = {file.name for file in resolve(name).iterdir()} - of_other_weights | {DRAFT_LM}
    assert {file.name for file in (tmp_path / "out").iterdir()} == expected


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr("sys.argv", ["int8.py", "tiny", str(tmp_path)])
    assert script("int8").main() == 2
    assert "already there" in capsys.readouterr().err and (tmp_path / "mine").read_text() == "mine"
