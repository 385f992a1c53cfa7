"""Laws 1 and 2 on random networks and random mixes of clips, in every precision: alone == in a batch, fast == plain."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor

from redline.decoding.slots import slot_batch
from redline.engine.int8 import to_int8
from redline.engine.packed import PackedEncoder
from redline.engine.packed_editor import PackedEditor
from redline.features import pad
from redline.models.config import EncoderConfig, LMConfig, NarConfig, ProjectorConfig
from redline.models.conformer import EncoderOutput
from redline.models.nar import NarModel
from redline.recognizer.nar import EditorNetworks
from redline.threads import has_bf16

Precision = Literal["float32", "bfloat16", "int8"]
Encode = Callable[[Sequence[Tensor]], EncoderOutput]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
MIXES = 201  # 67 of each precision
QUICK = 9
VOCABULARY = 80


def config(draw: random.Random) -> NarConfig:
    width, heads, layers, block = (
        draw.choice((64, 72, 96)),
        draw.choice((2, 3)),
        draw.randint(2, 4),
        draw.choice((6, 15)),
    )
    middle = draw.randint(1, layers)
    encoder = EncoderConfig(
        num_layers=layers, hidden_dim=width, num_heads=heads, dim_head=draw.choice((8, 24, 32)), output_dim=20,
        context_size=draw.choice((8, 20, 50, 200)), max_pos_emb=200, conv_kernel_size=draw.choice((3, 7, 15)),
        conv_expansion_factor=draw.choice((1, 2)), feedforward_mult=draw.choice((2, 4)), blank_token_id=0,
        self_conditioning_layer=middle, bpe_output_dim=VOCABULARY,
        subsample_layers=draw.choice(((), (1,), (middle,))),
    )  # fmt: skip
    return NarConfig(
        encoder=encoder,
        projector=ProjectorConfig(
            encoder_dim=width, llm_dim=64, num_encoder_layers=2, hidden_size=64, num_heads=2, num_layers=1,
            block_size=block, downsample_rate=3,
        ),
        text=LMConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=draw.choice((64, 136)), num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, pad_token_id=0, eos_token_id=0, bos_token_id=0,
        ),
        encoder_layer_indices=(1, -1),
        blank_token_id=0,
    )  # fmt: skip


def network(draw: random.Random) -> NarModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.randrange(10**6))
        model = NarModel(config(draw)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
    return model


def in_precision(model: NarModel, precision: Precision) -> NarModel:
    if precision == "int8":
        to_int8(model)
        return model
    return model.to(getattr(torch, precision))


def encoded(model: NarModel, clips: Sequence[Tensor]) -> EncoderOutput:
    features, lengths = pad(clips)
    return model.encode(features.to(next(model.parameters()).dtype), lengths)


@torch.inference_mode()
def results(
    model: NarModel, encode: Encode, clips: Sequence[Tensor], networks: EditorNetworks | None = None
) -> list[list[Tensor]]:
    """Of each clip: states and characters of the encoder, audio embeddings, and what the editor thinks of slots."""
    out, networks = encode(clips), networks or model
    audio, counts = networks.embed_audio(out.exports, out.lengths)
    slots, sizes = slot_batch([[1 + at % 70 for at in range(count)] for count in counts.tolist()], 0)
    scores = model.score_slots(networks.read(audio, counts, slots, sizes), slots)
    ends = ([out.lengths] * 2, [counts], [sizes] * 3)
    parts = ((out.hidden, out.char_logits), (audio,), scores)
    return [
        [
            part[row, : end[row]]
            for some, ended in zip(parts, ends, strict=True)
            for part, end in zip(some, ended, strict=True)
        ]
        for row in range(len(clips))
    ]


def lengths(draw: random.Random) -> list[int]:
    """One to four clips of 1 to 1,000 frames, short ones as often as long ones."""
    return [round(10 ** draw.uniform(0, 3)) for _ in range(draw.randint(1, 4))]


def broken_laws(number: int) -> list[str]:
    """What a random mix breaks: nothing."""
    draw, precision = random.Random(number), PRECISIONS[number % len(PRECISIONS)]
    model, exact, seed = network(draw), network(random.Random(number)), torch.Generator().manual_seed(number)
    known = [torch.randn(length, 160, generator=seed) for length in lengths(draw)]
    model = in_precision(model, precision)
    layers, rows = model.config.encoder_layer_indices, draw.choice((32, 256))
    is_packed = precision != "bfloat16" or has_bf16()

    def plain(clips: Sequence[Tensor]) -> EncoderOutput:
        return encoded(model, clips)

    encode = PackedEncoder(model.encoder, layers, rows=rows) if is_packed else plain
    editor = PackedEditor(model, rows=rows) if is_packed else None
    mix = [draw.randrange(len(known)) for _ in range(draw.randint(1, 4))] + [*range(len(known))]
    draw.shuffle(mix)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw.randint(1, 4))
    try:
        alone = [results(model, encode, [clip], editor)[0] for clip in known]
        together = results(model, encode, [known[at] for at in mix], editor)
    finally:
        torch.set_num_threads(threads)
    broken = [
        f"{precision}: other bits of a clip of {len(known[at])} frames among {mix}"
        for at, own in zip(mix, together, strict=True)
        if not all(map(torch.equal, own, alone[at]))
    ]
    if is_packed:
        slow, right = results(model, plain, known), results(exact, lambda clips: encoded(exact, clips), known)
        for fast, twin, reference in zip(alone, slow, right, strict=True):
            if not agree(fast[:3], twin[:3], reference[:3], precision):
                broken.append(f"{precision}: packed and plain differ for a clip of {len(fast[0])} frames")
    return broken


def agree(fast: Sequence[Tensor], slow: Sequence[Tensor], right: Sequence[Tensor], precision: Precision) -> bool:
    """Fast == plain, as exactly as numbers of a precision are; `right` is what float32 gives."""
    for one, other, reference in zip(fast, slow, right, strict=True):
        if precision == "float32":
            is_equal = torch.allclose(one, other, atol=1e-4, rtol=1e-4)
        else:  # another last bit before a row is rounded may be a whole step after it: both are as near to float32
            mine, theirs = (float((part.float() - reference).norm()) for part in (one, other))
            # The norm of few roundings scatters.
            scatter = 3.0 / max(1, one.numel()) ** 0.5
            is_equal = mine <= (1.3 + scatter) * theirs + 1e-5 and theirs <= 0.1 * float(reference.norm()) + 1e-5
        if not is_equal:
            return False
    return True


@pytest.mark.parametrize("number", range(QUICK))
def test_a_random_mix_obeys(number: int) -> None:
    assert broken_laws(number) == []


@pytest.mark.laws
@pytest.mark.parametrize("number", range(QUICK, MIXES))
def test_many_random_mixes_obey(number: int) -> None:
    assert broken_laws(number) == []
