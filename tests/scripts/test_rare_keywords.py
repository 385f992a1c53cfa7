"""scripts/rare_keywords.py: rare words of a test set become keywords of its rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from redline.manifest import read_manifest, write_manifest
from tests.scripts.loading import script


@pytest.fixture(scope="module")
def rare_keywords() -> ModuleType:
    return script("rare_keywords")


def test_rare_words_of_rows_become_their_keywords(tmp_path: Path, rare_keywords: ModuleType) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("The GOSPEL is welcome.\nWelcome, gospel!\n", encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"audio": "1.wav", "text": "Mister Quilter's gospel, welcome", "split": "test", "source": "mine", "more": 1},
        {"audio": "2.wav", "text": "APOSTLE OF THE MIDDLE CLASSES", "split": "test"},
        {"audio": "3.wav", "text": "gospel", "split": "test"},
        {"audio": "4.wav", "text": "mister mister", "split": "train"},
    ]
    data, out = write_manifest(tmp_path / "m.jsonl", rows), tmp_path / "deep" / "k.jsonl"
    arguments = ["--data", str(data), "--text", str(data), "--text", str(tmp_path / "books"), "--out", str(out)]
    assert rare_keywords.main([*arguments, "--below", "2"]) == 0
    gospel, apostle = read_manifest(out, split="test")
    assert gospel.keywords == ("Quilter's",) and apostle.keywords == ("apostle", "middle", "classes")
    assert gospel.audio == tmp_path / "1.wav" and '"more": 1' in out.read_text(encoding="utf-8")
    assert rare_keywords.main([*arguments, "--below", "2", "--most", "2"]) == 0
    first = read_manifest(out)
    assert len(first[1].keywords) == 2
    assert rare_keywords.main([*arguments, "--below", "2", "--most", "2"]) == 0 and read_manifest(out) == first


def test_rare_words_without_any_are_told(
    tmp_path: Path, rare_keywords: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_manifest(tmp_path / "m.jsonl", [{"audio": "1.wav", "text": "a few tiny ones", "split": "test"}])
    arguments = ["--data", str(data), "--text", str(data), "--out", str(tmp_path / "k.jsonl")]
    assert rare_keywords.main(arguments) == 2 and "raise --below" in capsys.readouterr().err
    assert rare_keywords.main([*arguments, "--text", str(tmp_path / "gone")]) == 2
    assert "gone: neither a manifest" in capsys.readouterr().err
    assert not (tmp_path / "k.jsonl").exists()
