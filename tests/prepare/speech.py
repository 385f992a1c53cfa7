"""What is said in a recording of the tests, and what is not."""

from __future__ import annotations

from pathlib import Path

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
TEXT = "And so, my fellow Americans: ask not what your country can do for you - ask what you can do for your country."
OTHER = "The quick brown fox jumps over the lazy dog while seven wizards watch from far away and nobody asks them why."
WORDS = TEXT.replace("- ", "").split()
