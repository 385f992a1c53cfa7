"""The phrases that `scripts/keyword_lists.py` draws are said by nobody."""

from __future__ import annotations

from pathlib import Path

from tests.scripts.loading import script


def test_phrases_are_words_and_pairs_that_nobody_says(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The quick brown Foxes jumped over lazy hounds while dogs slept.")
    drawn = script("keyword_lists").phrases(tmp_path, {"quick", "over"}, 50, 0)
    assert {"Brown", "Brown Foxes", "Hounds While"} <= set(drawn) and len(set(drawn)) == len(drawn)
    assert not any("Quick" in phrase or "Over" in phrase.split() for phrase in drawn)
    assert script("keyword_lists").phrases(tmp_path, set(), 3, 0) == script("keyword_lists").phrases(
        tmp_path, set(), 3, 0
    )
