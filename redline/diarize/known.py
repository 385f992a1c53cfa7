"""Known voices: which of the speakers of a recording are who, and a database of voices with names, kept in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from pathlib import Path
from typing import Any

from redline import files, untrusted
from redline.diarize.link import SAME_SPEAKER, merged_voice
from redline.errors import CheckpointError, DataError
from redline.types import SpeakerEmbedding

SURELY_SAME = 0.8
"""A second speaker of a recording is known to be somebody who is in it already above this similarity."""
DATABASE_FORMAT = "redline-speakers-1"
MAX_DATABASE_BYTES = 64 << 20


def named(speakers: Sequence[SpeakerEmbedding], known: Sequence[SpeakerEmbedding]) -> list[SpeakerEmbedding]:
    """Speakers under their names: those of known voices, the most similar pairs first, else the next free numbers.

    Two speakers of one recording are two people, so a voice names one of them, unless both are most surely that one.
    """
    similarities = [[sum(map(mul, speaker.vector, voice.vector)) for voice in known] for speaker in speakers]  # cosines
    pairs = [(alike, at, number) for at, row in enumerate(similarities) for number, alike in enumerate(row)]
    names: dict[int, str] = {}
    for alike, at, number in sorted(pairs, key=lambda pair: -pair[0]):
        name = known[number].speaker
        if alike >= SAME_SPEAKER and at not in names and (name not in names.values() or alike >= SURELY_SAME):
            names[at] = name
    taken = {voice.speaker for voice in known}
    free = (str(number) for number in range(1, len(speakers) + len(known) + 2) if str(number) not in taken)
    return [replace(each, speaker=names[at] if at in names else next(free)) for at, each in enumerate(speakers)]


def joined_voices(known: Sequence[SpeakerEmbedding], more: Sequence[SpeakerEmbedding]) -> tuple[SpeakerEmbedding, ...]:
    """Voices of both lists; one that is in both counts by all its seconds."""
    voices = {voice.speaker: voice for voice in known}
    for voice in more:
        voices[voice.speaker] = merged_voice(voices[voice.speaker], voice) if voice.speaker in voices else voice
    return tuple(voices.values())


@dataclass
class SpeakerDatabase:
    """Voices with names in a file, which is written anew after each recording.

    Voices are those of one speaker embedding network: `embedder` names it, and a file of another one is refused.
    """

    path: Path
    embedder: str
    size: int
    speakers: tuple[SpeakerEmbedding, ...] = field(default=())

    @classmethod
    def open(cls, path: str | Path, embedder: str, size: int) -> SpeakerDatabase:
        """Read the file, if it is there; raises `DataError` for another kind, a damaged one, or another network."""
        database = cls(Path(path), embedder, size)
        if untrusted.is_there(database.path):
            database.speakers = database._read()
        else:
            try:
                files.check_writable(database.path)
            except OSError as error:
                raise DataError(f"{path}: {files.describe_os_error(error)}; choose another --speaker-db") from error
        return database

    def add(self, speakers: Sequence[SpeakerEmbedding]) -> None:
        """The speakers of one more recording, under their names; the file has them from now on."""
        self.speakers = joined_voices(self.speakers, speakers)
        self._write()

    def rename(self, names: Mapping[str, str]) -> None:
        """Give voices other names; two that have one name from now on are one."""
        self.speakers = joined_voices(
            (), [replace(each, speaker=names.get(each.speaker, each.speaker)) for each in self.speakers]
        )
        self._write()

    def _read(self) -> tuple[SpeakerEmbedding, ...]:
        remedy = "move it away to begin a new one, or name another file"
        try:
            values = untrusted.read_json(self.path, MAX_DATABASE_BYTES)
        except CheckpointError as error:
            raise DataError(f"{error}: no database of speakers; {remedy}") from error
        if values.get("format") != DATABASE_FORMAT:
            kind = f"its format is {str(values.get('format'))[:40]!r}, expected is {DATABASE_FORMAT!r}"
            raise DataError(f"{self.path}: no database of speakers that is known here: {kind}; {remedy}")
        if values.get("embedder") != self.embedder:
            other = f"its voices are of another network ({str(values.get('embedder'))[:40]}, here {self.embedder})"
            raise DataError(f"{self.path}: {other}; take the model that it was made with, or {remedy}")
        rows = values.get("speakers")
        speakers = [self._voice(row, at) for at, row in enumerate(rows if isinstance(rows, list) else [None])]
        if len({speaker.speaker for speaker in speakers}) < len(speakers):
            raise DataError(f"{self.path}: a name comes twice among its speakers; give each another one, or {remedy}")
        return tuple(speakers)

    def _voice(self, row: Any, at: int) -> SpeakerEmbedding:
        """One of its speakers; raises `DataError` for what is none."""
        good = isinstance(row, dict) and set(row) == {"name", "seconds", "vector"}
        if good:
            name, seconds, vector = row["name"], row["seconds"], row["vector"]
            numbers: list[Any] = [seconds, *vector] if isinstance(vector, list) else []
            good = isinstance(name, str) and bool(name.strip()) and len(numbers) == self.size + 1
            good = good and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            good = good and seconds > 0 and abs(math.hypot(*vector) - 1.0) < 0.01
        if not good:
            wanted = f"name, seconds and a unit vector of {self.size} numbers"
            raise DataError(
                f"{self.path}: speaker {at} is damaged: {str(row)[:60]!r}; expected are {wanted}. Take the row out, or "
                "move the file away to begin a new one"
            )
        return SpeakerEmbedding(" ".join(name.split()), tuple(map(float, vector)), float(seconds))

    def _write(self) -> None:
        rows = [{"name": each.speaker, "seconds": each.seconds, "vector": list(each.vector)} for each in self.speakers]
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = f'"format": {json.dumps(DATABASE_FORMAT)}, "embedder": {json.dumps(self.embedder)}'
        try:
            files.write_text(self.path, f'{{{head}, "speakers": [\n  {lines}\n]}}\n')
        except OSError as error:
            raise DataError(f"{self.path}: the voices cannot be kept: {files.describe_os_error(error)}") from error
