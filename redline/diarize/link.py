"""Speaker linking across windows: a speaker of an earlier window is known again by cosine similarity.

What is known so far is held by the caller, so a recording may come window by window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import mul

from redline.types import Hypothesis, SpeakerEmbedding, joined_turns

SAME_SPEAKER = 0.6
"""A speaker that is more similar than this to a speaker of an earlier window is the same."""


def link(
    known: Sequence[SpeakerEmbedding], hypothesis: Hypothesis, most: int | None = None
) -> tuple[tuple[SpeakerEmbedding, ...], Hypothesis]:
    """A window's hypothesis under the names of the speakers known so far, and who is known after it.

    Speakers that are like none get the next free numbers, those of the first window keep the names they have, which a
    prefix may have given; one that is known again counts by all its seconds. With `most` no more than so many become
    known: what follows is the most similar of them.
    """
    if not known:
        return hypothesis.speaker_embeddings, hypothesis
    speakers = list(known)
    names: dict[str, str] = {}
    for voice in hypothesis.speaker_embeddings:
        similarities = [sum(map(mul, voice.vector, other.vector)) for other in speakers]  # cosines
        best = similarities.index(max(similarities))
        if similarities[best] < SAME_SPEAKER and (most is None or len(speakers) < most):
            taken = {other.speaker for other in speakers}
            number = next(str(n) for n in range(1, len(speakers) + 2) if str(n) not in taken)
            speakers.append(replace(voice, speaker=number))
            names[voice.speaker] = number
        else:
            speakers[best] = merged_voice(speakers[best], voice)
            names[voice.speaker] = speakers[best].speaker
    words = tuple(replace(word, speaker=names.get(word.speaker or "", word.speaker)) for word in hypothesis.words)
    voices = tuple(replace(voice, speaker=names[voice.speaker]) for voice in hypothesis.speaker_embeddings)
    turns = (replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in hypothesis.turns)
    return tuple(speakers), replace(hypothesis, turns=joined_turns(turns), words=words, speaker_embeddings=voices)


def merged_voice(known: SpeakerEmbedding, new: SpeakerEmbedding) -> SpeakerEmbedding:
    """One speaker's embedding from two windows, by the seconds of each."""
    seconds = known.seconds + new.seconds
    pairs = zip(known.vector, new.vector, strict=True)
    mean = [known.seconds * a + new.seconds * b for a, b in pairs]
    length = math.hypot(*mean) or 1.0
    return SpeakerEmbedding(known.speaker, tuple(part / length for part in mean), round(seconds, 3))
