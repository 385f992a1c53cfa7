"""Clip and token budgets: how long a clip may be for each kind of answer, and how many tokens the answer may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipBudget:
    """What one kind of answer costs."""

    name: str
    expected_per_s: float
    """Tokens a second of audio that are to be expected."""
    max_per_s: float
    max_clip_s: float
    max_yarn_clip_s: float
    """The longest clip of a model whose positions are stretched by YaRN."""


# Of the published models: 3 to 10 tokens a second with speakers, 16 with times; speakers are lost in short clips.
# With YaRN: 2 minutes are IBM's advice for 5.0, 9 and 5 minutes what the card of 2B-Plus calls good.
PLAIN_BUDGET = ClipBudget("plain", 4.0, 8.0, 60.0, 120.0)
SPEAKERS_BUDGET = ClipBudget("speakers", 10.0, 16.0, 120.0, 540.0)
WORDS_BUDGET = ClipBudget("words", 16.0, 24.0, 150.0, 300.0)
MIN_CLIP_S = 5.0
MAX_DRAFT_CLIP_S = 30.0
"""The longest clip of which the encoder's draft is the text, as of an editor."""
