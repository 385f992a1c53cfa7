"""What stages on speech have in common."""

from __future__ import annotations

from redline.train.loop.stage import rates


def test_watched_scores_know_no_case_and_no_marks() -> None:
    assert rates(["HELLO, THERE!"], ["hello there"], ["en"]) == (0.0, 0.0)
    assert rates(["GRÜSS GOTT", "..."], ["grüss gott", "x"], ["de", "de"]) == (0.0, 0.0), (
        "an empty reference is left out"
    )
    assert rates(["..."], ["x"], ["en"]) == (100.0, 100.0)
