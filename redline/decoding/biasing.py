"""Contextual biasing: a search is drawn towards keywords while it writes (arXiv 1808.02480).

Each token that goes on from the beginning of a keyword is worth `boost` nats at once, so that a beam keeps the word
alive until its last token; when the text takes another turn, what was given for the unfinished part is taken
back. The keywords form a trie with failure links (Aho and Corasick, 1975), packed into tables for any device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from redline.errors import ConfigError

START, ROOT = 0, 1
"""The state before a text's first token, where a word may be spelled otherwise, and that outside all keywords."""
NO_TOKEN = -1
"""Any token that no keyword has in this place."""


@dataclass
class _Node:
    """How far a text has come into some keywords."""

    depth: int = 0
    next: dict[int, int] = field(default_factory=dict)
    ends: bool = False
    finished: int = 0
    """Tokens of the longest keyword that ended on the way here."""
    failure: int = ROOT
    """Where the text stands if this is not the word: the longest beginning that its last tokens are as well."""

    def kept(self, word_starts: bool) -> int:
        """Tokens that stay paid for when the text goes on another way, with a new word or within this one."""
        return self.depth if self.ends and word_starts else self.finished


@dataclass(frozen=True)
class KeywordTrie:
    """Keywords as tables; a trie state is an int64 per hypothesis that only `step` and `end` can read."""

    start: Tensor  # [1] the state before a text, or [B] one for each row of a batch
    word_starts: Tensor  # [V] whether an id begins a word
    keys: Tensor  # [M] state * V + token of the moves within a keyword, sorted
    targets: Tensor  # [M] the state after each
    gains: Tensor  # [M] tokens more that are paid for
    roots: Tensor  # [N] the state outside all keywords, for each state
    refunds: Tensor  # [2, N] tokens taken back on any other move, to a piece within a word or to a new word
    boost: float

    @classmethod
    def build(
        cls,
        words: Iterable[Sequence[int]],
        first_words: Iterable[Sequence[int]],
        word_starts: Sequence[bool],
        boost: float,
    ) -> KeywordTrie:
        """The trie of `words`, and of `first_words`, as they are spelled at the start of a text.

        A word within another one is not a keyword, so it counts which ids begin words. Raises `ConfigError` where there
        is no word.
        """
        nodes = _grow(words, first_words, word_starts)
        # First tokens count in every state: they are looked up apart, or the table would grow with the square.
        moves = {
            state * len(word_starts) + token: _move(nodes, state, token, word_starts[token])
            for state in range(len(nodes))
            for token in _tokens(nodes, state)
        }
        if not moves:
            raise ConfigError("no keywords; leave the biasing out instead")
        ordered = sorted(moves)
        refunds = [
            [_move(nodes, state, NO_TOKEN, begins)[1] for state in range(len(nodes))] for begins in (False, True)
        ]
        return cls(
            torch.tensor([START]),
            torch.tensor(word_starts),
            torch.tensor(ordered),
            torch.tensor([moves[key][0] for key in ordered]),
            torch.tensor([float(moves[key][1]) for key in ordered]),
            torch.full((len(nodes),), ROOT),
            torch.tensor(refunds, dtype=torch.float32),
            boost,
        )

    @classmethod
    def join(cls, tries: Sequence[KeywordTrie]) -> KeywordTrie:
        """One trie for a batch, of which each row has its own keywords; all have one vocabulary and one boost."""
        different = {id(trie): trie for trie in tries}
        sizes = [len(trie.roots) for trie in different.values()]
        firsts = dict(zip(different, (sum(sizes[:at]) for at in range(len(sizes))), strict=True))
        vocabulary = len(tries[0].word_starts)

        def joined(name: str, factor: int = 1, dim: int = 0) -> Tensor:
            return torch.cat([getattr(trie, name) + factor * firsts[key] for key, trie in different.items()], dim)

        return cls(
            torch.cat([trie.start + firsts[id(trie)] for trie in tries]),
            tries[0].word_starts,
            joined("keys", vocabulary),
            joined("targets"),
            joined("gains", 0),
            joined("roots"),
            joined("refunds", 0, dim=1),
            tries[0].boost,
        )

    def to(self, device: torch.device | str) -> KeywordTrie:
        moved: dict[str, Any] = {name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def step(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The states after one more token each, and what the tokens give: both [N] -> [N] int64, [N] float32."""
        roots = self.roots[states]
        anew, gain = self._move(roots, tokens, roots, torch.zeros_like(tokens, dtype=torch.float32))
        refund = self.refunds[self.word_starts[tokens].long(), states]
        targets, gains = self._move(states, tokens, anew, refund + gain)
        return targets, self.boost * gains

    def _move(self, states: Tensor, tokens: Tensor, target: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """What the table has for a token in a state, else the target and gain given."""
        wanted = states * len(self.word_starts) + tokens
        at = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        known = self.keys[at] == wanted
        return torch.where(known, self.targets[at], target), torch.where(known, self.gains[at], gain)

    def end(self, states: Tensor) -> Tensor:
        """What the end of a text gives: [N] -> [N] float32, 0 or less."""
        return self.boost * self.refunds[1, states]


def _grow(
    words: Iterable[Sequence[int]], first_words: Iterable[Sequence[int]], word_starts: Sequence[bool]
) -> list[_Node]:
    nodes = [_Node(), _Node()]
    for root, group in ((START, first_words), (ROOT, words)):
        for word in group:
            state = root
            for token in word:
                node = nodes[state]
                if token not in node.next:
                    node.next[token] = len(nodes)
                    nodes.append(_Node(node.depth + 1))
                state = node.next[token]
            nodes[state].ends = state != root
    # Parents come before their children, and shorter beginnings before longer ones.
    for node in sorted(nodes, key=lambda node: node.depth):
        for token, child in node.next.items():
            nodes[child].finished = node.kept(word_starts[token])
            if node.depth:
                nodes[child].failure = _move(nodes, node.failure, token, word_starts[token])[0]
    return nodes


def _tokens(nodes: Sequence[_Node], state: int) -> set[int]:
    """The tokens by which a text in this state stays within a keyword that it has begun."""
    own, failure = set(nodes[state].next), nodes[state].failure
    return own if failure == ROOT else own | _tokens(nodes, failure)


def _move(nodes: Sequence[_Node], state: int, token: int, word_starts: bool) -> tuple[int, int]:
    """Where a token leads, and how many tokens more are paid for then, or less."""
    node = nodes[state]
    if token in node.next:
        return node.next[token], 1
    if state == ROOT:
        return ROOT, 0
    target, gain = _move(nodes, node.failure, token, word_starts)
    return target, gain + node.kept(word_starts) - node.depth + nodes[node.failure].depth
