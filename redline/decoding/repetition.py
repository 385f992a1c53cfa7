"""Repetition or a loop: people say things again and again, and a language model may hear nothing but itself.

What tells them apart is what the encoder heard, which writes every sound once and cannot go round in circles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redline.errors import ConfigError

RepetitionOracle = Callable[[Sequence[int]], int]
"""How often a run of tokens is said by other evidence than the text itself: nothing that is said is a loop."""


@dataclass(frozen=True)
class RepetitionOptions:
    """When a repetition is a loop and no longer speech: `copies` in a row, over at least `tokens` tokens, more than
    are known to be said.

    So without other evidence one token may be said 31 times and a verse five times; what goes beyond that on a clip of
    seconds is the model that hears itself.
    """

    max_n: int = 32
    """Tokens of the longest n-gram looked for; 0 looks for none."""
    copies: int = 6
    tokens: int = 32

    def __post_init__(self) -> None:
        if self.max_n < 0:
            raise ConfigError(f"max_n is {self.max_n}; allowed are 0 (look for no loops) and above")
        if self.copies < 2 or self.tokens < 1:
            raise ConfigError(f"copies is {self.copies} and tokens {self.tokens}; allowed are 2 and 1, and above")


def repetitions(unit: str, heard: str) -> int:
    """How often one text stands in another by its letters and digits, wherever its words begin and end."""
    letters, others = ("".join(filter(str.isalnum, text.casefold())) for text in (unit, heard))
    return others.count(letters) if letters else 0


def repetition_start(
    ids: Sequence[int], options: RepetitionOptions, said: RepetitionOracle | None = None
) -> int | None:
    """Where to cut ids whose tail is a loop: behind the first copy of what repeats; None where nothing does.

    What is `said` as often is none. A tail that does not repeat costs one comparison for each length of n-gram.
    """
    size = len(ids)
    spoken: list[int] = []  # lengths of what repeats and is said as often; two copies of it are no more of a loop
    for n in range(1, min(options.max_n, size // 2) + 1):
        if ids[-1] != ids[-1 - n] or any(n % one == 0 for one in spoken):
            continue
        needed = n * max(options.copies, math.ceil(options.tokens / n))
        if needed > size or ids[n - needed :] != ids[-needed:-n]:
            continue
        if said is not None and (more := n * said(ids[-n:])):
            needed += more
            if needed > size or ids[n - needed :] != ids[-needed:-n]:
                spoken.append(n)
                continue
        start = size - needed
        while start > 0 and ids[start - 1] == ids[start - 1 + n]:
            start -= 1
        return start + n
    return None
