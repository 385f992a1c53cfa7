"""The encoder: alone equals batched, fast equals plain, subsampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from redline.errors import ConfigError
from redline.models.config import EncoderConfig
from redline.models.conformer import (
    BlockAttention,
    ConformerEncoder,
    DepthConv,
    EncoderOutput,
    MaskedBatchNorm,
    halve,
    shaw_scores,
)
from redline.models.draft_head import posterior_pool

PUBLISHED = EncoderConfig(
    num_layers=3,
    hidden_dim=32,
    num_heads=2,
    dim_head=16,
    output_dim=30,
    context_size=200,
    max_pos_emb=256,
    self_conditioning_layer=2,
    bpe_output_dim=40,
    blank_token_id=39,
)
SUBSAMPLED = replace(PUBLISHED, subsample_layers=(1, 2), bpe_pooling_window=2)
LENGTHS = (199, 200, 201, 399, 400, 401, 1, 2, 57)


def encoder(config: EncoderConfig) -> ConformerEncoder:
    torch.manual_seed(0)
    model = ConformerEncoder(config).eval()
    with torch.no_grad():
        for block in model.layers:
            norm = block.conv.batch_norm
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2.0)
    return model


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 160, generator=generator) for length in LENGTHS]


def row(model: ConformerEncoder, out: EncoderOutput, index: int) -> tuple[torch.Tensor, ...]:
    assert model.out_bpe is not None
    logits, windows = model.out_bpe(out)
    frames = int(out.lengths[index])
    exports = [export[index, :frames] for export in out.exports]
    drafted = logits[index, : int(windows[index])]
    return (out.hidden[index, :frames], out.char_logits[index, :frames], drafted, *exports)


@pytest.mark.parametrize("config", [PUBLISHED, SUBSAMPLED], ids=["published", "subsampled"])
@torch.inference_mode()
def test_batched_equals_single(config: EncoderConfig) -> None:
    model = encoder(config)
    rows = clips()
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=123.0)  # padding is never looked at
    together = model(padded, torch.tensor(LENGTHS), (1, 2, -1))
    for index, clip in enumerate(rows):
        alone = model(clip[None], torch.tensor([len(clip)]), (1, 2, -1))
        for got, expected in zip(row(model, together, index), row(model, alone, 0), strict=True):
            assert got.shape == expected.shape
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        assert torch.equal(row(model, together, index)[2].argmax(-1), row(model, alone, 0)[2].argmax(-1))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@torch.inference_mode()
def test_a_poisoned_clip_harms_only_itself(poison: float) -> None:
    model = encoder(PUBLISHED)
    x = torch.randn(3, 250, 160)
    lengths = torch.tensor([250, 120, 250])
    clean = model(x, lengths)
    bad = x.clone()
    bad[0, 17] = poison
    bad[1, 120:] = poison  # in the padding of another clip
    out = model(bad, lengths)
    for index in (1, 2):
        for got, expected in zip(row(model, out, index), row(model, clean, index), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("channels", [1, 8, 16, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_narrow_convolution_of_a_checkpoint_does_not_hang(channels: int, stride: int) -> None:
    conv = DepthConv(channels, 31, stride)
    x = torch.randn(2, 64, channels)
    exact = F.conv1d(x.mT, conv.conv.weight, stride=stride, padding=15, groups=channels).mT
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), exact)
        torch.testing.assert_close(conv.bfloat16()(x.bfloat16()).float(), exact, rtol=0.02, atol=0.05)


def shaw_scores_plain(q: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The readable twin of `shaw_scores`: gathers one embedding for every pair of frames."""
    position = torch.arange(q.shape[-2])
    pairs = table[position[:, None] - position[None, :] + table.shape[0] // 2]  # [c, c, d]
    return torch.einsum("...id,ijd->...ij", q, pairs)


@pytest.mark.parametrize("context", [1, 2, 7, 50])
def test_fast_shaw_scores_equal_plain(context: int) -> None:
    q, table = torch.randn(3, 2, context, 8), torch.randn(129, 8)
    torch.testing.assert_close(shaw_scores(q, table), shaw_scores_plain(q, table))


def test_attention_equals_the_equation_whatever_stands_where_nothing_is() -> None:
    attention = BlockAttention(replace(PUBLISHED, hidden_dim=16, num_heads=2, dim_head=8, dropout=0.0), 50).eval()
    torch.nn.init.normal_(attention.rel_pos_emb.weight)
    x, mask = torch.randn(4, 50, 16), torch.arange(50) < torch.tensor([[50], [49], [1], [30]])
    normed = attention.pre_norm(x)
    inputs = attention.to_q(normed) * attention.scale, *attention.to_kv(normed).chunk(2, -1)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in inputs)
    scores = q @ k.mT + shaw_scores_plain(q, attention.rel_pos_emb.weight)
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)
    equation = attention.to_out((weights @ v).transpose(1, 2).flatten(2))
    x[~mask] = torch.nan
    for recording in (True, False):  # gradients
        with torch.set_grad_enabled(recording):
            torch.testing.assert_close(attention(x, mask)[mask], equation[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [57, 200, 257])
def test_training_pads_short_clips_to_less_and_hears_the_same(frames: int) -> None:
    torch.manual_seed(0)
    attention, x = BlockAttention(replace(PUBLISHED, dropout=0.0), 200), torch.randn(2, frames, 32)
    mask = torch.arange(frames) < torch.tensor([[frames], [31]])
    torch.testing.assert_close(attention.train()(x, mask), attention.eval()(x, mask))


def test_blocks_do_not_see_each_other_but_through_convolution() -> None:
    model = encoder(replace(PUBLISHED, num_layers=1, self_conditioning_layer=1))
    x = torch.randn(1, 400, 160)
    changed = x.clone()
    changed[:, :200] = 0.0
    lengths = torch.tensor([400])
    with torch.inference_mode():
        moved = (model(x, lengths).hidden - model(changed, lengths).hidden).abs().amax(-1)[0]
    reach = PUBLISHED.conv_kernel_size // 2
    assert (moved[200 : 200 + reach] > 1e-4).all()
    assert (moved[200 + reach :] < 1e-6).all()


def test_subsampling_halves_the_frame_rate() -> None:
    model = encoder(SUBSAMPLED)
    out = model(torch.randn(2, 101, 160), torch.tensor([101, 50]), (1, -1))
    assert out.lengths.tolist() == [26, 13]
    assert out.hidden.shape[1] == out.exports[0].shape[1] == out.mid_logits.shape[1] == 26
    assert SUBSAMPLED.subsampling == 4


def test_subsampling_after_the_middle_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="subsample_layers"):
        replace(PUBLISHED, subsample_layers=(3,))


def test_halve_means_pairs_and_leaves_an_odd_last_frame_alone() -> None:
    x = torch.tensor([[1.0, 3.0, 5.0, 99.0]])[..., None]
    mask = torch.tensor([[True, True, True, False]])
    assert halve(x, mask).flatten().tolist() == [2.0, 5.0]


def test_pooling_weighs_frames_by_not_being_blank() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [7.0]]])
    weights = torch.tensor([[0.25, 0.75, 0.5]])
    pooled = posterior_pool(hidden, weights, torch.ones(1, 3, dtype=torch.bool), 2)
    torch.testing.assert_close(pooled.flatten(), torch.tensor([2.5, 7.0]))


def test_training_statistics_count_valid_frames_only() -> None:
    torch.manual_seed(0)
    norm = MaskedBatchNorm(4).train()
    plain = torch.nn.BatchNorm1d(4).train()
    x = torch.randn(2, 10, 4)
    mask = torch.arange(10)[None] < torch.tensor([10, 6])[:, None]
    x[~mask] = 1000.0
    got = norm(x, mask)[mask]
    torch.testing.assert_close(got, plain(x[mask]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    torch.testing.assert_close(norm.eval()(x)[mask], plain.eval()(x[mask]), rtol=1e-4, atol=1e-5)
