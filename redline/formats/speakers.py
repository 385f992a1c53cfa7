"""Speaker names: what the labels of diarization are called in a transcript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from redline.types import Notice, Transcript, joined_turns, listed


def parse_speaker_names(text: str) -> dict[str, str]:
    """`1=Ana,2=Ben` -> labels and names; raises `ValueError` for what is no such list."""
    names: dict[str, str] = {}
    for part in listed(text):
        label, _, name = (each.strip() for each in part.partition("="))
        if not label or not name or label in names:
            fault = "comes twice" if label in names else "is no label and name"
            raise ValueError(f"{part!r} {fault}; allowed is each label once with its name, such as 1=Ana,2=Ben")
        names[label] = name
    if not names:
        raise ValueError(f"{text!r} names nobody; allowed is a list such as 1=Ana,2=Ben")
    return names


def rename_speakers(transcript: Transcript, names: Mapping[str, str]) -> Transcript:
    """The transcript with names in place of labels, in segments, words and turns; turns of one name are joined.

    Without names nothing changes. A label that nobody has gives the notice `unknown-speaker`, which says who is there.
    Raises `ValueError` for a name that is empty.
    """
    if not names:
        return transcript
    names = {label: " ".join(name.split()) for label, name in names.items()}
    if empty := [label for label, name in names.items() if not name]:
        raise ValueError(f"the name of speaker {empty[0]} is empty; give each label in the map a name, or leave it out")

    def named(speaker: str | None) -> str | None:
        return None if speaker is None else names.get(speaker, speaker)

    segments = tuple(
        replace(
            segment,
            speaker=named(segment.speaker),
            words=tuple(replace(word, speaker=named(word.speaker)) for word in segment.words),
            overlaps=tuple(replace(each, speaker=names.get(each.speaker, each.speaker)) for each in segment.overlaps),
        )
        for segment in transcript.segments
    )
    turns = joined_turns(replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in transcript.turns)
    speakers = [segment.speaker for segment in transcript.segments] + [turn.speaker for turn in transcript.turns]
    speakers += [word.speaker for word in transcript.words]
    known = sorted({speaker for speaker in speakers if speaker is not None})
    unknown = [label for label in names if label not in known]
    warnings = transcript.warnings
    if unknown:
        there = f"speakers are {', '.join(known)}" if known else "no speakers are known; ask for speakers"
        warnings += (Notice("unknown-speaker", f"nobody is called {', '.join(unknown)}: {there}"),)
    return replace(transcript, segments=segments, turns=turns, warnings=warnings)
