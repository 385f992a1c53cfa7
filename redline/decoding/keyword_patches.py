"""What keywords may change in a text: only the places where one of them is found.

A search that is drawn towards keywords takes other turns, too, where there are none. So a text is decoded twice,
plainly and drawn, and the plain one is the answer but for the words at which the drawn one has a keyword. Where none
is found nothing changes, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from redline.decoding.biasing import KeywordTrie

_T = TypeVar("_T")
Stretch = tuple[int, int]
"""Part [first, last) of a sequence."""


@dataclass(frozen=True)
class KeywordBias:
    """The keywords of one request: what draws a search towards them, and where they stand in a text."""

    trie: KeywordTrie
    word_starts: Sequence[bool]
    """Whether each id begins a word."""
    find: Callable[[Sequence[int]], list[Stretch]]
    """Ids of a text -> the stretch of each keyword in it."""


class Patch(NamedTuple):
    """A stretch [first, last) of one sequence that stands for a stretch of the plain one."""

    plain_first: int
    plain_last: int
    first: int
    last: int


def splice(plain: Sequence[int], drawn: Sequence[int], bias: KeywordBias) -> tuple[list[int], list[Patch]]:
    """The plain ids but for the words at which the drawn ones have a keyword, and where that is.

    Stretches of different words are taken whole or not at all, so that no word is doubled or lost.
    """
    if list(plain) == list(drawn):
        return list(plain), []
    words, others = _words(plain, bias.word_starts), _words(drawn, bias.word_starts)
    before, after = bias.find(plain), bias.find(drawn)
    ids: list[int] = []
    patches: list[Patch] = []
    at = 0
    for a, b, c, d in _differences([plain[a:b] for a, b in words], [drawn[a:b] for a, b in others]):
        here, there = _span(words, a, b, len(plain)), _span(others, c, d, len(drawn))
        if overlaps(there, after) > overlaps(here, before):
            ids += plain[at : here[0]]
            patches.append(Patch(*here, len(ids), len(ids) + there[1] - there[0]))
            ids += drawn[there[0] : there[1]]
            at = here[1]
    return [*ids, *plain[at:]], patches


def overlaps(span: Stretch, keywords: Sequence[Stretch]) -> int:
    """How many keywords of a text share an id with a stretch; an empty one is in those around it."""
    return sum(span[0] < last and first < span[1] for first, last in keywords)


def zones(patches: Sequence[Patch], plain: Sequence[int], other: Sequence[int]) -> list[Patch]:
    """Patches of a draft -> the slots that were decided otherwise because of them, by the chosen labels of all slots.

    A zone is the slots of a patch, and the neighbours for as far as the two decisions about them differ; what was
    decided otherwise beyond a slot of agreement has nothing to do with a keyword.
    """
    grown = [Patch(2 * p.plain_first, 2 * p.plain_last + 1, 2 * p.first, 2 * p.last + 1) for p in patches]
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


def patched(plain: Sequence[_T], other: Sequence[_T], patches: Sequence[Patch]) -> list[_T]:
    """The plain sequence with the other's stretches in place of its own."""
    result: list[_T] = []
    at = 0
    for patch in patches:
        result += [*plain[at : patch.plain_first], *other[patch.first : patch.last]]
        at = patch.plain_last
    return [*result, *plain[at:]]


def _words(ids: Sequence[int], word_starts: Sequence[bool]) -> list[Stretch]:
    """The stretch of each word; what comes before the first word start is a word."""
    firsts = [at for at, id in enumerate(ids) if at == 0 or word_starts[id]]
    return list(pairwise([*firsts, len(ids)]))


def _span(words: Sequence[Stretch], first: int, last: int, end: int) -> Stretch:
    """The ids of words [first, last); between two ids where there are none."""
    start = words[first][0] if first < len(words) else end
    return start, words[last - 1][1] if last > first else start


def _differences(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> list[Patch]:
    """The stretches in which two texts differ where they are aligned with the fewest changes of words, in order."""
    N, M = len(a), len(b)
    costs = [[N - i + M - j for j in range(M + 1)] for i in range(N + 1)]  # changes between a[i:] and b[j:]
    for i in reversed(range(N)):
        for j in reversed(range(M)):
            costs[i][j] = min(costs[i + 1][j + 1] + (a[i] != b[j]), 1 + costs[i + 1][j], 1 + costs[i][j + 1])
    patches: list[Patch] = []
    i = j = 0
    while i < N or j < M:
        start, paired = (i, j), i < N and j < M
        if paired and a[i] == b[j] and costs[i][j] == costs[i + 1][j + 1]:
            i, j = i + 1, j + 1
            continue
        if paired and costs[i][j] == 1 + costs[i + 1][j + 1]:
            i, j = i + 1, j + 1
        elif i < N and costs[i][j] == 1 + costs[i + 1][j]:
            i += 1
        else:
            j += 1
        if patches and (patches[-1].plain_last, patches[-1].last) == start:
            patches[-1] = patches[-1]._replace(plain_last=i, last=j)
        else:
            patches.append(Patch(start[0], i, start[1], j))
    return patches
