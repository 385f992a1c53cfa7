"""Projector and editor of accelerators: windows and sequences laid end to end in launches of one shape.

The sequence of a clip is its audio embeddings and its slots; attention goes from one sequence's start to its end by the
varlen kernel, which needs no padding and no mask. `redline.models.nar` is the plain twin.

W windows of w frames, q queries of a window, N tokens of a launch, H width, h heads, d numbers of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.engine.fp8 import Fp8Weight, Weight, product
from redline.engine.launch import DEFAULTS, Inputs, Launch, LaunchOptions, Results, in_pinned_memory
from redline.engine.packed import GivenUp
from redline.models.granite import Block
from redline.models.nar import NarModel
from redline.models.rope import rotation

SHORTEST = 32
"""Tokens of a sequence, by which the number of sequences of a launch is limited."""
LONGEST = 1024
"""Tokens of a sequence that shares launches: the kernel of attention starts as many threads for every sequence as its
longest needs. 1,024 are a minute of speech."""


class LayerWeights(NamedTuple):
    """One layer of the language model; its residual multiplier is part of the last maps."""

    norm: Tensor
    qkv: Weight
    out: Weight
    mlp_norm: Tensor
    gate_up: Weight
    down: Weight


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[N, H] divided by its root mean square, in float32, and scaled."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def before_attention(
    x: Tensor, weights: LayerWeights, cos: Tensor, sin: Tensor, heads: int, kv_heads: int, eps: float
) -> Results:
    """x [N, H], cosines and sines [N, 1, d] -> turned queries [N, h, d] and keys, and values [N, kv heads, d]."""
    qkv = product(rms_norm(x, weights.norm, eps), weights.qkv).unflatten(-1, (heads + 2 * kv_heads, -1))
    turned, v = qkv.split((heads + kv_heads, kv_heads), dim=1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    q, k = turned.split((heads, kv_heads), dim=1)
    return q.contiguous(), k.contiguous(), v.contiguous()


def after_attention(x: Tensor, mixed: Tensor, weights: LayerWeights, residual: float, eps: float) -> Results:
    """x [N, H] and what its tokens attended to [N, h, d] -> [N, H]."""
    x = x + residual * product(mixed.flatten(1), weights.out)
    gate, up = product(rms_norm(x, weights.mlp_norm, eps), weights.gate_up).chunk(2, dim=-1)
    return (x + residual * product(F.silu(gate) * up, weights.down),)


def attend_sequences(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float, longest: int) -> Tensor:
    """Attention inside sequences of at most `longest` tokens: q [N, h, d], k and v [N, kv heads, d] -> [N, h, d].

    Sequence s goes from row `starts[s]` to row `starts[s + 1]`; rows behind the last of them give zeros.
    """
    if q.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        known, wanted = _parameters(varlen_attn), dict[str, Any]()
        if "num_splits" in known:  # of the keys, and how many there are would depend on the longest sequence
            wanted["num_splits"] = 1
        if "enable_gqa" in known:  # from PyTorch 2.12 on
            wanted["enable_gqa"] = True
        else:
            k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
        if "scale" in known:  # from PyTorch 2.11 on
            wanted["scale"] = scale
        else:
            q = q * (scale * q.shape[-1] ** 0.5)
        y = varlen_attn(q, k, v, starts, starts, longest, longest, **wanted)
        assert isinstance(y, Tensor)
        return y.masked_fill(torch.arange(len(q), device=q.device)[:, None, None] >= starts[-1], 0.0)
    y, bounds = torch.zeros_like(q), starts.tolist()
    for start, end in pairwise(bounds):
        if start < end:
            own_q, own_k, own_v = (part[start:end].transpose(0, 1)[None] for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(own_q, own_k, own_v, scale=scale, enable_gqa=True)
            y[start:end] = mixed[0].transpose(0, 1)
    return y


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's parameters, of which versions of PyTorch have more and more."""
    return frozenset(inspect.signature(function).parameters)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend_sequences` runs there: on CUDA it needs half precision and capability 8.0."""
    if device.type != "cuda":
        return device.type == "cpu"
    return dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)


class FixedEditor:
    """`embed_audio` and `read` of a `NarModel`, with the same arguments and results."""

    def __init__(self, model: NarModel, options: LaunchOptions = DEFAULTS, *, release: bool = False) -> None:
        """With `release` the language model gives its layers up for it."""
        self.model, self.options, self.config = model, options, model.config.text
        self.device = model.projector.query.device
        self._before, self._after = before_attention, after_attention
        if options.compiler is not None:
            self._before, self._after = options.compiler(before_attention), options.compiler(after_attention)
        with torch.no_grad():
            layers = model.language_model.model.layers
            self.layers = []
            for number, layer in enumerate(layers):
                self.layers.append(self._weights(layer))
                if release:  # so that no weights are in memory twice
                    layers[number] = GivenUp()
        block = model.config.projector.block_size
        self.windows = max(1, options.encoder_rows // block)
        self._projections: Launch | None = None
        self._readings: Launch | None = None

    def _weights(self, layer: torch.nn.Module) -> LayerWeights:
        assert isinstance(layer, Block)
        attention, mlp = layer.self_attn, layer.mlp
        return LayerWeights(
            layer.input_layernorm.weight,
            self._weight(attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight),
            self._weight(attention.o_proj.weight),
            layer.post_attention_layernorm.weight,
            self._weight(mlp.gate_proj.weight, mlp.up_proj.weight),
            self._weight(mlp.down_proj.weight),
        )

    def _weight(self, *weights: Tensor) -> Weight:
        joined = weights[0].detach() if len(weights) == 1 else torch.cat(weights)
        return Fp8Weight.of(joined) if self.options.in_fp8 else joined

    # ---- projector

    @torch.inference_mode()
    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer -> audio embeddings [B, S, H] and lengths [B]."""
        config = self.model.config.projector
        block, rate, (B, T) = config.block_size, config.downsample_rate, exports[0].shape[:2]
        missing, counts = -T % block, lengths.tolist()
        states = torch.stack([F.pad(state, (0, 0, 0, missing)) for state in exports], dim=2)  # [B, T', layers, D]
        windows = states.view(B, -1, block, *states.shape[2:])  # [B, V, w, layers, D]
        # Those that begin within a clip, and how many frames they hold.
        wanted = [(row, at, min(block, n - at * block)) for row, n in enumerate(counts) for at in range(-(-n // block))]
        embeds = states.new_zeros(*windows.shape[:2], block // rate, self.config.hidden_size)  # [B, V, q, H]
        for start in range(0, len(wanted), self.windows):
            rows, places, seen = torch.tensor(wanted[start : start + self.windows]).t().to(self.device)
            more = self.windows - len(rows)
            own = F.pad(windows[rows, places], (0, 0) * 3 + (0, more))
            values = {"states": own, "seen": F.pad(seen, (0, more))}
            if self._projections is None:
                inputs = {name: value.clone() for name, value in values.items()}
                self._projections = Launch(self._project, inputs, self.options.is_captured)
            embeds[rows, places] = self._projections(values)[0][: len(rows)]
        return embeds.flatten(1, 2)[:, : T // rate], lengths // rate

    def _project(self, inputs: Inputs) -> Results:
        """Windows of exported states [W, w, layers, D] -> audio embeddings [W, q, H]; they do not see each other."""
        embeds, _ = self.model.embed_audio(inputs["states"].unbind(2), inputs["seen"])
        return (embeds,)

    # ---- editor

    @torch.inference_mode()
    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor:
        """One bidirectional pass over audio [B, S, H] ++ slots [B, K] -> the slots' states [B, K, H]."""
        slot_embeds = self.model.language_model.embed(slots)  # [B, K, H]
        audio_counts, slot_counts = audio_lengths.tolist(), slot_lengths.tolist()
        hidden = slot_embeds.new_zeros(slot_embeds.shape)
        lengths = [audio + own for audio, own in zip(audio_counts, slot_counts, strict=True)]
        for members in self.launches(lengths):
            parts = [
                part
                for row in members
                for part in (audio_embeds[row, : audio_counts[row]], slot_embeds[row, : slot_counts[row]])
            ]
            states = self._run(torch.cat(parts), [lengths[row] for row in members])
            end = 0
            for row in members:
                end += lengths[row]
                hidden[row, : slot_counts[row]] = states[end - slot_counts[row] : end]
        return hidden

    def launches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which sequences share a launch, in order; one that fits none has one of its own."""
        launches: list[list[int]] = []
        most, room = self.options.editor_rows, 0
        for row, length in enumerate(lengths):
            is_long = length > min(LONGEST, most)
            if not launches or is_long or length > room or len(launches[-1]) == most // SHORTEST:
                launches.append([])
                room = most
            launches[-1].append(row)
            room = 0 if is_long else room - length
        return launches

    def _run(self, embeddings: Tensor, lengths: Sequence[int]) -> Tensor:
        """One launch over sequences of so many tokens, whose embeddings are [N or fewer, H] -> hidden states."""
        rows, total = self.options.editor_rows, len(embeddings)
        is_long = len(lengths) == 1 and total > min(LONGEST, rows)
        size = rows * -(-total // rows) if is_long else rows  # a long sequence is alone: its length alone decides
        positions = torch.cat([torch.arange(length) for length in lengths])
        starts = torch.full((rows // SHORTEST + 1,), total, dtype=torch.int32)
        starts[: len(lengths) + 1] = torch.tensor([0, *lengths]).cumsum(0)
        values = {
            "embeddings": F.pad(embeddings, (0, 0, 0, size - total)),
            "positions": in_pinned_memory(F.pad(positions, (0, size - total)), self.device),
            "starts": in_pinned_memory(starts, self.device),
        }
        if is_long:
            return self._read({name: value.to(self.device) for name, value in values.items()}, size)[0][:total]
        if self._readings is None:
            inputs = {name: value.to(self.device, copy=True) for name, value in values.items()}
            self._readings = Launch(self._read, inputs, self.options.is_captured)
        return self._readings(values)[0][:total]

    def _read(self, inputs: Inputs, longest: int = LONGEST) -> Results:
        """The language model over sequences that lie end to end -> hidden states after the last norm [N, H]."""
        config = self.config
        heads, kv_heads, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
        x = inputs["embeddings"] * config.embedding_multiplier
        cos, sin = rotation(inputs["positions"], config.head_dim, config.rope_theta, config.yarn)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # [N, 1, d]
        for weights in self.layers:
            q, k, v = self._before(x, weights, cos, sin, heads, kv_heads, eps)
            mixed = attend_sequences(q, k, v, inputs["starts"], config.attention_multiplier, longest)
            (x,) = self._after(x, mixed, weights, config.residual_multiplier, eps)
        return (rms_norm(x, self.model.language_model.model.norm.weight, eps),)
