"""How long a clip may be for each kind of answer, and how many tokens its answer may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What one kind of answer costs: tokens a second that are to be expected, most that are allowed, longest clip."""

    name: str
    expected_per_s: float
    most_per_s: float
    longest_s: float
    stretched_s: float
    """The longest clip of a model whose positions are stretched."""


# Of the published models: 3 to 10 tokens a second with speakers, 16 with times; speakers are lost in short clips.
# With stretched positions: 2 minutes are IBM's advice for 5.0, 9 and 5 minutes what the card of 2B-Plus calls good.
PLAIN, SPEAKERS, WORDS = (
    Budget("plain", 4.0, 8.0, 60.0, 120.0),
    Budget("speakers", 10.0, 16.0, 120.0, 540.0),
    Budget("words", 16.0, 24.0, 150.0, 300.0),
)
SHORTEST_S = 5.0
DRAFT_S = 30.0
"""Clips of which the language model reads nothing are as long as an editor's."""
