"""Subtitle style: how wide, how long and how fast cues may be, with the styles of broadcasters by name."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SubtitleOptions:
    """Subtitle style; raises `ValueError` for what no cue can keep.

    A cue is as long as its words are spoken. Where it is shorter than `min_duration_s`, or faster than `max_cps`
    (reading speed: characters a second, with spaces), it stays in the silence after it, until `gap_s` before the next.
    Where people speak faster than that it stays with the words. No cue is longer than `max_duration_s`.
    """

    max_line_width: int = 42
    """Characters; only a word that is longer is broken."""
    max_line_count: int = 2
    min_duration_s: float = 5 / 6
    max_duration_s: float = 7.0
    max_cps: float = 20.0
    gap_s: float = 0.083
    max_pause_s: float = 1.0
    """Silence between two words from which the second begins a cue: below it BBC's guidelines (4.5) want no gap."""
    highlight_words: bool = False
    """In vtt an inline timestamp before each word, as in karaoke."""

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} is {count!r}; allowed are whole numbers from 1")
        for name in ("min_duration_s", "gap_s", "max_pause_s"):
            if not (0 <= getattr(self, name) < math.inf):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are numbers from 0")
        for name in ("max_duration_s", "max_cps"):
            if not (0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are numbers above 0")
        if self.min_duration_s > self.max_duration_s:
            raise ValueError(
                f"min_duration_s is {self.min_duration_s:.4g} and max_duration_s {self.max_duration_s:.4g}; the least "
                "duration may not be above the longest: change one of them"
            )


DEFAULT_SUBTITLES = SubtitleOptions()
SUBTITLE_PRESETS = {
    "netflix": DEFAULT_SUBTITLES,
    "bbc": SubtitleOptions(max_line_width=37, min_duration_s=1.0, max_cps=15.0, gap_s=0.0),
    "youtube": SubtitleOptions(max_line_width=32),
}
"""Subtitle styles by name.

netflix: Netflix's Timed Text Style Guide, General Requirements (5/6 s to 7 s, 2 lines, 2 frames between cues: 0.083 s
at 24 frames a second) and English (42 characters, 20 a second for adults; 17 in most other languages and for children).

bbc: BBC's Subtitle Guidelines, 3 and 4: 37 characters, 2 lines, 160 to 180 words a minute (160 words of 5.6 characters
with their space are 15 a second), some 0.3 s a word (1 s: three words), and gaps of a second or none. They state no
longest duration; it is Netflix's.

youtube: YouTube publishes no limits. 32 characters are the width of CEA-608 captions and fit a telephone; all else is
Netflix's.
"""


def subtitle_options(style: SubtitleOptions | str | None) -> SubtitleOptions:
    """The style of a preset's name, or the default (netflix); raises `ValueError` for an unknown name."""
    if isinstance(style, SubtitleOptions):
        return style
    if style is None:
        return DEFAULT_SUBTITLES
    if style not in SUBTITLE_PRESETS:
        raise ValueError(f"no subtitle preset {style!r}; allowed are {', '.join(SUBTITLE_PRESETS)}")
    return SUBTITLE_PRESETS[style]
