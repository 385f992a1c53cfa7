"""Contextual biasing: a search is drawn towards keywords while it writes (arXiv 1808.02480).

Each token that goes on from the beginning of a keyword is worth `boost` nats at once, times the keyword's weight, so
that a beam keeps the word alive until its last token; when the text takes another turn, what was given for the
unfinished part is taken back. A beginning that keywords share is worth as much as for the weightiest. The keywords form
a trie with failure links (Aho and Corasick, 1975), packed into tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from redline.errors import ConfigError

if TYPE_CHECKING:
    from redline.types import Floats, Ints

START, ROOT = 0, 1
"""The state before a text's first token, where a word may be spelled otherwise, and that outside all keywords."""


@dataclass(slots=True)
class _Node:
    """How far a text has come into some keywords."""

    depth: int = 0
    weight: float = 0.0
    """Of the weightiest keyword that goes on from here or ends here."""
    paid: float = 0.0
    """What the tokens up to here give, each the weight of its node."""
    next: dict[int, int] = field(default_factory=dict)
    worth: float = 0.0
    """What the keyword that ends here gives; 0 where none does."""
    finished: float = 0.0
    """What the last keyword that ended on the way here gives."""
    failure: int = ROOT
    """Where the text stands if this is not the word: the longest beginning that its last tokens are as well."""

    def kept(self, word_starts: bool) -> float:
        """What stays paid for when the text goes on another way, with a new word or within this one."""
        return self.worth if self.worth and word_starts else self.finished

    def refund(self, nodes: Sequence[_Node], word_starts: bool) -> float:
        """What more is paid, or less, when the text stands at the failure instead."""
        return self.kept(word_starts) - self.paid + nodes[self.failure].paid


@dataclass(frozen=True)
class KeywordTrie:
    """Keywords as tables; a trie state is an int64 per hypothesis that only `step` and `end` can read."""

    start: Ints  # [1] the state before a text, or [B] one for each row of a batch
    word_starts: NDArray[np.bool_]  # [V] whether an id begins a word
    keys: Ints  # [M] state * V + token of the moves within a keyword, sorted
    targets: Ints  # [M] the state after each
    gains: Floats  # [M] what is paid more, in boosts
    failures: Ints  # [N] where each state stands if this is not the word
    refunds: Floats  # [2, N] what is taken back there, before a piece within a word or a new word
    ends: Floats  # [N] what is taken back where the text ends
    hops: int
    """The most failures that lead from a state to the one outside all keywords."""
    boost: float

    @classmethod
    def build(
        cls,
        words: Iterable[Sequence[int]],
        first_words: Iterable[Sequence[int]],
        word_starts: Sequence[bool],
        boost: float,
        weights: Iterable[float] | None = None,
    ) -> KeywordTrie:
        """The trie of `words`, and of `first_words`, as they are spelled at the start of a text; `weights` are of both.

        A word within another one is not a keyword, so it counts which ids begin words. Raises `ConfigError` where there
        is no word.
        """
        words, first_words = list(words), list(first_words)
        each = [1.0] * max(len(words), len(first_words)) if weights is None else list(weights)
        nodes = _grow(words, first_words, each, word_starts)
        moves = sorted(
            (state * len(word_starts) + token, target)
            for state, node in enumerate(nodes)
            for token, target in node.next.items()
        )
        if not moves:
            raise ConfigError("no keywords; leave the biasing out instead")
        keys, targets = zip(*moves, strict=True)
        refunds = [[node.refund(nodes, begins) for node in nodes] for begins in (False, True)]
        ends, hops = list(refunds[1]), [0] * len(nodes)
        for state in sorted(range(len(nodes)), key=lambda state: nodes[state].depth):  # failures are shallower
            if state != ROOT:
                ends[state] += ends[nodes[state].failure]
                hops[state] = hops[nodes[state].failure] + 1
        return cls(
            np.array([START]),
            np.array(word_starts),
            np.array(keys),
            np.array(targets),
            np.array([nodes[target].weight for target in targets], dtype=np.float32),
            np.array([node.failure for node in nodes]),
            np.array(refunds, dtype=np.float32),
            np.array(ends, dtype=np.float32),
            max(hops),
            boost,
        )

    @classmethod
    def join(cls, tries: Sequence[KeywordTrie]) -> KeywordTrie:
        """One trie for a batch, of which each row has its own keywords; all have one vocabulary and one boost."""
        different = {id(trie): trie for trie in tries}
        if len(different) == 1:  # however large it is, nothing is copied
            return replace(tries[0], start=np.repeat(tries[0].start, len(tries)))
        sizes = [len(trie.failures) for trie in different.values()]
        firsts = dict(zip(different, (sum(sizes[:at]) for at in range(len(sizes))), strict=True))
        vocabulary = len(tries[0].word_starts)

        def joined(name: str, factor: int = 1) -> NDArray[Any]:
            return np.concatenate([getattr(trie, name) + factor * firsts[key] for key, trie in different.items()], -1)

        return cls(
            np.concatenate([trie.start + firsts[id(trie)] for trie in tries]),
            tries[0].word_starts,
            joined("keys", vocabulary),
            joined("targets"),
            joined("gains", 0),
            joined("failures"),
            joined("refunds", 0),
            joined("ends", 0),
            max(trie.hops for trie in different.values()),
            tries[0].boost,
        )

    def step(self, states: Ints, tokens: Ints) -> tuple[Ints, Floats]:
        """The states after one more token each, and what the tokens give: both [N] -> [N] int64, [N] float32.

        Failures are followed until a state goes on with the token: tables of all moves would grow with the square.
        """
        begins = self.word_starts[tokens].astype(np.int64)
        states, gains = states.copy(), np.zeros(len(tokens), dtype=np.float32)
        going = np.arange(len(tokens))
        for hop in range(self.hops + 1):
            wanted = states[going] * len(self.word_starts) + tokens[going]
            at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
            found = self.keys[at] == wanted
            states[going[found]] = self.targets[at[found]]
            gains[going[found]] += self.gains[at[found]]
            going = going[~found]
            if hop < self.hops:
                gains[going] += self.refunds[begins[going], states[going]]
                states[going] = self.failures[states[going]]
        return states, np.float32(self.boost) * gains

    def end(self, states: Ints) -> Floats:
        """What the end of a text gives: [N] -> [N] float32, 0 or less."""
        return np.float32(self.boost) * self.ends[states]


def _grow(
    words: Sequence[Sequence[int]],
    first_words: Sequence[Sequence[int]],
    weights: Sequence[float],
    word_starts: Sequence[bool],
) -> list[_Node]:
    nodes = [_Node(), _Node()]
    for root, group in ((START, first_words), (ROOT, words)):
        for word, weight in zip(group, weights, strict=False):
            state = root
            for token in word:
                node = nodes[state]
                if token not in node.next:
                    node.next[token] = len(nodes)
                    nodes.append(_Node(node.depth + 1))
                state = node.next[token]
                nodes[state].weight = max(nodes[state].weight, weight)
            if state != root:
                nodes[state].worth = max(nodes[state].worth, weight * nodes[state].depth)
    # Parents come before their children, and shorter beginnings before longer ones.
    for node in sorted(nodes, key=lambda node: node.depth):
        for token, child in node.next.items():
            nodes[child].paid = node.paid + nodes[child].weight
            nodes[child].finished = node.kept(word_starts[token])
            if node.depth:
                nodes[child].failure = _move(nodes, node.failure, token)
    return nodes


def _move(nodes: Sequence[_Node], state: int, token: int) -> int:
    """The state after a token, by the failures of the one before."""
    while token not in nodes[state].next:
        if state == ROOT:
            return ROOT
        state = nodes[state].failure
    return nodes[state].next[token]
