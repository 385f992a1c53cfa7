"""The packed encoder is the plain one, whatever the clips, and gives each clip the same bits alone and among others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from redline.engine.packed import PackedEncoder, Packing, Product
from redline.errors import RedlineError
from redline.features import pad
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.ctc import CtcConfig, CtcModel

SHAPES = {
    "published": EncoderConfig(
        num_layers=3, hidden_dim=64, num_heads=4, dim_head=16, context_size=20, max_pos_emb=32, output_dim=40,
        self_conditioning_layer=2, bpe_output_dim=50, blank_token_id=0,
    ),
    "halved twice": EncoderConfig(
        num_layers=4, hidden_dim=32, num_heads=2, dim_head=16, context_size=40, max_pos_emb=40, output_dim=30,
        self_conditioning_layer=3, bpe_output_dim=None, blank_token_id=0, subsample_layers=(1, 3), conv_kernel_size=7,
    ),
    "turbo": CtcConfig(
        num_layers=3, hidden_dim=32, num_heads=2, dim_head=16, context_size=16, max_pos_emb=20, output_dim=60,
        self_conditioning_layer=2, conv_kernel_size=5,
    ),
    "blocks of 25": EncoderConfig(
        num_layers=2, hidden_dim=96, num_heads=3, dim_head=8, context_size=25, max_pos_emb=32, output_dim=20,
        self_conditioning_layer=1, bpe_output_dim=None, blank_token_id=0, conv_kernel_size=3,
    ),
    "odd sizes": EncoderConfig(
        num_layers=2, hidden_dim=24, num_heads=3, dim_head=8, context_size=9, max_pos_emb=11, output_dim=7,
        self_conditioning_layer=1, bpe_output_dim=None, blank_token_id=0, conv_expansion_factor=1, conv_kernel_size=3,
    ),
}  # fmt: skip
LENGTHS = (1, 2, 3, 8, 9, 19, 20, 21, 40, 41, 79, 150, 333, 1000)


def encoder(name: str, dtype: torch.dtype = torch.float32) -> ConformerEncoder:
    config = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CtcModel(config) if isinstance(config, CtcConfig) else ConformerEncoder(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return model.to(dtype).eval()


def clips(lengths: Sequence[int], width: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=draw) for length in lengths]


def parts(out: EncoderOutput) -> list[Tensor]:
    return [out.hidden, out.mid_logits, out.char_logits, *out.exports]


@pytest.mark.parametrize("rows", [16, 256])
@pytest.mark.parametrize("name", SHAPES)
def test_the_packed_encoder_is_the_plain_one(name: str, rows: int) -> None:
    model = encoder(name)
    layers = tuple(range(model.config.num_layers + 1))
    rowsets = clips(LENGTHS, model.config.input_dim)
    features, lengths = pad(rowsets)
    with torch.no_grad():
        plain = model(features, lengths, layers)
    packed = PackedEncoder(model, layers, rows=rows)(rowsets)
    assert torch.equal(packed.lengths, plain.lengths)
    for ours, theirs in zip(parts(packed), parts(plain), strict=True):
        for row, length in enumerate(plain.lengths.tolist()):
            torch.testing.assert_close(ours[row, :length], theirs[row, :length], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_clip_has_the_same_bits_alone_as_in_any_mix(name: str, dtype: torch.dtype) -> None:
    model = encoder(name, dtype)
    packed = PackedEncoder(model, (1, -1), rows=32)
    draw = random.Random(4)
    known = clips([draw.randint(1, 400) for _ in range(12)], model.config.input_dim)
    alone = [packed([clip]) for clip in known]
    for _ in range(12):
        mix = [draw.randrange(len(known)) for _ in range(draw.randint(1, 6))]
        together = packed([known[number] for number in mix])
        for row, number in enumerate(mix):
            length = int(alone[number].lengths[0])
            assert int(together.lengths[row]) == length
            for ours, single in zip(parts(together), parts(alone[number]), strict=True):
                assert torch.equal(ours[row, :length], single[0, :length])


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["published", "blocks of 25"])
def test_a_clip_has_the_same_bits_whatever_share_of_the_threads_its_launch_has(name: str, threads: int) -> None:
    packed = PackedEncoder(encoder(name))
    clip, *others = clips((21, 300, 200), 160)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = packed([clip])  # one launch, which all threads share
        together = packed([*others, clip])
    finally:
        torch.set_num_threads(before)
    for ours, single in zip(parts(together), parts(alone), strict=True):
        assert torch.equal(ours[2, :21], single[0, :21])


def test_a_clip_that_is_no_number_harms_only_itself() -> None:
    model = encoder("published")
    packed = PackedEncoder(model)
    good, other = clips([70, 45], 160)
    alone = packed([good])
    mixed = packed([torch.full((33, 160), float("nan")), good, other * float("inf")])
    assert torch.equal(mixed.char_logits[1, :70], alone.char_logits[0])


def test_an_encoder_that_gives_its_blocks_up_is_still_read_right() -> None:
    model = encoder("published")
    clip = clips([50], 160)
    kept = PackedEncoder(model)(clip).char_logits
    weights = sum(parameter.numel() for parameter in model.parameters())
    given_up = PackedEncoder(model, release=True)(clip).char_logits
    assert torch.equal(kept, given_up)
    assert sum(parameter.numel() for parameter in model.parameters()) < weights / 3
    with pytest.raises(RedlineError, match="engine='plain'"):
        model(*pad(clip))


def test_products_that_onednn_has_no_kernel_for_are_plain_ones() -> None:
    weight, bias = torch.randn(5, 3), torch.randn(5)
    product = Product(weight, bias, 4)
    x, to = torch.randn(4, 3), torch.randn(4, 5)
    torch.testing.assert_close(product(x), x @ weight.T + bias)
    torch.testing.assert_close(product.added(x, to), x @ weight.T + bias + to)
    product.is_packed, product.weight = False, weight
    torch.testing.assert_close(product.added(x, to), x @ weight.T + bias + to)


def test_clips_lie_apart_so_that_the_convolution_sees_no_neighbour() -> None:
    layout = Packing.of([5, 1, 9], gap=7, rows=16)
    spans = list(layout.spans())
    assert all(later.start - earlier.stop == 7 for earlier, later in pairwise(spans))
    assert spans[0].start == 7 and layout.rows % 16 == 0 and layout.rows >= spans[-1].stop + 7
    assert list(layout.blocks(4)) == [(7, 4), (11, 1), (19, 1), (27, 4), (31, 4), (35, 1)]
