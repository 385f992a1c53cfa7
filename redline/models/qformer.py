"""The window Q-Former of the AR and Plus models: encoder states -> audio embeddings (BLIP-2 layout, arXiv 2301.12597).

Learned queries attend to each other, then to the frames of one window; every sum is normalised after it was made, as in
BERT. The windows of all utterances are stacked into one batch; they do not see each other, so a clip's embeddings
depend on its own frames only.

W windows, Q queries, K keys, P width of the projector, D of the encoder's states, H of the language model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.config import ArConfig, QFormerConfig
from redline.models.conformer import valid_frames
from redline.models.dropout import Dropout
from redline.models.invariant import Layer, Linear, attend_heads, gelu

Size = TypeVar("Size", int, Tensor)


class QFormerHeads(Layer):
    """Multi-head attention without its output projection: x [W, Q, P], source [W, K, D] -> [W, Q, P]."""

    def __init__(self, config: QFormerConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(source_width, config.hidden_size)
        self.value = Linear(source_width, config.hidden_size)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return attend_heads(self.query(x), self.key(source), self.value(source), self.heads)


class Residual(Layer):
    """Project y [W, Q, inner], add x [W, Q, P], normalise."""

    def __init__(self, config: QFormerConfig, inner: int) -> None:
        super().__init__()
        self.dense = Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dropout(self.dense(y)) + x)
        return normed


class QFormerAttention(Layer):
    """Attention of the queries to themselves or to the frames of their window."""

    def __init__(self, config: QFormerConfig, source_width: int) -> None:
        super().__init__()
        self.attention = QFormerHeads(config, source_width)
        self.output = Residual(config, config.hidden_size)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return self.output(self.attention(x, source), x)


class QFormerLayer(Layer):
    """Self-attention, cross-attention (every `cross_attention_frequency`-th layer) and feed-forward."""

    def __init__(self, config: QFormerConfig, index: int) -> None:
        super().__init__()
        self.attention = QFormerAttention(config, config.hidden_size)
        self.crossattention: QFormerAttention | None = None
        if index % config.cross_attention_frequency == 0:
            self.crossattention = QFormerAttention(config, config.encoder_hidden_size)
        self.intermediate_query = nn.ModuleDict({"dense": Linear(config.hidden_size, config.intermediate_size)})
        self.output_query = Residual(config, config.intermediate_size)

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        """queries [W, Q, P], frames [W, window, D] -> [W, Q, P]."""
        queries = self.attention(queries, queries)
        if self.crossattention is not None:
            queries = self.crossattention(queries, frames)
        return self.output_query(gelu(self.intermediate_query["dense"](queries)), queries)


class QFormer(Layer):
    """A norm on the queries [1, Q, P], then the layers over frames [W, window, D] -> [W, Q, P]."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        layers = nn.ModuleList(QFormerLayer(config, index) for index in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, query: Tensor, frames: Tensor) -> Tensor:
        queries: Tensor = self.dropout(self.layernorm(query)).expand(len(frames), -1, -1)
        for layer in self.encoder["layer"].children():
            queries = layer(queries, frames)
        return queries


class WindowQFormer(nn.Module):
    """Turn each window of `window_size` frames into `window_size / downsample_rate` audio embeddings."""

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, config: ArConfig) -> None:
        super().__init__()
        self.window = config.window_size
        self.queries = config.window_size // config.downsample_rate
        width = config.projector.hidden_size
        self.query = nn.Parameter(torch.empty(1, self.queries, width))
        nn.init.normal_(self.query)
        self.qformer = QFormer(config.projector)
        self.linear = Linear(width, config.text.hidden_size)

    def num_tokens(self, frames: Size) -> Size:
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
