"""The packed encoder: the frames of all clips laid end to end, and every launch of the same shape.

Products take `rows` rows at a time, attention one block, the depthwise convolution `rows` rows and their neighbours.
What is computed for a row or a block cannot depend on its neighbours then, in any precision and with any
instructions: the same kernel adds up the same row in the same order. No clip is padded to the length of another, and
what one launch leaves behind is still in the cache when the next one needs it. `redline.models.conformer` is the plain
twin, which reads like the paper.

M rows in all, R rows of a launch, D width, c frames of a block, h heads, d numbers of a head, C convolution channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.engine.crew import run_launches
from redline.engine.int8 import Int8Matrix, joined
from redline.errors import RedlineError
from redline.models.conformer import BlockAttention, ConformerBlock, ConformerEncoder, EncoderOutput, depthwise
from redline.models.invariant import LAUNCH_ROWS, glu, silu
from redline.threads import has_bf16

_STEP = 64
"""A block of attention is computed with a multiple of so many frames, where it is not full."""
PRODUCT = torch.ops.mkldnn
"""oneDNN's products with weights that were brought into its own order before."""


@dataclass(frozen=True)
class Packing:
    """Where the frames of clips lie: one clip behind the other, rows of zeros between them for the convolution."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    rows: int
    """M, a multiple of R."""

    @classmethod
    def of(cls, lengths: Sequence[int], gap: int, rows: int) -> Packing:
        """Clips of so many frames, `gap` rows between them, in launches of `rows` rows."""
        starts, at = [], gap
        for length in lengths:
            starts.append(at)
            at += length + gap
        return cls(tuple(starts), tuple(lengths), -(-at // rows) * rows)

    def spans(self) -> Iterator[slice]:
        """The rows of each clip."""
        return (slice(start, start + length) for start, length in zip(self.starts, self.lengths, strict=True))

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """First row and number of frames of each attention block of `size` frames."""
        for span in self.spans():
            for first in range(span.start, span.stop, size):
                yield first, min(size, span.stop - first)

    def gaps(self) -> Iterator[slice]:
        """The rows before, between and behind the clips."""
        ends = (0, *(span.stop for span in self.spans()))
        return (slice(end, start) for end, start in zip(ends, (*self.starts, self.rows), strict=True))

    def padded(self, x: Tensor) -> Tensor:
        """Rows [M, D] -> [B, T, D], zeros behind the end of a clip."""
        y = x.new_zeros(len(self.lengths), max(1, *self.lengths), x.shape[1])
        for row, span in enumerate(self.spans()):
            y[row, : self.lengths[row]] = x[span]
        return y


class Product:
    """A linear map of R rows."""

    def __init__(self, weight: Tensor | Int8Matrix, bias: Tensor | None, rows: int) -> None:
        """With weights [N, K], which are brought into the order of oneDNN's kernel for R rows where it computes."""
        self.bias = None if bias is None else bias.detach()
        self.weight: Tensor | Int8Matrix = weight
        (self.width, K), self.is_packed = weight.shape, False
        if isinstance(weight, Tensor):
            self.weight = weight.detach()
            self.is_packed = packs(weight) and has_kernel(rows, K, self.width, weight.dtype, bias is not None)
            if self.is_packed:
                self.weight = PRODUCT._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: Tensor) -> Tensor:
        """[R, K] -> [R, N]."""
        if isinstance(self.weight, Int8Matrix):
            return self.weight(x, self.bias)
        if not self.is_packed:
            return F.linear(x, self.weight, self.bias)
        y: Tensor = PRODUCT._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """[R, K] -> [R, N], the sum with `to` [R, N]."""
        if not self.is_packed:
            return self(x).add_(to)
        y: Tensor = PRODUCT._linear_pointwise.binary(x, to, self.weight, self.bias, "add")
        return y


@cache
def has_kernel(rows: int, K: int, N: int, dtype: torch.dtype, has_bias: bool) -> bool:
    """Whether oneDNN has a kernel for a product [R, K] x [N, K]: not for some very small shapes."""
    x, weight, bias = (torch.zeros(shape, dtype=dtype) for shape in ((rows, K), (N, K), (N,)))
    try:
        packed = PRODUCT._reorder_linear_weight(weight, rows)
        PRODUCT._linear_pointwise(x, packed, bias if has_bias else None, "none", [], "")
    except RuntimeError:
        return False
    return True


def packs(weight: Tensor) -> bool:
    """Whether oneDNN computes with weights in its own order here.

    MKL is a tenth faster with AVX2, but there the bits of a row depend on how many threads share a launch.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(PRODUCT, "_reorder_linear_weight")
        and (weight.dtype == torch.float32 or has_bf16())
    )


def below(*weights: Tensor | Int8Matrix) -> Tensor | Int8Matrix:
    """Weights [N_i, K] one below the other."""
    ints = [weight for weight in weights if isinstance(weight, Int8Matrix)]
    return joined(ints) if ints else torch.cat([weight for weight in weights if isinstance(weight, Tensor)])


class PackedAttention:
    """Attention inside blocks, one block at a time (`BlockAttention`)."""

    def __init__(self, layer: BlockAttention, rows: int) -> None:
        self.norm = layer.pre_norm
        self.heads, self.head_dim, self.context = layer.heads, layer.head_dim, layer.context
        self.to_qkv = Product(below(layer.scale * layer.to_q.weight, layer.to_kv.weight), None, rows)
        self.to_out = Product(layer.to_out.weight, layer.to_out.bias, rows)
        table, c = layer.rel_pos_emb.weight, layer.context
        centre = len(table) // 2
        self.to_scores: dict[int, Product] = {}  # by the frames of a block
        for n in (*range(_STEP, c, _STEP), c):
            distances = table[centre - n + 1 : centre + n].flip(0)  # i - j from n - 1 down
            self.to_scores[n] = Product(distances, None, self.heads * n)

    def block(self, qkv: Tensor) -> Tensor:
        """What queries, keys and values [frames, 3 * h * d] of a block attend to, [frames, h * d].

        As many rows are computed as the block's own number of frames demands, which no other clip has a say in.
        """
        frames, h, d = len(qkv), self.heads, self.head_dim
        c = min(self.context, -(-frames // _STEP) * _STEP)
        if frames < c:
            qkv = F.pad(qkv, (0, 0, 0, c - frames))
        q, k, v = qkv.view(1, c, 3, h, d).permute(2, 0, 3, 1, 4).contiguous()  # [1, h, c, d] each
        scores = self.to_scores[c](q.view(-1, d))  # [h * c, 2 * c - 1]
        # Row i of the scores starts c - 1 - i further: a skewed view.
        bias = scores.as_strided((1, h, c, c), (0, c * (2 * c - 1), 2 * c - 2, 1), c - 1)
        if frames < c:
            bias = bias.contiguous()
            bias[..., frames:] = torch.finfo(bias.dtype).min
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return y[0, :, :frames].transpose(0, 1).reshape(frames, h * d)


class Buffers:
    """What the blocks of an encoder write into, one after the other: new memory costs as much as a product."""

    def __init__(self, blocks: Sequence[PackedBlock], like: Tensor) -> None:
        """For M rows or fewer of the type of `like` [M, D]."""
        inner, channels = (max(getattr(block, name) for block in blocks) for name in ("inner", "channels"))
        halo = max(block.halo for block in blocks)
        self.x = torch.empty_like(like)
        self.qkv, self.y = like.new_empty(len(like), 3 * inner), like.new_zeros(len(like), inner)
        self.gates = like.new_zeros(len(like) + 2 * halo, channels)
        self.convolved = like.new_empty(len(like), channels)


class PackedBlock:
    """One Macaron block over packed rows (`ConformerBlock`)."""

    def __init__(self, block: ConformerBlock, rows: int) -> None:
        self.rows, self.stride = rows, block.stride
        self.attention = PackedAttention(block.attn, rows)
        self.inner = self.attention.heads * self.attention.head_dim
        self.norms = block.ff1.pre_norm, block.conv.norm, block.ff2.pre_norm, block.post_norm
        self.up = tuple(Product(ff.up_proj.weight, ff.up_proj.bias, rows) for ff in (block.ff1, block.ff2))
        self.down = tuple(  # half of what a feed-forward gives is added, which is exact in any precision
            Product(0.5 * ff.down_proj.weight, 0.5 * ff.down_proj.bias, rows) for ff in (block.ff1, block.ff2)
        )
        conv = block.conv
        self.up_conv = Product(conv.up_conv.weight.squeeze(-1), conv.up_conv.bias, rows)
        self.down_conv = Product(conv.down_conv.weight.squeeze(-1), conv.down_conv.bias, rows)
        depth, norm = conv.depth_conv.conv, conv.batch_norm
        assert norm.running_mean is not None and norm.running_var is not None
        # The batch norm of a convolution is one with other weights and a bias.
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        self.depth_weight, self.depth_bias = depth.weight * scale[:, None, None], norm.bias - norm.running_mean * scale
        self.channels, self.halo = depth.in_channels, depth.kernel_size[0] // 2

    def __call__(self, x: Tensor, layout: Packing, then: Packing, odd: int, buffers: Buffers) -> Tensor:
        """Rows [M, D] in one layout -> [M', D] in the next one, which is another where the frame rate is halved.

        They are written over `x` where the layout stays.
        """
        R, halo, attention = self.rows, self.halo, self.attention
        rows = [slice(at, at + R) for at in range(0, layout.rows, R)]
        blocks = list(layout.blocks(attention.context))
        x1, qkv, y, gates, convolved = buffers.x, buffers.qkv, buffers.y, buffers.gates, buffers.convolved

        def feed_forward_and_project(number: int) -> None:
            at = rows[number]
            x1[at] = self._feed_forward(0, x[at])
            qkv[at] = attention.to_qkv(attention.norm(x1[at]))

        def attend(number: int) -> None:
            first, frames = blocks[number]
            y[first : first + frames] = attention.block(qkv[first : first + frames])

        def gate(number: int) -> None:
            at = rows[number]
            x1[at] = attention.to_out.added(y[at], x1[at])
            gates[at.start + halo : at.stop + halo] = glu(self.up_conv(self.norms[1](x1[at])))

        def convolve(number: int) -> None:
            at = rows[number]
            around = gates[None, at.start : at.stop + 2 * halo]
            convolved[at] = depthwise(around, self.depth_weight, self.depth_bias)[0]

        def finish(number: int) -> None:
            at = slice(number * R, number * R + R)
            some = self._feed_forward(1, self.down_conv.added(silu(convolved[at]), x1[at]))
            x[at] = self.norms[3](some)

        run_launches(feed_forward_and_project, len(rows))
        # In one thread: for blocks of 25 and the like MKL adds up in another order where several share one.
        run_launches(attend, len(blocks), is_sequential=True)
        run_launches(gate, len(rows))
        for gap in layout.gaps():
            gates[gap.start + halo : gap.stop + halo] = 0.0
        run_launches(convolve, len(rows))
        if self.stride == 2:
            x1, convolved = halved(x1, layout, then, odd), every_other(convolved, layout, then)
            x = torch.empty_like(x1)
        run_launches(finish, then.rows // R)
        return x

    def _feed_forward(self, number: int, x: Tensor) -> Tensor:
        return self.down[number].added(silu(self.up[number](self.norms[2 * number](x))), x)


def every_other(x: Tensor, layout: Packing, then: Packing) -> Tensor:
    """Rows [M, D] -> [M', D]: the first, the third and so on of each clip."""
    y = x.new_zeros(then.rows, x.shape[1])
    for start, span in zip(layout.starts, then.spans(), strict=True):
        y[span] = x[start : start + 2 * (span.stop - span.start) : 2]
    return y


def halved(x: Tensor, layout: Packing, then: Packing, odd: int) -> Tensor:
    """Rows [M, D] -> [M', D]: the mean of each pair of frames of a clip; a last odd frame stands alone."""
    y = x.new_zeros(then.rows, x.shape[1])
    for own, span in zip(layout.spans(), then.spans(), strict=True):
        frames, pairs = x[own], (own.stop - own.start) // 2
        y[span.start : span.start + pairs] = frames[: 2 * pairs].unflatten(0, (-1, 2)).sum(1) / 2
        if odd and len(frames) % 2:
            y[span.start + pairs] = frames[-1]
    return y


class GivenUp(nn.Module):
    """What is left of a block or layer whose weights are a fast twin's."""

    stride = 1

    def forward(self, *_: object) -> Tensor:
        raise RedlineError(
            "the layers of this network were given to the packed engine; load the model with engine='plain' to call it"
        )


class PackedEncoder:
    """Features of clips -> `EncoderOutput`, as the plain encoder gives them."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        export_layers: Sequence[int] = (),
        *,
        rows: int = LAUNCH_ROWS,
        release: bool = False,
    ) -> None:
        """`export_layers` are those whose states are wanted; with `release` the encoder gives its blocks up for it."""
        self.config, self.rows = encoder.config, rows
        self.export_layers = [layer % (encoder.config.num_layers + 1) for layer in export_layers]
        with torch.no_grad():
            self.input = Product(encoder.input_linear.weight, encoder.input_linear.bias, rows)
            self.blocks = []
            for number, block in enumerate(encoder.layers):
                assert isinstance(block, ConformerBlock)
                self.blocks.append(PackedBlock(block, rows))
                if release:  # so that no weights are in memory twice
                    encoder.layers[number] = GivenUp()
            self.out = Product(encoder.out.weight, encoder.out.bias, rows)
            self.out_mid = Product(encoder.out_mid.weight, encoder.out_mid.bias, rows)
        self.dtype = encoder.input_linear.weight.dtype

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Tensor]) -> EncoderOutput:
        """Features [T_i, 160] of B clips -> what `ConformerEncoder.forward` makes of them."""
        config, R, wanted = self.config, self.rows, self.export_layers
        odd = 0 if config.turbo else 1
        gap = self.blocks[0].halo
        layout = Packing.of([len(clip) for clip in clips], gap, R)
        features = torch.zeros(layout.rows, clips[0].shape[1], dtype=self.dtype)
        for clip, span in zip(clips, layout.spans(), strict=True):
            features[span] = clip.to(self.dtype)
        x = self._each(self.input, features)
        buffers = Buffers(self.blocks, x)
        states: dict[int, Tensor] = {0: x.clone()} if 0 in wanted else {}
        for number, block in enumerate(self.blocks, start=1):
            then = layout
            if block.stride == 2:
                then = Packing.of([(length + odd) // 2 for length in layout.lengths], gap, R)
                states = {layer: halved(state, layout, then, odd) for layer, state in states.items()}
            x, layout = block(x, layout, then, odd, buffers), then
            if number == config.self_conditioning_layer:
                mid_logits = self._each(self.out, x)
                self._condition(x, mid_logits)
            if number in wanted:
                states[number] = x.clone()
        char_logits = self._each(self.out, x)
        exports = tuple(layout.padded(states[number]) for number in wanted)
        lengths = torch.tensor(layout.lengths)
        return EncoderOutput(layout.padded(x), lengths, exports, layout.padded(mid_logits), layout.padded(char_logits))

    def _each(self, product: Product, x: Tensor) -> Tensor:
        """A product of all rows, [M, K] -> [M, N]."""
        R, y = self.rows, x.new_empty(len(x), product.width)

        def launch(number: int) -> None:
            y[number * R : number * R + R] = product(x[number * R : number * R + R])

        run_launches(launch, len(x) // R)
        return y

    def _condition(self, x: Tensor, logits: Tensor) -> None:
        """Feed the character posteriors back, in place."""
        R = self.rows

        def launch(number: int) -> None:
            at = slice(number * R, number * R + R)
            x[at] = self.out_mid.added(logits[at].softmax(dim=-1, dtype=torch.float32).to(x.dtype), x[at])

        run_launches(launch, len(x) // R)
