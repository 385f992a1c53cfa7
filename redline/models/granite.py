"""The Granite language model, causal or bidirectional, under the published tensor names.

Four multipliers set it apart from a plain decoder: the embeddings are scaled up by `embedding_multiplier`, the softmax
uses `attention_multiplier` in place of 1/sqrt(head_dim), every residual branch is scaled by `residual_multiplier` and
the logits are divided by `logits_scaling`.
"""

from __future__ import annotations

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
    """Key-value cache of a fixed number of slots, each for a text or the texts of a beam, and of places in each.

    A slot that somebody takes must hold numbers: one that is none is seen through any mask.
    """

    def __init__(self, config: LMConfig, slots: int, places: int, like: Tensor) -> None:
        """Zeros, on the device and in the precision of a tensor."""
        places += -places % KEYS  # so that attention need not copy it to fill its last block of keys
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, places, config.head_dim)
        self.keys = like.new_zeros(shape)  # [layers, slots, kv heads, places, head_dim]
        self.values = like.new_zeros(shape)


Past = tuple[Tensor, Tensor, Tensor, Tensor, int]
"""One layer's keys and values in the cache, the slot [B, 1] and place [B, L] of each new position, and how many places
of the first B slots to look at; 0 looks at the new positions alone."""


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
            keys, values, slots, places, seen = past
            # Autocast may compute in less precision than the cache holds.
            keys[slots, :, places] = k.transpose(1, 2).to(keys.dtype)
            values[slots, :, places] = v.transpose(1, 2).to(values.dtype)
            if seen:
                k, v = keys[:B, :, :seen], values[:B, :, :seen]  # [B, kv heads, seen, head_dim]
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
        self,
        embeddings: Tensor,
        lengths: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        into: tuple[KVCache, Tensor] | None = None,
    ) -> Tensor:
        """Hidden states after the last norm: embeddings [B, L, H] as from `embed`, lengths [B] -> [B, L, H].

        Positions [B, L] count from 0 unless given. What lies past a row's length is never seen, even when it is NaN.
        Keys and values are kept `into` slots [B] of a cache, of which others may be in use.
        """
        steps = torch.arange(embeddings.shape[1], device=embeddings.device)
        # A row of length 0 still sees position 0 (a zero): a softmax over nothing would be NaN.
        seen = lengths.clamp(min=1)
        there = (steps < seen[:, None])[:, None, None]  # [B, 1, 1, L]
        mask: Mask = there & (steps <= steps[:, None]) if causal else there  # [B, 1, 1 or L, L]
        if not causal and embeddings.device.type == "cpu" and not torch.is_grad_enabled():
            mask = seen.tolist()  # less to compute, and one row after the other costs nothing here
        places = steps.expand(embeddings.shape[:2])
        x = embeddings.masked_fill((steps >= lengths[:, None])[..., None], 0.0)
        kept = None if into is None else (into[0], into[1][:, None], places, 0)
        return self._run(x, places if positions is None else positions, mask, kept)

    def advance(self, embeddings: Tensor, positions: Tensor, places: Tensor, visible: Tensor, cache: KVCache) -> Tensor:
        """Read L new tokens in each of the first B slots of a cache: embeddings [B, L, H] -> [B, L, H].

        They have rotary positions [B, L], are kept in `places` [B, L], and see the places [B, L, S] that are True, so
        that the texts of a beam can share a slot as the branches of a tree.
        """
        slots = torch.arange(len(embeddings), device=embeddings.device)[:, None]
        return self._run(embeddings, positions, visible[:, None], (cache, slots, places, visible.shape[-1]))

    def _run(
        self, embeddings: Tensor, positions: Tensor, mask: Mask, kept: tuple[KVCache, Tensor, Tensor, int] | None = None
    ) -> Tensor:
        x = embeddings * self.config.embedding_multiplier
        cos, sin = rotation(positions, self.config.head_dim, self.config.rope_theta, self.config.yarn)
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, mask, (kept[0].keys[number], kept[0].values[number], *kept[1:]) if kept else None)
        return self.model.norm(x)  # [B, L, H]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token (or same-slot) logits: hidden [..., H] -> [..., V]."""
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return linear(hidden, head.weight) / self.config.logits_scaling

    def forward(self, ids: Tensor, lengths: Tensor, *, causal: bool = True) -> Tensor:
        """Logits of token ids [B, L] with lengths [B] -> [B, L, V]."""
        return self.logits(self.hidden(self.embed(ids), lengths, causal=causal))
