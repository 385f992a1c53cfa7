"""The window Q-Former of the AR and Plus models: encoder states -> audio embeddings (BLIP-2 layout, arXiv 2301.12597).

Learned queries look at the frames of one window at a time, after looking at each other; every sum is normalised after
it was made, as in BERT. The fast twin stacks the windows of all utterances into one batch; windows do not see each
other, so a clip's embeddings depend on its own frames only.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.config import ArConfig
from redline.models.conformer import valid_frames
from redline.models.dropout import Dropout
from redline.models.invariant import Linear, attend, gelu

Count = TypeVar("Count", int, Tensor)


class Heads(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key = Linear(source_width, width)
        self.value = Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x [W, Q, P] looks at source [W, K, D] -> [W, Q, P]."""
        q, k, v = (
            states.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [W, h, Q or K, P / h]
            for states in (self.query(x), self.key(source), self.value(source))
        )
        return attend(q, k, v).transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """Project, add to what came in, normalise."""

    def __init__(self, inner: int, width: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(y)) + x)
        return normed


class Attention(nn.Module):
    """Attention of the queries to themselves or to the frames of their window."""

    def __init__(self, config: ArConfig, source_width: int) -> None:
        super().__init__()
        p = config.projector
        self.attention = Heads(p.hidden_size, source_width, p.num_attention_heads)
        self.output = Residual(p.hidden_size, p.hidden_size, p.layer_norm_eps, p.hidden_dropout_prob)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        y: Tensor = self.output(self.attention(x, source), x)
        return y


class Intermediate(nn.Module):
    """The widening half of the feed-forward part."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.dense(x))


class Layer(nn.Module):
    """Self-attention, cross-attention (every `cross_attention_frequency`-th layer) and feed-forward."""

    def __init__(self, config: ArConfig, index: int) -> None:
        super().__init__()
        p = config.projector
        self.attention = Attention(config, p.hidden_size)
        if index % p.cross_attention_frequency == 0:
            self.crossattention = Attention(config, p.encoder_hidden_size)
        self.intermediate_query = Intermediate(p.hidden_size, p.intermediate_size)
        self.output_query = Residual(p.intermediate_size, p.hidden_size, p.layer_norm_eps, p.hidden_dropout_prob)

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        """queries [W, Q, P], frames [W, window, D] -> [W, Q, P]."""
        queries = self.attention(queries, queries)
        if hasattr(self, "crossattention"):
            queries = self.crossattention(queries, frames)
        y: Tensor = self.output_query(self.intermediate_query(queries), queries)
        return y


class Stack(nn.Module):
    """The layers."""

    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, index) for index in range(config.projector.num_hidden_layers))

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        for layer in self.layer:
            queries = layer(queries, frames)
        return queries


class QFormer(nn.Module):
    """A norm on the queries, then the layers."""

    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        p = config.projector
        self.layernorm = nn.LayerNorm(p.hidden_size, eps=p.layer_norm_eps)
        self.dropout = Dropout(p.hidden_dropout_prob)
        self.encoder = Stack(config)

    def forward(self, query: Tensor, frames: Tensor) -> Tensor:
        """query [1, Q, P], frames [W, window, D] -> [W, Q, P]."""
        queries = self.dropout(self.layernorm(query)).expand(len(frames), -1, -1)
        y: Tensor = self.encoder(queries, frames)
        return y


class WindowQFormer(nn.Module):
    """Turn each window of `window_size` frames into `window_size / downsample_rate` audio embeddings."""

    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.window = config.window_size
        self.queries = config.window_size // config.downsample_rate
        width = config.projector.hidden_size
        self.query = nn.Parameter(torch.randn(1, self.queries, width))
        self.qformer = QFormer(config)
        self.linear = Linear(width, config.text.hidden_size)

    def num_tokens(self, frames: Count) -> Count:
        """Audio embeddings of so many encoder frames: a started window counts whole."""
        return -(-frames // self.window) * self.queries

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, T, D] with lengths [B] -> audio embeddings [B, S, H] and lengths [B]."""
        B, T, _ = states.shape
        # The published model fills the last window with zeros and lets the queries see them: so does every row of a
        # batch, from its own end on.
        states = states.masked_fill(~valid_frames(lengths, T)[..., None], 0.0)
        frames = F.pad(states, (0, 0, 0, -T % self.window)).reshape(-1, self.window, states.shape[-1])  # [W, window, D]
        y = self.linear(self.qformer(self.query, frames))  # [W, Q, H]
        return y.reshape(B, self.num_tokens(T), -1), self.num_tokens(lengths)  # [B, S, H], [B]
