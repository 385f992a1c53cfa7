"""Parts of a recording: only these are heard, the times stay those of the whole."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from redline.errors import ConfigError
from redline.types import SAMPLE_RATE, Notice

if TYPE_CHECKING:
    from redline.audio.decode import Blocks

HeardPart = tuple[float, float]
"""Start and end in seconds; math.inf is the end of the recording."""
_TIME = r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,7}(?:\.\d{1,9})?)"
_PART = re.compile(rf"\s*(?:{_TIME})?\s*-\s*(?:{_TIME})?\s*")


def parse_parts(text: str) -> tuple[HeardPart, ...]:
    """`10-20,1:30-2:00,90-` -> parts, as yet unchecked; raises `ConfigError` for what is none."""
    parts = []
    for each in text.split(","):
        match = _PART.fullmatch(each)
        if match is None or each.strip() == "-":
            raise ConfigError(
                f"{each.strip()!r} is no part of a recording; allowed are seconds or [h:]mm:ss such as 10-20, 1:30-2:00"
                ", -45 and 90-, with commas between them"
            )
        parts.append((_seconds(match.groups()[:3], 0.0), _seconds(match.groups()[3:], math.inf)))
    return tuple(parts)


def _seconds(numbers: Sequence[str | None], default: float) -> float:
    hours, minutes, seconds = numbers
    return default if seconds is None else 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)


def checked_parts(parts: Sequence[HeardPart]) -> tuple[HeardPart, ...]:
    """Parts in order of time; raises `ConfigError` for what is none, and for parts that overlap."""
    ordered: list[HeardPart] = []
    for start, end in sorted(parts):
        if not 0 <= start < end:
            raise ConfigError(
                f"the part from {start:g} to {end:g} s is empty; its end comes after its start, from 0 on"
            )
        if ordered and start < ordered[-1][1]:
            raise ConfigError(f"the parts from {ordered[-1][0]:g} and from {start:g} s overlap; join them")
        ordered.append((float(start), float(end)))
    return tuple(ordered)


def only_parts(blocks: Blocks, parts: Sequence[HeardPart]) -> Blocks:
    """Blocks of a recording with silence in place of what is in no part; what lies behind the last one is not read.

    Without parts all of it is read.
    """
    if not parts:
        return (yield from blocks)
    spans = [
        (round(start * SAMPLE_RATE), math.inf if end == math.inf else round(end * SAMPLE_RATE)) for start, end in parts
    ]
    at, last = 0, max(end for _, end in spans)
    warnings: tuple[Notice, ...] = ()
    while at < last:
        try:
            block = next(blocks)
        except StopIteration as end:
            warnings = end.value or ()
            break
        block = block[: min(len(block), last - at)] if last != math.inf else block
        kept = np.zeros_like(block)
        for start, stop in spans:
            first, behind = max(0, start - at), int(min(len(block), max(0, stop - at)))
            kept[first:behind] = block[first:behind]
        at += len(block)
        yield kept
    blocks.close()
    behind_end = [start for start, _ in parts if start * SAMPLE_RATE >= at]
    if behind_end:
        length_s = round(at / SAMPLE_RATE, 3)
        named = ", ".join(f"{start:g} s" for start in behind_end)
        message = f"the recording ends at {length_s:g} s; what was asked for from {named} on is not there"
        warnings = (*warnings, Notice("no-such-part", message, length_s, length_s))
    return warnings
