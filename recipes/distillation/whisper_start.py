"""An encoder that begins with what Whisper's knows: each of its Transformer blocks becomes a Conformer block.

A Conformer block without its first feed-forward and its convolution is a Transformer block, but for five things:

- Activations: gelu(x) is nearly silu(1.702 x) / 1.702 (arXiv 1606.08415).
- Biases of queries, keys and values: a shift of the norm before them has the effect of the first, softmax is blind to
  the second, and the third goes into the bias behind them.
- A feed-forward of width 4 becomes two of width 2, at the end of a block and at the beginning of the next one.
- The norm behind a block makes every frame of one size; a frame of Whisper's has nearly always the same.
- Positions are relative: all frames get one absolute position of Whisper's, and Shaw's table is learned.

Whisper's two convolutions over 50 frames a second have no counterpart: `fit_front` teaches the first block to do the
same. Everything else that is new begins with no effect.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline.errors import ConfigError, DataError
from redline.features import FRAME_RATE, clip_features, pad
from redline.manifest import Utterance
from redline.models.conformer import BlockAttention, ConformerBlock, ConformerEncoder, FeedForward, valid_frames
from redline.train.data.feature_cache import cut_samples, utterance_cut
from redline.train.loop.distributed import Say
from redline.train.loop.stage import share_done
from redline_recipes.distillation.whisper import WhisperBlock, WhisperEncoder, load_whisper, whisper_mel

GELU_SLOPE = 1.702
POSITION = 100
"""The frame of Whisper whose position all frames get: two seconds after the beginning."""
FRONT_LR, FRONT_CLIPS, FRONT_LONGEST_S = 2e-3, 8, 20.0
SHOWN = 30
"""Utterances from which spreads and relative positions are found."""
REACH = 200
"""Frames of 40 ms behind which distances are not told apart at first."""
SHARE_OF_ALL = 0.1
"""What all pairs of frames together count beside those that Whisper attends to."""
RIDGE = 1e-3
"""How much a shift of the norm may cost where queries hardly depend on it, as a share of the mean squared weight."""


def blocks_of(encoder: ConformerEncoder) -> list[ConformerBlock]:
    """The blocks of an encoder."""
    return [block for block in encoder.layers if isinstance(block, ConformerBlock)]


def sources_of(whisper: WhisperEncoder) -> list[WhisperBlock]:
    """The blocks of Whisper's encoder."""
    return [block for block in whisper.blocks if isinstance(block, WhisperBlock)]


def check_shapes(encoder: ConformerEncoder, whisper: WhisperEncoder) -> None:
    """Raise `ConfigError` for an encoder whose blocks cannot hold those of Whisper's behind a first one."""
    config, width = encoder.config, whisper.norm.normalized_shape[0]
    heads = sources_of(whisper)[0].heads
    wanted: dict[str, object] = {
        "num_layers": len(whisper.blocks) + 1,
        "hidden_dim": width,
        "num_heads": heads,
        "dim_head": width // heads,
        "feedforward_mult": 2,
        "subsample_layers": (1,),
    }
    if wrong := [name for name, value in wanted.items() if getattr(config, name) != value]:
        told = ", ".join(f"{name} = {wanted[name]!r}, not {getattr(config, name)!r}" for name in wrong)
        raise ConfigError(f"[encoder] an encoder that begins with this Whisper model needs {told}")


@torch.no_grad()
def begin_with_whisper(encoder: ConformerEncoder, whisper: WhisperEncoder, spreads: Tensor) -> None:
    """Copy Whisper's blocks behind the first block of an encoder; `spreads` [L + 1] are those of `frame_spreads`.

    Their shapes must fit (`check_shapes`).
    """
    nn.init.zeros_(encoder.out_mid.weight), nn.init.zeros_(encoder.out_mid.bias)
    front, *blocks = blocks_of(encoder)
    front.post_norm.weight.fill_(float(spreads[0]))
    front.post_norm.bias.copy_(whisper.positions[POSITION])
    without_effect = nn.ModuleList((blocks[0].ff1.down_proj, *(block.conv.down_conv for block in blocks)))
    for parameter in without_effect.parameters():
        nn.init.zeros_(parameter)
    for number, (block, source) in enumerate(zip(blocks, sources_of(whisper), strict=True), start=1):
        _copy_attention(block.attn, source)
        kept, others = _halves(source)
        _copy_feed_forward(block.ff2, source, kept, bias=True)
        if number < len(blocks):
            _copy_feed_forward(blocks[number].ff1, source, others, bias=False)
            block.post_norm.weight.fill_(float(spreads[number]))
            nn.init.zeros_(block.post_norm.bias)
        else:
            block.post_norm.load_state_dict(whisper.norm.state_dict())


def _copy_attention(target: BlockAttention, source: WhisperBlock) -> None:
    to_q, to_k, to_v = source.qkv.weight.double().chunk(3)
    q_bias, _, v_bias = source.qkv.bias.double().chunk(3)
    ridge = RIDGE * to_q.square().mean() * len(to_q) * torch.eye(len(to_q), dtype=torch.float64)
    shift = torch.linalg.solve(to_q.T @ to_q + ridge, to_q.T @ q_bias)
    target.pre_norm.weight.copy_(source.attention_norm.weight)
    target.pre_norm.bias.copy_(source.attention_norm.bias + shift)
    target.to_q.weight.copy_(to_q)
    target.to_kv.weight.copy_(torch.cat((to_k, to_v)))
    target.to_out.weight.copy_(source.out.weight)
    target.to_out.bias.copy_(source.out.bias + source.out.weight.double() @ (v_bias - to_v @ shift))
    nn.init.zeros_(target.rel_pos_emb.weight)


def _halves(source: WhisperBlock) -> tuple[Tensor, Tensor]:
    """Hidden units of a feed-forward, the half with more weight and the other."""
    size = source.up.weight.norm(dim=1) * source.down.weight.norm(dim=0)
    kept, others = size.argsort(descending=True).chunk(2)
    return kept, others


def _copy_feed_forward(target: FeedForward, source: WhisperBlock, units: Tensor, bias: bool) -> None:
    target.pre_norm.load_state_dict(source.norm.state_dict())
    target.up_proj.weight.copy_(GELU_SLOPE * source.up.weight[units])
    target.up_proj.bias.copy_(GELU_SLOPE * source.up.bias[units])
    target.down_proj.weight.copy_(2.0 / GELU_SLOPE * source.down.weight[:, units])  # a block adds half of it
    target.down_proj.bias.copy_(2.0 * source.down.bias if bias else torch.zeros_like(source.down.bias))


def halved(states: Tensor) -> Tensor:
    """States [T, D] at half the rate: the mean of each pair, an odd last one left out."""
    mean: Tensor = states[: len(states) // 2 * 2].unflatten(0, (-1, 2)).mean(dim=1)
    return mean


@torch.no_grad()
def frame_spreads(whisper: WhisperEncoder, mels: Iterable[Tensor]) -> Tensor:
    """Median over frames of the standard deviation of a frame's numbers, of the stem and behind each block: [L + 1].

    A few frames are hundreds of times larger; attention rests on them where it has nothing to look for.
    """
    rows = []
    for mel in mels:
        states = [whisper.stem(mel[None])[0], *(each[0] for each in whisper(mel[None]))]
        rows.append(torch.stack([halved(each).std(dim=-1) for each in states], dim=1))
    return torch.cat(rows).median(dim=0).values


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[T, h * d] -> [h, T, d]."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(0, 1)
    return split


@torch.no_grad()
def fit_positions(encoder: ConformerEncoder, whisper: WhisperEncoder, mels: Sequence[Tensor]) -> None:
    """Find the tables of relative positions with which attention is most like Whisper's, block by block.

    Whisper's queries q and keys k know their absolute positions, ours q' and k' do not. For each distance r the row
    R of the table is the solution of least squares of q . k - q' . k' = q' . R over all heads and all pairs of frames
    that are r apart; a pair counts as much as Whisper attends to it. `mels` are of clips that fit into one block.
    """
    front, *blocks = blocks_of(encoder)
    inputs, theirs = [], []
    for mel in mels:
        x = whisper.stem(mel[None])[0]
        own = halved(x)
        inputs.append(front.post_norm(F.layer_norm(own, own.shape[-1:])))
        theirs.append(halved(x + whisper.positions[: len(x)]))
    for block, source in zip(blocks, sources_of(whisper), strict=True):
        attention = block.attn
        heads, size, centre = attention.heads, attention.head_dim, len(attention.rel_pos_emb.weight) // 2
        gram = torch.zeros(2 * centre + 1, size, size, dtype=torch.float64)
        target = torch.zeros(2 * centre + 1, size, dtype=torch.float64)
        for own, their in zip(inputs, theirs, strict=True):
            x = own + 0.5 * block.ff1(own)
            normed = attention.pre_norm(x)
            q = heads_of(attention.to_q(normed), heads) * attention.scale
            k = heads_of(attention.to_kv(normed).chunk(2, dim=-1)[0], heads)
            their_q, their_k, _ = (
                heads_of(part, heads) for part in source.qkv(source.attention_norm(their)).chunk(3, dim=-1)
            )
            scores = their_q @ their_k.mT * attention.scale  # [h, T, T]
            weights = scores.softmax(dim=-1) + SHARE_OF_ALL / scores.shape[-1]
            error = scores - q @ k.mT
            error = error - (error * weights).sum(dim=-1, keepdim=True) / weights.sum(dim=-1, keepdim=True)
            T = len(own)
            for distance in range(-min(T - 1, REACH), min(T - 1, REACH) + 1):  # i - j
                w = weights.diagonal(-distance, dim1=1, dim2=2)  # [h, n]
                rows = slice(max(0, distance), T + min(0, distance))
                queries = q[:, rows].reshape(-1, size).double()
                gram[distance + centre] += (queries * w.reshape(-1, 1)).T @ queries
                wanted = (error.diagonal(-distance, dim1=1, dim2=2) * w).reshape(-1).double()
                target[distance + centre] += queries.T @ wanted
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean() * torch.eye(size, dtype=torch.float64)
        attention.rel_pos_emb.weight.copy_(torch.linalg.solve(gram + ridge, target))
        for number, (own, their) in enumerate(zip(inputs, theirs, strict=True)):
            mask = torch.ones(1, len(own), dtype=torch.bool)
            inputs[number] = block(own[None], mask, mask)[0]
            theirs[number] = source(their[None])[0]


def fit_front(
    encoder: ConformerEncoder, whisper: WhisperEncoder, clips: Sequence[Utterance], steps: int, bf16: bool, say: Say
) -> None:
    """Teach the first block to do what Whisper's convolutions do, in `steps` batches of a few clips.

    It is done on the device of the encoder, where Whisper's is too, with bfloat16 products where they are wanted.
    """
    block, device = blocks_of(encoder)[0], encoder.input_linear.weight.device
    learning = nn.ModuleList((encoder.input_linear, block)).train()
    optimizer = torch.optim.AdamW(learning.parameters(), lr=FRONT_LR, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, FRONT_LR, total_steps=steps)
    progress = share_done(say, "whisper: first block", float(steps))
    draw = random.Random(0)
    for _ in range(steps):
        samples = [torch.from_numpy(cut_samples(utterance_cut(row))) for row in draw.sample(clips, FRONT_CLIPS)]
        features, lengths = pad([clip_features(each.numpy()).to(device) for each in samples])
        frames = int(lengths.max() + 1) // 2
        with torch.no_grad():
            mels = [whisper_mel(each)[None].to(device) for each in samples]
            states = [halved(F.pad(whisper.stem(mel)[0], (0, 0, 0, 1))) for mel in mels]
            targets = torch.stack([F.pad(each, (0, 0, 0, frames))[:frames] for each in states])
            targets = F.layer_norm(targets, targets.shape[-1:])
        mask, half = valid_frames(lengths, features.shape[1]), valid_frames(lengths // 2, frames)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            x = block(encoder.input_linear(features), mask, valid_frames((lengths + 1) // 2, frames))
        x = (x.float() - whisper.positions[POSITION]) / block.post_norm.weight.mean().detach()
        loss = (x - targets)[half].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(1.0)
    say(f"whisper: first block: {float(loss):.3f} of the spread of the last batch is not explained")


def start_from_whisper(
    encoder: ConformerEncoder,
    folder: Path,
    utterances: Sequence[Utterance],
    front_steps: int,
    device: torch.device,
    bf16: bool,
    say: Say,
) -> None:
    """Let a new encoder begin with that of a Whisper model (a CTranslate2 folder), shown some training utterances.

    Its first block learns on `device`, where the encoder is afterwards.

    Raises `ConfigError` for an encoder of another shape, `DataError` where no utterance is short enough.
    """
    whisper = load_whisper(folder)
    check_shapes(encoder, whisper)
    longest_s = encoder.config.context_size / FRAME_RATE
    short = [row for row in utterances if row.duration <= longest_s]
    usable = [row for row in utterances if row.duration <= FRONT_LONGEST_S]
    if not short or len(usable) < FRONT_CLIPS:
        raise DataError(f"{len(short)} training utterances last {longest_s:g} s or less, some are needed")
    mels = [_mel(row) for row in short[:: max(1, len(short) // SHOWN)]]
    encoder.eval()
    begin_with_whisper(encoder, whisper, frame_spreads(whisper, mels))
    say(f"whisper: finding relative positions from {len(mels)} utterances")
    used = torch.get_num_threads()
    torch.set_num_threads(1)  # hundreds of thousands of small products
    fit_positions(encoder, whisper, mels)
    torch.set_num_threads(used)
    fit_front(encoder.to(device), whisper.to(device), usable, front_steps, bf16, say)


def _mel(row: Utterance) -> Tensor:
    mel = whisper_mel(torch.from_numpy(cut_samples(utterance_cut(row))))
    return mel[:, : mel.shape[1] // 4 * 4]  # whole frames of ours
