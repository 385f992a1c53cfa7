"""The Granite language model, causal or bidirectional, under the published tensor names.

Four multipliers set it apart from a plain decoder: the embeddings are scaled up by `embedding_multiplier`, the softmax
uses `attention_multiplier` in place of 1/sqrt(head_dim), every residual branch is scaled by `residual_multiplier` and
the logits are divided by `logits_scaling`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redline.models.config import LMConfig
from redline.models.invariant import KEYS, Layer, Linear, Mask, attend, linear, silu
from redline.models.rope import rotation

INITIAL_STD = 0.02


class RMSNorm(Layer):
    """Divide by the root mean square in float32, then scale: [..., H] -> [..., H]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)  # [..., H]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each (i, i + half) pair of x [B, h, L, head_dim] by its angle: the half-split pairing."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class KVCache:
    """Key-value cache of a fixed size, held by the caller: its first rows are in use, `lengths[b]` positions of each.

    What lies behind them is never seen and is written over. To forget the end of a row, lower its length.
    """

    def __init__(
        self,
        config: LMConfig,
        rows: int,
        positions: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        positions += -positions % KEYS  # so that attention need not copy it to fill its last block of keys
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, positions, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # [layers, rows, kv heads, positions, head_dim]
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths: list[int] = []
        self.written = 0
        """Positions that were ever written in some row."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows [R], some left out, some more than once; only those that change places are copied."""
        places = [place for place, row in enumerate(rows) if place != row]
        moved = [rows[place] for place in places]
        for part in (self.keys, self.values):
            if places:  # all that was written, so that nothing of who was there before is left
                part[:, places, :, : self.written] = part[:, moved, :, : self.written]
        self.lengths = [self.lengths[row] for row in rows]


Past = tuple[Tensor, Tensor, Tensor, int]
"""One layer's keys and values in the cache, the place of each new position [B, L], and how many places to look at."""


class Attention(Layer):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scale = config.attention_multiplier
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, queries, bias=False)
        self.k_proj = Linear(config.hidden_size, keys, bias=False)
        self.v_proj = Linear(config.hidden_size, keys, bias=False)
        self.o_proj = Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask, past: Past | None = None) -> Tensor:
        """x [B, L, H], mask as of `attend` -> [B, L, H]."""
        B, L, _ = x.shape
        q, k, v = (
            projection(x).view(B, L, -1, self.head_dim).transpose(1, 2)  # [B, h, L, head_dim]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            keys, values, places, seen = past
            rows = torch.arange(B, device=x.device)[:, None]
            # Autocast may compute in less precision than the cache holds.
            keys[rows, :, places] = k.transpose(1, 2).to(keys.dtype)
            values[rows, :, places] = v.transpose(1, 2).to(values.dtype)
            k, v = keys[:, :, :seen], values[:, :, :seen]  # [B, kv heads, seen, head_dim]
        mixed = attend(q, k, v, mask, self.scale, grouped=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, L, -1))  # [B, L, H]


class SwiGLU(Layer):
    """The gated feed-forward part: [..., H] -> [..., H]."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(Layer):
    """One layer: attention and feed-forward, each on a normalised copy, each scaled into the residual stream."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)
        self.residual = config.residual_multiplier

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask, past: Past | None = None) -> Tensor:
        x = x + self.residual * self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + self.residual * self.mlp(self.post_attention_layernorm(x))
        return x  # [B, L, H]


class GraniteBody(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class GraniteLM(nn.Module):
    """A Granite language model; `lm_head` exists only where the embeddings are not tied."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = GraniteBody(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, (Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INITIAL_STD)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings before scaling: ids [B, L] -> [B, L, H]."""
        embeddings: Tensor = self.model.embed_tokens(ids)
        return embeddings

    def hidden(
        self, embeddings: Tensor, lengths: Tensor, *, causal: bool = True, positions: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the last norm: embeddings [B, L, H] as from `embed`, lengths [B] -> [B, L, H].

        Positions [B, L] count from 0 unless given. What lies past a row's length is never seen, even when it is NaN.
        """
        steps = torch.arange(embeddings.shape[1], device=embeddings.device)
        # A row of length 0 still sees position 0 (a zero): a softmax over nothing would be NaN.
        seen = lengths.clamp(min=1)
        there = (steps < seen[:, None])[:, None, None]  # [B, 1, 1, L]
        mask: Mask = there & (steps <= steps[:, None]) if causal else there  # [B, 1, 1 or L, L]
        if not causal and embeddings.device.type == "cpu" and not torch.is_grad_enabled():
            mask = seen.tolist()  # less to compute, and one row after the other costs nothing here
        places = steps.expand(embeddings.shape[:2]) if positions is None else positions
        return self._run(embeddings, lengths, places, mask)

    def extend(self, embeddings: Tensor, lengths: Sequence[int], cache: KVCache) -> Tensor:
        """Read on from where the cache ends, the causal `hidden` in pieces: embeddings [B, L, H] -> [B, L, H].

        Row b has `lengths[b]` new positions, which the cache then holds too; a new cache has rows without any.
        """
        B, L, _ = embeddings.shape
        before = cache.lengths or [0] * B
        cache.lengths = [old + new for old, new in zip(before, lengths, strict=True)]
        seen = max(before) + L
        cache.written = max(cache.written, seen)
        assert seen <= cache.keys.shape[3], f"{seen} positions do not fit a cache of {cache.keys.shape[3]}"
        seen += -seen % KEYS
        device = embeddings.device
        starts, counts = torch.tensor([before, list(lengths)]).to(device, non_blocking=True)
        places = starts[:, None] + torch.arange(L, device=device)  # [B, L]
        mask = (torch.arange(seen, device=device) <= places[..., None])[:, None]  # [B, 1, L, seen]
        pasts = [(keys[:B], values[:B], places, seen) for keys, values in zip(cache.keys, cache.values, strict=True)]
        return self._run(embeddings, counts, places, mask, pasts)

    def _run(
        self, embeddings: Tensor, lengths: Tensor, places: Tensor, mask: Mask, pasts: Sequence[Past] | None = None
    ) -> Tensor:
        valid = torch.arange(embeddings.shape[1], device=embeddings.device) < lengths[:, None]  # [B, L]
        x = embeddings.masked_fill(~valid[..., None], 0.0) * self.config.embedding_multiplier
        cos, sin = rotation(places, self.config.head_dim, self.config.rope_theta, self.config.yarn)
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, mask, pasts[number] if pasts else None)
        return self.model.norm(x)  # [B, L, H]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token (or same-slot) logits: hidden [..., H] -> [..., V]."""
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return linear(hidden, head.weight) / self.config.logits_scaling

    def forward(self, ids: Tensor, lengths: Tensor, *, causal: bool = True) -> Tensor:
        """Logits of token ids [B, L] with lengths [B] -> [B, L, V]."""
        return self.logits(self.hidden(self.embed(ids), lengths, causal=causal))
