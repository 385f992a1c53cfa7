"""One reader learns, others only score."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.manifest import Utterance
from redline_recipes.tiny import one_reader as script


def test_a_reader_is_divided_and_other_readers_only_score() -> None:
    rows = [
        Utterance(f"{who}{n}", Path("a.wav"), "a", 60.0, speaker=who, split="dev") for who in "ab" for n in range(10)
    ]
    teach, score = script.divide(rows, "a", minutes=5)
    assert len(teach) == 5 and {row.speaker for row in teach} == {"a"}
    assert [sum(row.source == source for row in score) for source in (script.READER, script.OTHERS)] == [5, 10]
    assert not {row.id for row in teach} & {row.id for row in score}
    assert len(script.divide(rows, "a", minutes=99)[0]) == 7, "three tenths are left to score"
    with pytest.raises(SystemExit, match="no speaker c in this split; there are a, b"):
        script.divide(rows, "c", minutes=5)
