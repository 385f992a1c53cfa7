"""`redline_recipes.tiny.unread`: the paragraphs that n-grams were not counted on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from redline.checkpoints.folder import ASSETS
from redline.decoding.ngram import DraftOptions
from redline.normalize import spoken
from redline.tokenizer import Tokenizer
from redline_recipes.tiny import unread as script
from redline_recipes.tiny.ngram import NgramOptions, make_draft_lm

WORDS = ["der", "Garten", "lag", "still", "und", "ein", "Wagen", "kam", "über", "die", "Brücke", "am", "Fenster"]


def paragraph(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a tokenizer and n-grams of paragraphs 0 to 19."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(ASSETS / "tiny-multi" / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    lines = [spoken(paragraph(seed), "all") for seed in range(20)]
    make_draft_lm(lines, tokenizer, 0, NgramOptions(order=6), DraftOptions(), folder, lambda line: None)
    return folder


def test_what_was_counted_is_told_from_what_was_not(checkpoint: Path, tmp_path: Path) -> None:
    books, out = tmp_path / "books", tmp_path / "out" / "unread.txt"
    books.mkdir()
    new = [paragraph(seed) for seed in range(100, 105)]
    lines = [paragraph(seed) for seed in range(20)] + new + [paragraph(200, words=4)]
    (books / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    call = ["--model", str(checkpoint), "--text", str(books), "--out", str(out), "--most", "0.5"]
    assert script.main(call) == 0
    assert out.read_text(encoding="utf-8").splitlines() == new, "a short one is left out: it tells nothing"
    assert script.main([*call[:-1], "0"]) == 1 and out.read_text(encoding="utf-8") == ""
    with pytest.raises(SystemExit):
        script.main([*call, "--order", "7"])
