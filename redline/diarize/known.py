"""Known voices: which of the speakers of a recording are who."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

from redline.types import SpeakerEmbedding

SAME_VOICE = 0.6
"""A speaker who is at least so similar to a known voice has its name."""


def named(vectors: Sequence[Sequence[float]], known: Sequence[SpeakerEmbedding]) -> list[str]:
    """Names of speakers: that of the most similar known voice, else the next free number.

    Two speakers who are both most similar to one voice are that one.
    """
    taken = {voice.speaker for voice in known}
    free = (str(number) for number in range(1, len(vectors) + len(known) + 2) if str(number) not in taken)
    names = []
    for vector in vectors:
        similarities = [sum(map(mul, vector, voice.vector)) for voice in known]  # cosines
        best = max(similarities, default=-1.0)
        names.append(known[similarities.index(best)].speaker if best >= SAME_VOICE else next(free))
    return names
