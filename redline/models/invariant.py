"""Batch-invariant linear maps, activations and attention: a row alone == the row among others, to the bit.

Kernels choose how they add up by the shape they are given, and a sum in another order has other last bits, which decide
between two likely tokens. So a kernel gets only shapes that cannot matter to one row. All layers of `models` go through
here, as `tests/models/test_invariance.py` demands. Where gradients are recorded, plain functions do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.threads import has_amx, has_bf16, pin_kernels

ROWS = 8
"""Rows come in groups of so many. For the last 1 to 3 rows of a thread MKL takes another kernel (float32, seen with one
thread below 4 rows, with two below 12), and oneDNN another one for small products (bfloat16)."""
LAUNCH_ROWS = 256
"""On accelerators and in the tiles of AMX every product has exactly so many rows: cuBLAS and oneDNN may choose another
kernel for each number of them, and for one shape always take the same, which adds up all rows in one order."""
KEYS = 512
"""Keys come in groups of so many, the block in which PyTorch's attention walks over them on CPUs."""
GRAIN = 32768
"""Elements below which PyTorch gives an elementwise function to one thread (`at::internal::GRAIN_SIZE`)."""
LANES = 64
"""A multiple of what an elementwise function takes at once; what is left over is computed by other instructions."""

pin_kernels()


class Layer(nn.Module):
    """A module that gives one tensor."""

    __call__: Callable[..., Tensor]


class Linear(Layer, nn.Linear):
    """`nn.Linear`, the same for a row whatever the other rows are."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor | Callable[..., Tensor], bias: Tensor | None = None) -> Tensor:
    """x [..., K], weight [N, K] (or what maps x by itself, given the bias), bias [N] -> [..., N].

    Of a tensor with three dimensions that is not contiguous `F.linear` would round the product before it adds the bias.
    """
    if not isinstance(weight, Tensor):
        return weight(x, bias)
    if torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).contiguous()  # [M, K]
    M = len(rows)
    is_launched = x.device.type != "cpu" or (x.dtype == torch.bfloat16 and has_amx())
    group = LAUNCH_ROWS if is_launched else ROWS
    if M % group:
        rows = F.pad(rows, (0, 0, 0, -M % group))
    if _emulates(x):
        y = F.linear(rows.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    elif group == ROWS or len(rows) == group:
        y = F.linear(rows, weight, bias)
    else:
        y = torch.cat([F.linear(part, weight, bias) for part in rows.split(group)])
    return y[:M].view(*x.shape[:-1], -1)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Products of many matrices, [..., L, K] @ [..., K, N] -> [..., L, N]; one is the same whatever the others are."""
    return (a.float() @ b.float()).to(a.dtype) if _emulates(a) else a @ b


def _emulates(x: Tensor) -> bool:
    """Whether x is bfloat16 that a CPU emulates: products are slow then, and depend on how many rows there are."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not has_bf16()


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), elementwise."""
    return F.silu(x) if _is_plain(x) else _whole_vectors(torch.ops.aten.silu.out, x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), elementwise."""
    return F.gelu(x) if _is_plain(x) else _whole_vectors(torch.ops.aten.gelu.out, x)


def glu(x: Tensor) -> Tensor:
    """The first half of the last dimension, gated by the second: [..., 2C] -> [..., C]."""
    if _is_plain(x):
        return F.glu(x, dim=-1)
    value, gate = x.chunk(2, dim=-1)
    return value * _whole_vectors(torch.ops.aten.sigmoid.out, gate)


def _is_plain(x: Tensor) -> bool:
    """Whether plain functions compute x: on other devices than CPUs, and where gradients are recorded."""
    return x.device.type != "cpu" or torch.is_grad_enabled()


def _whole_vectors(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    """An elementwise function of which every element is computed as part of a whole vector.

    PyTorch shares elements out to threads evenly and computes what is left over at the end of each share one by one,
    with a last bit of its own for every twentieth number. Here all shares are whole grains, but for the end, which is
    filled up.
    """
    flat = x.reshape(-1)
    y = torch.empty_like(flat)
    total = len(flat)
    shared = total - total % (GRAIN * torch.get_num_threads())  # as many grains for each thread
    grains = total - total % GRAIN  # and up to there one for some of them
    for start, end in ((0, shared), (shared, grains)):
        if start < end:
            function(flat[start:end], out=y[start:end])
    if grains < total:
        rest = flat[grains:]
        y[grains:] = function(F.pad(rest, (0, -len(rest) % LANES)), out=flat.new_empty(0))[: len(rest)]
    return y.view(x.shape)


Mask = Tensor | list[int]
"""True where a key may be seen, [B, 1, 1 or L, S], or how many of the first keys (and queries) each row has."""


def attend_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`attend` without a mask, all heads in one dimension: q [W, Q, P], k and v [W, K, P] -> [W, Q, P]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # [W, h, Q or K, P / h]
    return attend(q, k, v).transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, scale: float | None = None, grouped: bool = False
) -> Tensor:
    """Scaled dot-product attention: q [B, h, L, d], k and v [B, h, S, d] -> [B, h, L, d].

    Without a mask all keys are seen, and S must be the same for every batch. With one that is a tensor each query gives
    the same bits whatever S and L are, so that a token read alone is as in a prefill; rows of which the lengths are
    given are read one by one, as they would be alone. With `grouped`, several heads of q share one of k and v.
    """
    if isinstance(mask, list):
        y = torch.zeros_like(q)
        for row, length in enumerate(mask):
            row_q, row_k, row_v = (part[row : row + 1, :, :length] for part in (q, k, v))
            y[row, :, :length] = attend(row_q, row_k, row_v, scale=scale, grouped=grouped)[0]
        return y
    if torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    L, S = q.shape[2], k.shape[2]
    more_keys, more_queries = -S % KEYS if mask is not None else 0, -L % ROWS
    if more_queries:
        q = F.pad(q, (0, 0, 0, more_queries))
    if more_keys:
        k, v = F.pad(k, (0, 0, 0, more_keys)), F.pad(v, (0, 0, 0, more_keys))
    if mask is not None:
        mask = F.pad(mask, (0, more_keys))
        mask = F.pad(mask, (0, 0, 0, more_queries if mask.shape[2] > 1 else 0), value=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)[:, :, :L]
