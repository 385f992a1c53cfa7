"""What `redline_recipes.tiny.joined_speech` counts."""

from __future__ import annotations

from pathlib import Path

from redline_recipes.tiny import joined_speech as joined


def test_joined_speech_is_counted_at_its_borders() -> None:
    words = [joined.Word(n, n + 0.8, word) for n, word in enumerate("abcd")]
    row = joined.Utterance("x", Path("a"), "B x", 2.0, start=0.9, end=2.9)
    assert joined.compare([row], words) == joined.Count(2, 1, 1, 4)
