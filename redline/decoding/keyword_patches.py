"""What a search for expected words may change: only the places where one of them was found.

A search that is drawn towards expected words takes other turns, too, where none is said. So a text is written twice,
plainly and drawn, and the plain one is the answer but for the words at which the drawn one has an expected word. Where
none is found nothing changes, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from redline.decoding.ctc_beam import Bias

T = TypeVar("T")


@dataclass(frozen=True)
class KeywordBias:
    """Words that are expected: what draws a search towards them, and where they stand in a text."""

    biasing: Bias
    starts: Sequence[bool]
    """Whether each id begins a word."""
    found: Callable[[Sequence[int]], list[tuple[int, int]]]
    """Ids of a text -> first id and the one behind the last of each expected word in it."""


class Patch(NamedTuple):
    """A stretch of one sequence, [first, last), that stands for a stretch of the plain one."""

    plain_first: int
    plain_last: int
    first: int
    last: int


def splice(plain: Sequence[int], drawn: Sequence[int], expected: KeywordBias) -> tuple[list[int], list[Patch]]:
    """The plain ids but for the words at which the drawn ones have an expected word, and where that is.

    Stretches of different words are taken whole or not at all, so that no word is said twice or lost.
    """
    if list(plain) == list(drawn):
        return list(plain), []
    words, others = _words(plain, expected.starts), _words(drawn, expected.starts)
    before, found = expected.found(plain), expected.found(drawn)
    ids: list[int] = []
    changes: list[Patch] = []
    at = 0
    for a, b, c, d in _differences([plain[a:b] for a, b in words], [drawn[a:b] for a, b in others]):
        first, last = _span(words, a, b, len(plain))
        place, end = _span(others, c, d, len(drawn))
        if count((place, end), found) > count((first, last), before):
            ids += plain[at:first]
            changes.append(Patch(first, last, len(ids), len(ids) + end - place))
            ids += drawn[place:end]
            at = last
    return [*ids, *plain[at:]], changes


def count(span: tuple[int, int], found: Sequence[tuple[int, int]]) -> int:
    """How many of the words that were found share an id with a stretch; an empty one is in those around it."""
    return sum(span[0] < last and first < span[1] for first, last in found)


def zones(changes: Sequence[Patch], plain: Sequence[int], other: Sequence[int]) -> list[Patch]:
    """Changes of a draft -> the slots that were decided otherwise because of them, by the best labels of all slots.

    A zone is the slots of a change, and the neighbours for as far as the two decisions about them differ; what was
    decided otherwise beyond a slot of agreement has nothing to do with an expected word.
    """
    grown = [Patch(2 * one.plain_first, 2 * one.plain_last + 1, 2 * one.first, 2 * one.last + 1) for one in changes]
    joined: list[Patch] = []
    for number, (a, b, c, d) in enumerate(grown):
        floor = joined[-1].plain_last if joined else 0
        while a > floor and c > 0 and plain[a - 1] != other[c - 1]:
            a, c = a - 1, c - 1
        last = number + 1 == len(grown)
        ceiling = len(plain) if last else grown[number + 1].plain_first
        while b < ceiling and d < len(other) and plain[b] != other[d]:
            b, d = b + 1, d + 1
        if last and len(plain) - b != len(other) - d:  # the empty slots at the end of a short draft
            b, d = len(plain), len(other)
        if joined and a == floor:
            a, _, c, _ = joined.pop()
        joined.append(Patch(a, b, c, d))
    return joined


def patched(plain: Sequence[T], other: Sequence[T], changes: Sequence[Patch]) -> list[T]:
    """The plain sequence with the other's stretches in place of its own."""
    made: list[T] = []
    at = 0
    for change in changes:
        made += plain[at : change.plain_first]
        made += other[change.first : change.last]
        at = change.plain_last
    return [*made, *plain[at:]]


def _words(ids: Sequence[int], starts: Sequence[bool]) -> list[tuple[int, int]]:
    """First id and the one behind the last of each word; what comes before the first word start is a word."""
    firsts = [at for at, id in enumerate(ids) if at == 0 or starts[id]]
    return list(pairwise([*firsts, len(ids)]))


def _span(words: Sequence[tuple[int, int]], first: int, last: int, end: int) -> tuple[int, int]:
    """The ids of words [first, last); between two ids where there are none."""
    start = words[first][0] if first < len(words) else end
    return start, words[last - 1][1] if last > first else start


def _differences(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> list[Patch]:
    """The stretches in which two texts differ where they are aligned with the fewest changes of words, in order."""
    N, M = len(one), len(other)
    costs = [list(range(M + 1))]  # [i][j]: words to change between one[i:] and other[j:], last row first
    costs[0].reverse()
    for i in range(N - 1, -1, -1):
        below, row = costs[-1], [0] * M + [N - i]
        for j in range(M - 1, -1, -1):
            kept = below[j + 1] + (one[i] != other[j])
            row[j] = min(kept, 1 + below[j], 1 + row[j + 1])
        costs.append(row)
    costs.reverse()
    i = j = 0
    found: list[Patch] = []
    while i < N or j < M:
        a, b = i, j
        if i < N and j < M and one[i] == other[j] and costs[i][j] == costs[i + 1][j + 1]:
            i, j = i + 1, j + 1
            continue
        if i < N and j < M and costs[i][j] == 1 + costs[i + 1][j + 1]:
            i, j = i + 1, j + 1
        elif i < N and costs[i][j] == 1 + costs[i + 1][j]:
            i += 1
        else:
            j += 1
        if found and found[-1].plain_last == a and found[-1].last == b:
            last = found.pop()
            a, b = last.plain_first, last.first
        found.append(Patch(a, i, b, j))
    return found
