"""How many speakers are looked for, and who is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from redline.diarize.known import SpeakerDatabase, joined_voices
from redline.errors import ConfigError
from redline.types import SpeakerEmbedding

MOST_SPEAKERS = 100
SpeakerCount = bool | int | str | tuple[int, int] | None
"""True: as many as are heard; 3, "3", "2-4" or (2, 4): so many; False or None: nobody asks."""
_COUNT = re.compile(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?")


@dataclass(frozen=True)
class SpeakerOptions:
    """Who may be heard: at least and at most so many speakers, and the embeddings of those who have a name."""

    least: int = 1
    most: int | None = None
    """None: as many as are heard."""
    known: tuple[SpeakerEmbedding, ...] = ()
    database: SpeakerDatabase | None = None
    """Voices of other recordings, to which those of this one are added."""
    online: bool = field(default=False, compare=False)
    """Whether segments name their speakers before the recording has ended."""

    @property
    def voices(self) -> tuple[SpeakerEmbedding, ...]:
        """All who are known so far."""
        return self.known if self.database is None else joined_voices(self.database.speakers, self.known)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= (self.most or MOST_SPEAKERS) <= MOST_SPEAKERS:
            raise ConfigError(
                f"{self.least} to {self.most} speakers; allowed is a number from 1 to {MOST_SPEAKERS}, or a range such "
                "as 2-4, whose second number is not smaller than the first"
            )


def speaker_options(count: SpeakerCount) -> SpeakerOptions | None:
    """What a number of speakers asks for, None where nobody asks; raises `ConfigError` for what is no number."""
    if count is None or count is False:
        return None
    if count is True:
        return SpeakerOptions()
    if isinstance(count, str):
        match = _COUNT.fullmatch(count)
        if match is None and count.strip().lower() != "auto":
            raise ConfigError(f"speakers is {count!r}; allowed are auto, a number such as 3, and a range such as 2-4")
        if match is None:
            return SpeakerOptions()
        return SpeakerOptions(int(match[1]), int(match[2] or match[1]))
    if isinstance(count, tuple | list) and len(count) == 2 and all(type(each) is int for each in count):
        return SpeakerOptions(count[0], count[1])
    if type(count) is int:
        return SpeakerOptions(count, count)
    raise ConfigError(f"speakers is {count!r:.80}; allowed are True, a number such as 3, and a range such as (2, 4)")
