"""The encoder of accelerators: the frames of clips laid end to end in launches of one shape (`redline.engine.launch`).

Which row is a frame of which clip stands in tables of indices, which are inputs as the features are: nothing depends on
how many clips there are or how long they are, and the device is never asked. `redline.models.conformer` is the plain
twin; `redline.engine.packed` does the same for CPUs, launch by launch inside a layer.

M rows, D width, K blocks of c frames, h heads, d numbers of a head, C convolution channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from redline.engine.fp8 import Fp8Weight, Weight, product
from redline.engine.launch import DEFAULTS, Inputs, Launch, LaunchOptions, Results, in_pinned_memory
from redline.engine.packed import GivenUp, Packing
from redline.models.conformer import ConformerBlock, ConformerEncoder, EncoderOutput, FeedForward

_log = logging.getLogger(__name__)
BLOCKS = 2
"""Attention blocks of a launch, as a multiple of those that whole blocks would need: most clips end inside one."""


@dataclass(frozen=True)
class LaunchLevel:
    """The shape of a launch at one frame rate."""

    rows: int
    context: int

    @property
    def blocks(self) -> int:
        """K."""
        return BLOCKS * -(-self.rows // self.context)


class Tables(NamedTuple):
    """Where the clips of a launch lie at one frame rate."""

    frames: Tensor  # [M] True where a row is a frame of a clip
    blocks: Tensor  # [K, c] the row of each place of an attention block
    seen: Tensor  # [K] how many places of a block are frames, the first ones
    places: Tensor  # [M] the place of each row among all of the blocks

    @classmethod
    def of(cls, layout: Packing, level: LaunchLevel) -> Tables:
        """Tables of one layout; its rows may be fewer than those of the level."""
        c = level.context
        frames, places = torch.zeros(level.rows, dtype=torch.bool), torch.zeros(level.rows, dtype=torch.long)
        blocks, seen = torch.zeros(level.blocks, c, dtype=torch.long), torch.zeros(level.blocks, dtype=torch.long)
        for number, (first, count) in enumerate(layout.blocks(c)):
            own = slice(first, first + count)
            frames[own], places[own] = True, torch.arange(number * c, number * c + count)
            blocks[number, :count], seen[number] = torch.arange(first, first + count), count
        return cls(frames, blocks, seen, places)


class Pairs(NamedTuple):
    """Which rows of the level before make a row of this one."""

    first: Tensor  # [M]
    second: Tensor  # [M]
    shares: Tensor  # [M, 2] float32, what each of them counts

    @classmethod
    def of(cls, before: Packing, after: Packing, rows: int) -> Pairs:
        """Of one layout and the next, in which a last odd frame may stand alone."""
        first, second = torch.zeros(2, rows, dtype=torch.long)
        shares = torch.zeros(rows, 2)
        for old, new in zip(before.spans(), after.spans(), strict=True):
            count, whole = new.stop - new.start, (old.stop - old.start) // 2
            at = old.start + 2 * torch.arange(count)
            first[new], second[new] = at, (at + 1).clamp(max=old.stop - 1)
            shares[new] = 0.5
            shares[new.start + whole : new.stop] = torch.tensor([1.0, 0.0])
        return cls(first, second, shares)


class HalfWeights(NamedTuple):
    """A feed-forward whose output counts half."""

    norm: Tensor
    norm_bias: Tensor
    up: Weight
    up_bias: Tensor
    down: Weight
    down_bias: Tensor


class FirstWeights(NamedTuple):
    """A block up to its depthwise convolution."""

    feed_forward: HalfWeights
    norm: Tensor
    norm_bias: Tensor
    qkv: Weight
    distances: Tensor  # [2 * c - 1, d] for i - j from c - 1 down
    out: Weight
    out_bias: Tensor
    conv_norm: Tensor
    conv_norm_bias: Tensor
    up: Weight
    up_bias: Tensor
    taps: Tensor  # [kernel, C]


class LastWeights(NamedTuple):
    """A block behind its depthwise convolution, whose batch norm is a scale and a shift."""

    scale: Tensor
    shift: Tensor
    down: Weight
    down_bias: Tensor
    feed_forward: HalfWeights
    norm: Tensor
    norm_bias: Tensor


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm of [M, D]."""
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def half_feed_forward(x: Tensor, weights: HalfWeights) -> Tensor:
    """x [M, D] with half of its feed-forward added."""
    inner = F.silu(product(norm(x, weights.norm, weights.norm_bias), weights.up, weights.up_bias))
    return x + product(inner, weights.down, weights.down_bias)


def attend_blocks(qkv: Tensor, distances: Tensor, tables: Tables, heads: int, with_flex: bool) -> Tensor:
    """Attention inside blocks: queries, keys and values [M, 3 * h * d] -> [M, h * d]."""
    (K, c), M = tables.blocks.shape, len(qkv)
    there = torch.arange(c, device=qkv.device) < tables.seen[:, None]  # [K, c]
    # What lies in a place without a frame is of others: a zero weight would not stop a NaN.
    own = qkv[tables.blocks].masked_fill(~there[..., None], 0.0)
    q, k, v = own.view(K, c, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # [K, h, c, d]
    scores = q.contiguous() @ distances.t()  # [K, h, c, 2 * c - 1], i - j from c - 1 down

    if with_flex:

        def shaw(score: Tensor, block: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            biased = score + scores[block, head, i, j - i + c - 1]
            return torch.where(j < tables.seen[block].clamp(min=1), biased, -torch.inf)

        y = flex_attention(q, k, v, score_mod=shaw, scale=1.0)
        assert isinstance(y, Tensor)
    else:
        bias = scores
        if c > 1:  # row i starts c - 1 - i further: a skewed view
            bias = scores.flatten(-2)[..., c - 1 : -1].unflatten(-1, (c, 2 * c - 2))[..., :c]
        bias = bias.masked_fill(~there[:, None, None], torch.finfo(bias.dtype).min)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    rows = y.transpose(1, 2).reshape(K * c, -1)[tables.places]
    return rows.masked_fill(~tables.frames[:, None], 0.0).view(M, -1)


def first_part(x: Tensor, weights: FirstWeights, tables: Tables, heads: int, with_flex: bool) -> Results:
    """A block up to its depthwise convolution: rows [M, D] -> the residual [M, D] and the convolution [M, C]."""
    x = half_feed_forward(x, weights.feed_forward)
    qkv = product(norm(x, weights.norm, weights.norm_bias), weights.qkv)
    x = x + product(attend_blocks(qkv, weights.distances, tables, heads, with_flex), weights.out, weights.out_bias)
    value, gate = product(norm(x, weights.conv_norm, weights.conv_norm_bias), weights.up, weights.up_bias).chunk(2, -1)
    gated = (value * gate.sigmoid()).masked_fill(~tables.frames[:, None], 0.0)  # [M, C]
    # Shifted multiply-adds, which a compiler makes one pass of.
    kernel, M = len(weights.taps), len(x)
    wide = F.pad(gated, (0, 0, kernel // 2, kernel // 2))
    convolved = wide[:M].float() * weights.taps[0]
    for tap in range(1, kernel):
        convolved = convolved + wide[tap : tap + M].float() * weights.taps[tap]
    return x, convolved.to(x.dtype)


def last_part(x: Tensor, convolved: Tensor, weights: LastWeights) -> Results:
    """A block behind its depthwise convolution: the residual [M, D] and the convolution [M, C] -> [M, D]."""
    some = F.silu((convolved.float() * weights.scale + weights.shift).to(x.dtype))
    x = half_feed_forward(x + product(some, weights.down, weights.down_bias), weights.feed_forward)
    return (norm(x, weights.norm, weights.norm_bias),)


class FixedEncoder:
    """Features of clips -> `EncoderOutput`, as the plain encoder gives them."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        export_layers: Sequence[int] = (),
        options: LaunchOptions = DEFAULTS,
        *,
        release: bool = False,
    ) -> None:
        """`export_layers` are those whose states are wanted; with `release` the encoder gives its blocks up for it."""
        self.config, self.options = encoder.config, options
        self.export_layers = [layer % (encoder.config.num_layers + 1) for layer in export_layers]
        self.device, self.dtype = encoder.input_linear.weight.device, encoder.input_linear.weight.dtype
        self.heads = encoder.config.num_heads
        self._first, self._last = first_part, last_part
        if options.compiler is not None:
            self._first, self._last = options.compiler(first_part), options.compiler(last_part)
        self.strides, self.weights = [], []
        with torch.no_grad():
            for number, block in enumerate(encoder.layers):
                assert isinstance(block, ConformerBlock)
                self.strides.append(block.stride)
                self.weights.append((self._first_weights(block), self._last_weights(block)))
                if release:  # so that no weights are in memory twice
                    encoder.layers[number] = GivenUp()
            self.ends = [
                (linear.weight.detach(), linear.bias.detach())
                for linear in (encoder.input_linear, encoder.out, encoder.out_mid)
            ]
        self.rows, self.is_halved = options.encoder_rows, False
        self.levels, self.gap = self._levels(self.rows), len(self.weights[0][0].taps) // 2
        self._launch: Launch | None = None

    def _levels(self, rows: int) -> list[LaunchLevel]:
        """The shapes of a launch at the frame rates it goes through."""
        levels, context = [LaunchLevel(rows, self.config.context_size)], self.config.context_size
        for stride in self.strides:
            if stride == 2:
                context //= 1 if self.config.turbo else 2
                rows //= 2
                levels.append(LaunchLevel(rows, context))
        return levels

    def _half(self, feed_forward: FeedForward) -> HalfWeights:
        norm, up, down = feed_forward.pre_norm, feed_forward.up_proj, feed_forward.down_proj
        # Half of what a feed-forward gives is added, which is exact in any precision but fp8, which scales rows.
        return HalfWeights(
            norm.weight, norm.bias, self._weight(up.weight), up.bias, self._weight(0.5 * down.weight), 0.5 * down.bias
        )  # fmt: skip

    def _weight(self, weight: Tensor) -> Weight:
        return Fp8Weight.of(weight) if self.options.in_fp8 else weight.detach()

    def _first_weights(self, block: ConformerBlock) -> FirstWeights:
        attention, conv = block.attn, block.conv
        assert conv.up_conv.bias is not None
        table, c = attention.rel_pos_emb.weight, attention.context
        centre = len(table) // 2
        return FirstWeights(
            self._half(block.ff1),
            attention.pre_norm.weight,
            attention.pre_norm.bias,
            self._weight(torch.cat((attention.to_q.weight * attention.scale, attention.to_kv.weight))),
            table[centre - c + 1 : centre + c].flip(0),
            self._weight(attention.to_out.weight),
            attention.to_out.bias,
            conv.norm.weight,
            conv.norm.bias,
            self._weight(conv.up_conv.weight.squeeze(-1)),
            conv.up_conv.bias,
            conv.depth_conv.conv.weight.squeeze(1).t().float().contiguous(),
        )

    def _last_weights(self, block: ConformerBlock) -> LastWeights:
        conv, batch_norm = block.conv, block.conv.batch_norm
        assert batch_norm.running_mean is not None and batch_norm.running_var is not None
        assert conv.down_conv.bias is not None
        scale = batch_norm.weight.float() * torch.rsqrt(batch_norm.running_var.float() + batch_norm.eps)
        shift = batch_norm.bias.float() - batch_norm.running_mean.float() * scale
        down = self._weight(conv.down_conv.weight.squeeze(-1))
        post = block.post_norm
        return LastWeights(scale, shift, down, conv.down_conv.bias, self._half(block.ff2), post.weight, post.bias)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Tensor]) -> EncoderOutput:
        """Features [T_i, 160] of B clips -> what `ConformerEncoder.forward` makes of them."""
        try:
            outputs = self._each(clips)
        except torch.OutOfMemoryError:
            if self.is_halved:
                raise
            rows = self.rows // 2
            _log.warning(
                "out of memory; from now on the encoder takes %d rows at a time in place of %d", rows, self.rows
            )
            self.is_halved, self.rows, self.levels, self._launch = True, rows, self._levels(rows), None
            outputs = self._each(clips)
        lengths = torch.tensor([len(output[0]) for output in outputs], device=self.device)
        most = max(1, *(len(output[0]) for output in outputs))
        parts = []
        for of_clips in zip(*outputs, strict=True):
            part = of_clips[0].new_zeros(len(clips), most, of_clips[0].shape[1])
            for row, own_rows in zip(part, of_clips, strict=True):
                row[: len(own_rows)] = own_rows
            parts.append(part)
        hidden, mid_logits, char_logits, *exports = parts
        return EncoderOutput(hidden, lengths, tuple(exports), mid_logits, char_logits)

    def _each(self, clips: Sequence[Tensor]) -> list[Results]:
        """What `_run` gives of each of B clips."""
        outputs: list[Results] = [()] * len(clips)
        for members in self.launches([len(clip) for clip in clips]):
            own = [clips[member] for member in members]
            layouts = self.layouts([len(clip) for clip in own])
            rows = self._run(own, layouts)
            for member, span in zip(members, layouts[-1].spans(), strict=True):
                outputs[member] = tuple(part[span] for part in rows)
        return outputs

    def launches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Which of the clips of so many frames share a launch, in order; one that fits none has one of its own."""
        members: list[int] = []
        for number, length in enumerate(lengths):
            if members and not self._fit([*(lengths[member] for member in members), length]):
                yield members
                members = []
            members.append(number)
        yield members

    def layouts(self, lengths: Sequence[int]) -> list[Packing]:
        """Where clips of so many frames lie, at each frame rate."""
        odd, layouts = 0 if self.config.turbo else 1, [Packing.of(lengths, self.gap, 1)]
        for _ in self.levels[1:]:
            layouts.append(Packing.of([(length + odd) // 2 for length in layouts[-1].lengths], self.gap, 1))
        return layouts

    def _fit(self, lengths: Sequence[int], levels: Sequence[LaunchLevel] | None = None) -> bool:
        """Whether clips of so many frames fit into one launch."""
        return all(
            layout.rows <= level.rows and len(list(layout.blocks(level.context))) <= level.blocks
            for layout, level in zip(self.layouts(lengths), levels or self.levels, strict=True)
        )

    def _run(self, clips: Sequence[Tensor], layouts: Sequence[Packing]) -> Results:
        """One launch: hidden states, characters of the middle and of the top, exported states; rows of the last layout.

        A clip that is longer than a launch has a shape of its own, which its length alone decides.
        """
        lengths, levels, rows = layouts[0].lengths, self.levels, self.rows
        while not self._fit(lengths, levels):
            rows += self.rows
            levels = self._levels(rows)
        features = torch.zeros(rows, clips[0].shape[1], dtype=self.dtype, device=clips[0].device)
        for clip, span in zip(clips, layouts[0].spans(), strict=True):
            features[span] = clip.to(self.dtype)
        values = {"features": in_pinned_memory(features, self.device)}
        for number, (layout, level) in enumerate(zip(layouts, levels, strict=True)):
            tables = {f"{name}{number}": table for name, table in Tables.of(layout, level)._asdict().items()}
            if number:
                pairs = Pairs.of(layouts[number - 1], layout, level.rows)
                tables |= {f"{name}{number}": table for name, table in pairs._asdict().items()}
            values |= {name: in_pinned_memory(table, self.device) for name, table in tables.items()}
        if levels is not self.levels:
            return self._encode({name: value.to(self.device) for name, value in values.items()})
        if self._launch is None:
            inputs = {name: value.to(self.device, copy=True) for name, value in values.items()}
            self._launch = Launch(self._encode, inputs, self.options.is_captured)
        return self._launch(values)

    def _encode(self, inputs: Inputs) -> Results:
        """The encoder over static inputs."""
        config, wanted, number = self.config, self.export_layers, 0
        tables = [Tables(*(inputs[f"{name}{level}"] for name in Tables._fields)) for level in range(len(self.levels))]
        (input, input_bias), (out, out_bias), (out_mid, out_mid_bias) = self.ends
        x = F.linear(inputs["features"], input, input_bias)
        states: dict[int, Tensor] = {0: x} if 0 in wanted else {}
        with_flex = self.options.attention == "flex"
        for layer, (stride, (first, last)) in enumerate(zip(self.strides, self.weights, strict=True), start=1):
            x, convolved = self._first(x, first, tables[number], self.heads, with_flex)
            if stride == 2:
                number += 1
                pairs = Pairs(*(inputs[f"{name}{number}"] for name in Pairs._fields))
                x, convolved = paired(x, pairs), convolved[pairs.first]
                states = {layer: paired(state, pairs) for layer, state in states.items()}
            (x,) = self._last(x, convolved, last)
            if layer == config.self_conditioning_layer:
                mid_logits = F.linear(x, out, out_bias)
                posterior = mid_logits.softmax(dim=-1, dtype=torch.float32).to(x.dtype)
                x = x + F.linear(posterior, out_mid, out_mid_bias)
            if layer in wanted:
                states[layer] = x
        return x, mid_logits, F.linear(x, out, out_bias), *(states[layer] for layer in wanted)


def paired(x: Tensor, pairs: Pairs) -> Tensor:
    """The mean of each pair of rows [M, D] -> [M / 2, D]; a last odd frame of a clip stands alone."""
    first, second = x[pairs.first].float(), x[pairs.second].float()
    return (first * pairs.shares[:, :1] + second * pairs.shares[:, 1:]).to(x.dtype)
