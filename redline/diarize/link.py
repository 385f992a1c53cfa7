"""Names of speakers from window to window: a voice that was heard before is known again by its direction.

What is known so far is held by the caller, so a recording may come window by window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from redline.types import Hypothesis, SpeakerEmbedding, Turn

SAME_SPEAKER = 0.6
"""A voice of an earlier window that is more alike than this (cosine) is heard again."""


def link(known: Sequence[SpeakerEmbedding], heard: Hypothesis) -> tuple[tuple[SpeakerEmbedding, ...], Hypothesis]:
    """A window's hypothesis under the names of the voices known so far, and what is known after it.

    Voices that are like none get the next free numbers, those of the first window keep the names they have, which a
    prefix may have given; one that is known again counts by all its seconds.
    """
    if not known:
        return heard.speaker_embeddings, heard
    found = list(known)
    names: dict[str, str] = {}
    for voice in heard.speaker_embeddings:
        alike = [sum(a * b for a, b in zip(voice.vector, one.vector, strict=True)) for one in found]
        best = alike.index(max(alike))
        if alike[best] < SAME_SPEAKER:
            number = next(str(n) for n in range(1, len(found) + 2) if str(n) not in {one.speaker for one in found})
            found.append(replace(voice, speaker=number))
            names[voice.speaker] = number
        else:
            found[best] = _both(found[best], voice)
            names[voice.speaker] = found[best].speaker
    return tuple(found), renamed(heard, names)


def renamed(heard: Hypothesis, names: Mapping[str, str]) -> Hypothesis:
    """The hypothesis with other names for its speakers; neighbouring turns of one are one."""
    turns: list[Turn] = []
    for turn in heard.turns:
        speaker = names.get(turn.speaker, turn.speaker)
        if turns and turns[-1].speaker == speaker:
            turns[-1] = replace(turns[-1], end=turn.end, text=f"{turns[-1].text} {turn.text}")
        else:
            turns.append(replace(turn, speaker=speaker))
    words = (replace(word, speaker=names.get(word.speaker or "", word.speaker)) for word in heard.words)
    voices = (replace(voice, speaker=names.get(voice.speaker, voice.speaker)) for voice in heard.speaker_embeddings)
    return replace(heard, turns=tuple(turns), words=tuple(words), speaker_embeddings=tuple(voices))


def _both(known: SpeakerEmbedding, heard: SpeakerEmbedding) -> SpeakerEmbedding:
    """The voice that both are, by the seconds of each."""
    seconds = known.seconds + heard.seconds
    pairs = zip(known.vector, heard.vector, strict=True)
    mean = [known.seconds * one + heard.seconds * other for one, other in pairs]
    length = math.hypot(*mean) or 1.0
    return SpeakerEmbedding(known.speaker, tuple(part / length for part in mean), round(seconds, 3))
