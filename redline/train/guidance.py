"""Where a language model should listen: one attention head is drawn to the sound of the token that comes next.

A small model that answers prompts finds its place in the sound by what it has just written, and loses it where a text
repeats itself. Where the training set is aligned, the place is known, and a head can be taught it: the share of its
attention that falls on the sound of the next token should be one (after guided attention, arXiv 1710.08969, with
alignments in place of a diagonal).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from redline.errors import ConfigError
from redline.models.granite import Attention, Block, GraniteLM, rotate

Span = tuple[int, int]
"""Encoder frames of a token: the first, and that after the last."""


def answer_spans(answer: Sequence[int], tokens: Sequence[int], spans: Sequence[Span]) -> tuple[Span | None, ...]:
    """The span of each token of an answer, in which tags stand between the `tokens` that were said.

    A tag has the span of what is said after it. Empty where the answer does not say the tokens in their order.
    """
    if len(spans) != len(tokens):
        return ()
    found: list[Span | None] = []
    at = 0
    for id in answer:
        said = at < len(tokens) and id == tokens[at]
        found.append(spans[at] if at < len(tokens) else None)
        at += said
    return tuple(found) if at == len(tokens) else ()


class Guide:
    """Watches the first head of some layers while a batch is read, and tells how far it looks past the sound."""

    def __init__(self, model: GraniteLM, layers: Sequence[int]) -> None:
        """`layers` count from 0."""
        self.seen: dict[int, tuple[Tensor, ...]] = {}
        if not layers or not set(layers) <= set(range(len(model.model.layers))):
            raise ConfigError(f"guide_layers is {list(layers)}; allowed are 0 to {len(model.model.layers) - 1}")
        self.attentions: dict[int, Attention] = {}
        for layer in layers:
            attention = cast(Block, model.model.layers[layer]).self_attn
            attention.register_forward_pre_hook(partial(self._watch, layer))
            self.attentions[layer] = attention

    def _watch(self, layer: int, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.seen[layer] = given[:4]

    def loss(self, places: Tensor, spans: Tensor) -> Tensor:
        """Minus the log of the attention that falls into each span, on average.

        Places [N, 2] are rows and positions of what predicts a token, spans [N, 2] the positions of its sound: the
        first, and that after the last.
        """
        rows, at = places.T
        return torch.stack([self._layer_loss(layer, rows, at, spans) for layer in self.attentions]).mean()

    def _layer_loss(self, layer: int, rows: Tensor, at: Tensor, spans: Tensor) -> Tensor:
        x, cos, sin, mask = self.seen.pop(layer)
        attention, size = self.attentions[layer], self.attentions[layer].head_dim
        q, k = (
            rotate(projection(x)[:, None, :, :size].float(), cos, sin)[:, 0]  # [B, L, head_dim]
            for projection in (attention.q_proj, attention.k_proj)
        )
        scores = attention.scale * torch.einsum("nd,nld->nl", q[rows, at], k[rows])  # [N, L]
        may_see = mask[:, 0].expand(-1, x.shape[1], -1)[rows, at]  # [N, L]
        log_probs = scores.masked_fill(~may_see, -torch.inf).log_softmax(dim=-1)
        steps = torch.arange(x.shape[1], device=x.device)
        inside = (steps >= spans[:, :1]) & (steps < spans[:, 1:])
        return -log_probs.masked_fill(~inside, -torch.inf).logsumexp(dim=-1).mean()
