"""What `scripts/keyword_weights.py` counts and draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.manifest import Utterance
from tests.scripts.loading import script


def test_said_and_unsaid_keywords_are_counted_and_drawn(tmp_path: Path) -> None:
    weights = script("keyword_weights")
    rows = [
        Utterance("a", "a.wav", "the drunken Sailor came home", 2.0, keywords=("Sailor", "drunken")),
        Utterance("b", "b.wav", "a sailor and a lantern", 2.0, keywords=("lantern",)),
    ]
    assert weights.lists_of(rows, 5, 0) == [(["Sailor", "drunken"], ["lantern"]), (["lantern"], ["drunken"])]
    score = weights.WeightScore()
    score.add({"sailor", "drunken"}, {"lantern"}, "The Sailor, with a lantern.", "en")
    assert (score.said, score.recognized, score.unsaid, score.false_alarms) == (2, 1, 1, 1)
    assert score.recall == pytest.approx(0.5)
    weights.picture({0.0: weights.WeightScore(), 1.0: score}, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
