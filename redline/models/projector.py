"""The NLE projector: encoder states of several depths -> audio embeddings for the language model (arXiv 2603.08397)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.config import ProjectorConfig
from redline.models.conformer import valid_frames
from redline.models.dropout import Dropout
from redline.models.invariant import Layer, Linear, attend_heads, gelu, silu


class CrossAttention(Layer):
    """The queries of a window look at the frames of that window."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width, bias = config.hidden_size, config.attn_bias
        self.q_proj = Linear(width, width, bias=bias)
        self.k_proj = Linear(width, width, bias=bias)
        self.v_proj = Linear(width, width, bias=bias)
        self.o_proj = Linear(width, width, bias=bias)

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        """queries [W, Q, P], frames [W, block, P] -> [W, Q, P]."""
        return self.o_proj(attend_heads(self.q_proj(queries), self.k_proj(frames), self.v_proj(frames), self.num_heads))


class ProjectorFeedForward(Layer):
    """Two linear maps with a SiLU between them."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        inner = config.hidden_size * config.mlp_ratio
        self.fc1 = Linear(config.hidden_size, inner, bias=config.mlp_bias)
        self.fc2 = Linear(inner, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(silu(self.fc1(x)))


class ProjectorBlock(nn.Module):
    """Cross-attention and feed-forward; only the queries are normalised and carried on."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_eps)
        self.cross_attention = CrossAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_eps)
        self.mlp = ProjectorFeedForward(config)

    def forward(self, queries: Tensor, frames: Tensor) -> Tensor:
        queries = queries + self.cross_attention(self.attn_norm(queries), frames)
        queries = queries + self.mlp(self.mlp_norm(queries))
        return queries  # [W, Q, P]


class Projector(nn.Module):
    """Turn each window of `block_size` frames into `block_size / downsample_rate` audio embeddings.

    Every query starts as the mean of its own `downsample_rate` frames and reads the whole window. Windows do not see
    each other, so a clip's embeddings depend on its own frames only.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.layer_norms = nn.ModuleList(
            nn.LayerNorm(config.encoder_dim, eps=config.layernorm_eps) for _ in range(config.num_encoder_layers)
        )
        self.layer_projector = Linear(config.num_encoder_layers * config.encoder_dim, width)
        self.query = nn.Parameter(torch.empty(1, config.block_size // config.downsample_rate, width))
        self.window_positions = nn.Parameter(torch.empty(1, config.block_size, width))
        for positions in (self.query, self.window_positions):
            nn.init.normal_(positions, std=width**-0.5)
        blocks = nn.ModuleList(ProjectorBlock(config) for _ in range(config.num_layers))
        self.qformer = nn.ModuleDict({"layers": blocks})
        self.out_norm = nn.LayerNorm(width, eps=config.layernorm_eps)
        self.out_linear = Linear(width, config.llm_dim)
        self.dropout = Dropout(config.dropout_prob)

    def forward(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer, and lengths [B] -> [B, S, H] and lengths [B].

        Only a full group of frames makes an embedding.
        """
        B, T, _ = exports[0].shape
        block = self.config.block_size
        normed = [norm(states) for norm, states in zip(self.layer_norms, exports, strict=True)]
        x = gelu(self.layer_projector(torch.cat(normed, dim=-1)))  # [B, T, P]
        # The published model fills the last window with zeros here and lets the queries see them: so does every row
        # of a batch, from its own end on.
        x = x.masked_fill(~valid_frames(lengths, T)[..., None], 0.0)
        x = F.pad(x, (0, 0, 0, -T % block))
        frames = x.reshape(-1, block, x.shape[-1])  # [W, block, P], W = B * windows
        groups = frames.reshape(len(frames), -1, self.config.downsample_rate, frames.shape[-1]).unbind(2)
        means = sum(groups[1:], groups[0]) / len(groups)  # [W, Q, P]; in order, whatever the sizes
        queries, frames = self.dropout(self.query + means), self.dropout(frames + self.window_positions)
        for layer in self.qformer["layers"].children():
            queries = layer(queries, frames)
        y = self.out_linear(self.dropout(self.out_norm(queries)))  # [W, Q, H]
        rate = self.config.downsample_rate
        return y.reshape(B, -1, y.shape[-1])[:, : T // rate], lengths // rate  # [B, S, H], [B]
