"""Expected words: a search is drawn towards them while it writes, and gives back what it got for unfinished ones.

Names and terms of a trade are rare in every language model. Each token that goes on from the beginning of an expected
word is worth `boost` at once, so that a beam keeps the word alive until all of it has been heard; when the text takes
another turn, what was given for the unfinished part is taken back (contextual biasing, arXiv 1808.02480; the tree of
words with failure links is that of Aho and Corasick, 1975).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redline.errors import ConfigError

START, ROOT = 0, 1
"""The place before a text's first token, where a word may be spelled otherwise, and that outside all expected words."""


@dataclass
class _Node:
    """How far a text has come into some expected words."""

    depth: int = 0
    next: dict[int, int] = field(default_factory=dict)
    ends: bool = False
    finished: int = 0
    """Tokens of the longest expected word that ended on the way here."""
    otherwise: int = ROOT
    """Where the text stands if this is not the word: the longest beginning that its last tokens are as well."""

    def kept(self, word_starts: bool) -> int:
        """Tokens that stay paid for when the text goes on another way, with a new word or within this one."""
        return self.depth if self.ends and word_starts else self.finished


class Keywords:
    """Expected words as ids, each token worth `boost` nats: `decoding.beam.Biasing` on any device."""

    def __init__(
        self, words: Iterable[Sequence[int]], first_words: Iterable[Sequence[int]], starts: Sequence[bool], boost: float
    ) -> None:
        """`first_words` are the words as they are spelled at the start of a text.

        `starts` tells of every id whether it begins a word, because a word within another one is not expected. Raises
        `ConfigError` when there is no word.
        """
        self.starts = torch.tensor(starts)
        nodes = _tree(words, first_words, starts)
        # First tokens count at every place: they are looked up apart, or the table would grow with the square.
        moves = {
            place * len(starts) + token: _move(nodes, place, token, starts[token])
            for place in range(len(nodes))
            for token in _tokens(nodes, place)
        }
        ordered = sorted(moves)
        if not ordered:
            raise ConfigError("no expected words; leave the biasing out instead")
        self.keys = torch.tensor(ordered, dtype=torch.int64)
        self.targets = torch.tensor([moves[key][0] for key in ordered], dtype=torch.int64)
        self.given = torch.tensor([float(moves[key][1]) for key in ordered])
        refunds = [[_refund(nodes, place, starts) for place in range(len(nodes))] for starts in (False, True)]
        self.refunds = torch.tensor(refunds, dtype=torch.float32)  # [2, N] any other token, by what it begins
        self.boost = boost

    def to(self, device: torch.device | str) -> Keywords:
        """Move the tables; returns itself."""
        for name in ("starts", "keys", "targets", "given", "refunds"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def step(self, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The places after one more token each, and what the tokens give: both [N] -> [N] int64, [N] float32."""
        anew, worth = self._known(torch.full_like(places, ROOT), tokens, torch.full_like(places, ROOT), 0.0)
        left = self.refunds[self.starts[tokens].long(), places]
        targets, given = self._known(places, tokens, anew, left + worth)
        return targets, self.boost * given

    def _known(self, places: Tensor, tokens: Tensor, target: Tensor, given: Tensor | float) -> tuple[Tensor, Tensor]:
        """What the table has for a token at a place, else these."""
        wanted = places * len(self.starts) + tokens
        at = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        known = self.keys[at] == wanted
        return torch.where(known, self.targets[at], target), torch.where(known, self.given[at], given)

    def end(self, places: Tensor) -> Tensor:
        """What the end of a text gives: [N] -> [N] float32, 0 or less."""
        return self.boost * self.refunds[1, places]


def _tree(words: Iterable[Sequence[int]], first_words: Iterable[Sequence[int]], starts: Sequence[bool]) -> list[_Node]:
    nodes = [_Node(), _Node()]
    for root, group in ((START, first_words), (ROOT, words)):
        for word in group:
            place = root
            for token in word:
                node = nodes[place]
                if token not in node.next:
                    node.next[token] = len(nodes)
                    nodes.append(_Node(node.depth + 1))
                place = node.next[token]
            nodes[place].ends = place != root
    # Parents come before their children, and shorter beginnings before longer ones.
    for place in sorted(range(len(nodes)), key=lambda at: nodes[at].depth):
        node = nodes[place]
        for token, child in node.next.items():
            nodes[child].finished = node.kept(starts[token])
            if node.depth:
                nodes[child].otherwise = _move(nodes, node.otherwise, token, starts[token])[0]
    return nodes


def _tokens(nodes: Sequence[_Node], place: int) -> set[int]:
    """The tokens by which a text at this place stays within an expected word that it has begun."""
    own = set(nodes[place].next)
    otherwise = nodes[place].otherwise
    return own if otherwise == ROOT else own | _tokens(nodes, otherwise)


def _move(nodes: Sequence[_Node], place: int, token: int, word_starts: bool) -> tuple[int, int]:
    """Where a token leads, and how many tokens more are paid for then."""
    node = nodes[place]
    if token in node.next:
        return node.next[token], 1
    if place == ROOT:
        return ROOT, 0
    target, given = _move(nodes, node.otherwise, token, word_starts)
    return target, given + node.kept(word_starts) - node.depth + nodes[node.otherwise].depth


def _refund(nodes: Sequence[_Node], place: int, word_starts: bool) -> int:
    """How many tokens more are paid for, none or less, when a text leaves all expected words."""
    if place == ROOT:
        return 0
    node = nodes[place]
    refund = node.kept(word_starts) - node.depth + nodes[node.otherwise].depth
    return refund + _refund(nodes, node.otherwise, word_starts)
