"""The Conformer CTC encoder: log-mel frames in, a draft out.

Macaron blocks (feed-forward, block attention with Shaw relative positions, convolution, feed-forward), character
CTC in the middle and at the top through one shared matrix (self-conditioning, arXiv 2104.02724), and a BPE head
on frames pooled by their probability of not being blank. Lengths are masked wherever a frame could see another:
as attention keys, at convolution inputs, in normalisation statistics and in pooling, so alone == in a batch.

B batch, T encoder frames, D width, c frames of an attention block, h heads, C convolution channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.models.config import EncoderConfig
from redline.models.draft_head import DraftHead
from redline.models.dropout import Dropout
from redline.models.invariant import Layer, Linear, glu, linear, matmul, silu
from redline.threads import available_threads

CHANNEL_BLOCK, GROUP = 64, 16
"""oneDNN never finishes compiling some bfloat16 depthwise convolutions over 31 frames and more: where it gives a thread
a single group of 16 channels, as of 72 channels with 2 threads, or of 1,024 with 64. Seen never to happen are whole
blocks of 64 channels, with two groups of 16 or more for each thread."""


@dataclass
class EncoderOutput:
    """What the encoder knows about a batch; every length counts valid rows of the tensor named like it."""

    hidden: Tensor  # [B, T, D] after the last block
    lengths: Tensor  # [B]
    exports: tuple[Tensor, ...]  # [B, T, D] after each block asked for
    mid_logits: Tensor  # [B, T, C] characters at the self-conditioning block
    char_logits: Tensor  # [B, T, C] characters at the top

    @property
    def mask(self) -> Tensor:
        """True where a frame exists, [B, T]."""
        return valid_frames(self.lengths, self.hidden.shape[1])


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """True where a frame exists: lengths [B] -> mask [B, total]."""
    return torch.arange(total, device=lengths.device)[None, :] < lengths[:, None]


class FeedForward(Layer):
    """Half of a Macaron pair."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        inner = config.hidden_dim * config.feedforward_mult
        self.pre_norm = nn.LayerNorm(config.hidden_dim)
        self.up_proj = Linear(config.hidden_dim, inner)
        self.down_proj = Linear(inner, config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(silu(self.up_proj(self.pre_norm(x))))
        return self.dropout(self.down_proj(x))


def shaw_scores(q: Tensor, table: Tensor) -> Tensor:
    """Relative-position scores q_i . table[i - j + centre]: [..., n, d] and [2 * centre + 1, d] -> [..., n, n].

    One matrix product against the 2n - 1 distances that occur, then a skewed view: row i starts n - 1 - i further.
    """
    n, centre = q.shape[-2], table.shape[0] // 2
    scores = linear(q, table[centre - n + 1 : centre + n].flip(0))  # [..., n, 2n - 1], i - j from n - 1 down
    if n == 1:
        return scores
    skewed = scores.flatten(-2)[..., n - 1 : -1]
    square: Tensor = skewed.unflatten(-1, (n, 2 * n - 2))[..., :n]
    return square


class BlockAttention(Layer):
    """Self-attention inside blocks of `context` frames; padded frames are never keys (Shaw: arXiv 1803.02155)."""

    def __init__(self, config: EncoderConfig, context: int) -> None:
        super().__init__()
        inner = config.num_heads * config.dim_head
        self.context = context
        self.heads = config.num_heads
        self.head_dim = config.dim_head
        self.scale = config.dim_head**-0.5
        self.pre_norm = nn.LayerNorm(config.hidden_dim)
        self.to_q = Linear(config.hidden_dim, inner, bias=False)
        self.to_kv = Linear(config.hidden_dim, 2 * inner, bias=False)
        self.to_out = Linear(inner, config.hidden_dim)
        self.rel_pos_emb = nn.Embedding(2 * config.max_pos_emb + 1, config.dim_head)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, T, _ = x.shape
        # As long for shorter clips too: what a sum over a block adds up to depends on it. Training need not care.
        c = min(self.context, T) if self.training else self.context
        x = self.pre_norm(x)
        missing = -T % c
        mask = F.pad(mask, (0, missing))
        q, k, v = (
            F.pad(part, (0, 0, 0, missing)).reshape(-1, c, self.heads, self.head_dim).transpose(1, 2)
            for part in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )  # [B * blocks, h, c, d]
        keys, q = mask.reshape(-1, 1, c, 1), q * self.scale
        # A padded number may be anything; a zero weight does not stop a NaN.
        k, v = k.masked_fill(~keys, 0.0), v.masked_fill(~keys, 0.0)
        bias = shaw_scores(q, self.rel_pos_emb.weight.to(q.dtype)).masked_fill(~keys.mT, torch.finfo(q.dtype).min)
        y = matmul((matmul(q, k.mT) + bias).softmax(dim=-1), v)  # [B * blocks, h, c, d]
        y = y.transpose(1, 2).reshape(B, -1, self.to_out.in_features)[:, :T]
        return self.dropout(self.to_out(y))


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over [B, T, C] whose statistics count valid frames only."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        if not self.training:
            # As rows: of one frame alone [1, 1, C] another kernel would be taken than of several.
            rows = x.reshape(-1, x.shape[-1])
            y = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return y.view(x.shape)
        assert mask is not None and self.momentum is not None
        weights = mask[..., None].to(torch.float32)
        count = weights.sum().clamp(min=1.0)
        flat = x.float()
        mean = (flat * weights).sum(dim=(0, 1)) / count
        var = ((flat - mean).square() * weights).sum(dim=(0, 1)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1.0), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return x * scale.to(x.dtype) + (self.bias - mean * scale).to(x.dtype)


class _ShiftedProducts(torch.autograd.Function):
    """Depthwise convolution over time as one product for each tap, summed in float32: x [B, T, C], weight [C, kernel].

    cuDNN's gradient of a depthwise convolution in half precision is slow: with this one an H200 trained `tiny` at
    5,700 x real time where it had done 760 before (beside other work).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _sum_of_taps(x, weight, padding).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        kernel, T = weight.shape[1], grad.shape[1]
        wide, grad = F.pad(x, (0, 0, ctx.padding, ctx.padding)).float(), grad.float()
        taps = [(grad * wide[:, tap : tap + T]).sum(dim=(0, 1)) for tap in range(kernel)]
        back = _sum_of_taps(grad, weight.flip(1), kernel - 1 - ctx.padding)
        return back.to(x.dtype), torch.stack(taps, dim=1).to(weight.dtype), None


def _sum_of_taps(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    wide, weight = F.pad(x, (0, 0, padding, padding)).float(), weight.float()
    length = wide.shape[1] - weight.shape[1] + 1
    y = wide[:, :length] * weight[:, 0]
    for tap in range(1, weight.shape[1]):
        y = y + wide[:, tap : tap + length] * weight[:, tap]  # two roundings, wherever in a vector a number stands
    return y


def _compiles(x: Tensor) -> bool:
    """Whether oneDNN compiles a depthwise convolution of x [..., C] for certain; it depends on C and the machine."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return True
    channels = x.shape[-1]
    return channels % CHANNEL_BLOCK == 0 and channels >= _least_channels()


@cache
def _least_channels() -> int:
    return 2 * GROUP * available_threads()


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Depthwise convolution over time: x [B, T, C], weight [C, 1, kernel] -> [B, T', C]."""
    if x.device.type == "cuda" and torch.is_grad_enabled():
        y: Tensor = _ShiftedProducts.apply(x, weight.squeeze(1), padding)[:, ::stride]  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias
    if not _compiles(x):
        y = _sum_of_taps(x, weight.squeeze(1), padding)[:, ::stride]
        return (y if bias is None else y + bias.float()).to(x.dtype)
    weight = weight.unsqueeze(2)  # [C, 1, 1, kernel]
    # As an image one pixel high in channels-last order, the fastest of the depthwise kernels on every backend.
    image = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, T], the same memory
    y = F.conv2d(image, weight, bias, stride=(1, stride), padding=(0, padding), groups=x.shape[-1])
    return y.squeeze(2).transpose(1, 2)


class DepthConv(Layer):
    """Depthwise convolution over time, [B, T, C] -> [B, ceil(T / stride), C]."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        return depthwise(x, weight, stride=self.stride, padding=weight.shape[-1] // 2)


class ConvModule(Layer):
    """Pointwise, gated, depthwise, normalised, pointwise; stride 2 halves the frame rate."""

    def __init__(self, config: EncoderConfig, stride: int) -> None:
        super().__init__()
        inner = config.hidden_dim * config.conv_expansion_factor
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.up_conv = nn.Conv1d(config.hidden_dim, 2 * inner, 1)
        self.depth_conv = DepthConv(inner, config.conv_kernel_size, stride)
        self.batch_norm = MaskedBatchNorm(inner)
        self.down_conv = nn.Conv1d(inner, config.hidden_dim, 1)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, out_mask: Tensor) -> Tensor:
        x = glu(linear(self.norm(x), self.up_conv.weight.squeeze(-1), self.up_conv.bias))  # [B, T, C]
        x = x.masked_fill(~mask[..., None], 0.0)
        x = self.depth_conv(x)[:, : out_mask.shape[1]]
        x = silu(self.batch_norm(x, out_mask))
        x = linear(x, self.down_conv.weight.squeeze(-1), self.down_conv.bias)
        return self.dropout(x)  # [B, ceil(T / stride), D]


def halve(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of each pair of valid frames: [B, T, D] -> [B, ceil(T / 2), D]; a last odd frame stands alone."""
    if x.shape[1] % 2:
        x, mask = F.pad(x, (0, 0, 0, 1)), F.pad(mask, (0, 1))
    pairs = mask.unflatten(1, (-1, 2)).to(x.dtype)  # [B, T / 2, 2]
    x = x.masked_fill(~mask[..., None], 0.0).unflatten(1, (-1, 2))  # [B, T / 2, 2, D]
    mean: Tensor = x.sum(2) / pairs.sum(2).clamp(min=1.0)[..., None]
    return mean


class ConformerBlock(Layer):
    """One Macaron block; with `stride` 2 its convolution halves the frame rate and its residual is mean-pooled."""

    def __init__(self, config: EncoderConfig, context: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ff1 = FeedForward(config)
        self.attn = BlockAttention(config, context)
        self.conv = ConvModule(config, stride)
        self.ff2 = FeedForward(config)
        self.post_norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, x: Tensor, mask: Tensor, out_mask: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(x, mask)
        residual = x if self.stride == 1 else halve(x, mask)[:, : out_mask.shape[1]]
        x = residual + self.conv(x, mask, out_mask)
        x = x + 0.5 * self.ff2(x)
        return self.post_norm(x)  # type: ignore[no-any-return]  # [B, ceil(T / stride), D]


class ConformerEncoder(nn.Module):
    """Features [B, T, 160] with lengths [B] -> `EncoderOutput`; tensor names are the published ones."""

    __call__: Callable[..., EncoderOutput]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.input_linear = Linear(config.input_dim, config.hidden_dim)
        blocks: list[nn.Module] = []
        context = config.context_size
        for number in range(1, config.num_layers + 1):
            stride = 2 if number in config.subsample_layers else 1
            blocks.append(ConformerBlock(config, context, stride))
            context //= 1 if config.turbo else stride
        self.layers = nn.ModuleList(blocks)
        self.out = Linear(config.hidden_dim, config.output_dim)
        self.out_mid = Linear(config.output_dim, config.hidden_dim)
        self.out_bpe: DraftHead | None = None
        if config.bpe_output_dim:
            self.out_bpe = DraftHead(
                config.hidden_dim,
                config.bpe_output_dim,
                blank=config.blank_token_id,
                window=config.bpe_pooling_window,
                dropout=config.pred_dropout,
            )
        self.pred_dropout = Dropout(config.pred_dropout)

    def forward(self, x: Tensor, lengths: Tensor, export_layers: Sequence[int] = ()) -> EncoderOutput:
        wanted = [layer % (self.config.num_layers + 1) for layer in export_layers]  # -1 is the last block
        odd = 0 if self.config.turbo else 1
        if not odd:  # at least one frame of the output, even where no clip is that long
            x = F.pad(x, (0, 0, 0, max(0, self.config.subsampling - x.shape[1])))
        mask = valid_frames(lengths, x.shape[1])
        x = self.input_linear(x.masked_fill(~mask[..., None], 0.0))
        states: dict[int, Tensor] = {0: x} if 0 in wanted else {}
        for number, block in enumerate(self.layers, start=1):
            if number in self.config.subsample_layers:
                lengths, total = (lengths + odd) // 2, (x.shape[1] + odd) // 2
                states = {layer: halve(state, mask)[:, :total] for layer, state in states.items()}
            out_mask = valid_frames(lengths, total) if block.stride == 2 else mask
            x = block(x, mask, out_mask)  # [B, T, D]
            mask = out_mask
            if number == self.config.self_conditioning_layer:
                mid_logits = self.out(self.pred_dropout(x))  # [B, T, C]
                posterior = mid_logits.softmax(dim=-1, dtype=torch.float32)
                x = x + self.out_mid(posterior.to(x.dtype))
            if number in wanted:
                states[number] = x
        char_logits = self.out(self.pred_dropout(x))
        exports = tuple(states[number] for number in wanted)
        return EncoderOutput(x, lengths, exports, mid_logits, char_logits)
