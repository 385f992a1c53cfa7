"""Anchors of a transcript."""

from __future__ import annotations

from redline.prepare.align_transcript import anchors


def test_anchors_rise_on_both_sides_and_stand_only_once() -> None:
    reference, hypothesis = "abcxyzabcdefghi", "defqabcxyzrdeghi"
    assert anchors(list(reference), list(hypothesis)) == [(1, 5), (2, 6), (3, 7), (12, 13)], (
        "a b c comes twice, and d e f would turn the order"
    )
