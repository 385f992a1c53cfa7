"""Hours of joined speech are measured without networks."""

from __future__ import annotations

from pathlib import Path

import redline
from tests.scripts.loading import script

hours = script("hours")
DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"


def test_a_minute_of_joined_speech_has_as_many_words_as_speech_has() -> None:
    values = hours.run(DEMO, "fake", 1 / 60)
    assert 100 <= values["words"] <= 60 * hours.WORDS_PER_S
    assert values["segments"] > 1 and values["seconds_per_hour"] > 0
