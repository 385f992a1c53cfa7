"""Repetition detection: a language model that loops, told apart from people who repeat themselves.

The evidence is the encoder's own transcript, which writes every sound once and cannot loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RepetitionOracle = Callable[[Sequence[int]], int]
"""How often a run of tokens occurs in other evidence than the text itself: what does is no loop."""


@dataclass(frozen=True)
class RepetitionOptions:
    """A loop: at least `copies` of an n-gram in a row, over at least `tokens` tokens, more than the oracle knows of.

    So without an oracle one token may come 31 times and a verse five times.
    """

    max_n: int = 32
    """Tokens of the longest n-gram looked for; 0 looks for none."""
    copies: int = 6
    tokens: int = 32


def repetitions(unit: str, evidence: str) -> int:
    """How often one text occurs in another by its letters and digits, wherever words begin and end."""
    letters, others = ("".join(filter(str.isalnum, text.casefold())) for text in (unit, evidence))
    return others.count(letters) if letters else 0


def repetition_start(
    ids: Sequence[int], options: RepetitionOptions, oracle: RepetitionOracle | None = None
) -> int | None:
    """Where to cut ids whose tail is a loop: behind the first copy of what repeats; None where nothing does.

    A tail that does not repeat costs one comparison for each length of n-gram.
    """
    size = len(ids)
    known: list[int] = []  # lengths of n-grams that the oracle vouches for; two copies of one are no more of a loop

    def repeats(n: int, length: int) -> bool:
        return length <= size and ids[n - length :] == ids[-length:-n]

    for n in range(1, min(options.max_n, size // 2) + 1):
        if ids[-1] != ids[-1 - n] or any(n % length == 0 for length in known):
            continue
        needed = n * max(options.copies, math.ceil(options.tokens / n))
        if not repeats(n, needed):
            continue
        if oracle is not None and (vouched := n * oracle(ids[-n:])):
            needed += vouched
            if not repeats(n, needed):
                known.append(n)
                continue
        start = size - needed
        while start > 0 and ids[start - 1] == ids[start - 1 + n]:
            start -= 1
        return start + n
    return None
