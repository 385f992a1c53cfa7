"""An encoder that begins with Whisper's: what is copied does the same, what is fitted comes nearer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from redline.errors import ConfigError
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder
from redline.train.loop.checkpointing import STATE
from redline.train.run import Materials, build
from redline_recipes.distillation import whisper_start
from redline_recipes.distillation.whisper import WhisperBlock, WhisperEncoder, load_whisper
from redline_recipes.distillation.whisper_states import main
from tests.corpus import small_recipe
from tests.recipes.conftest import LAYERS, WIDTH

EXTENSION = "redline_recipes.tiny.extension"
ENCODER = {
    "num_layers": LAYERS + 1,
    "hidden_dim": WIDTH,
    "num_heads": 1,
    "dim_head": WIDTH,
    "feedforward_mult": 2,
    "output_dim": 128,
    "context_size": 200,
    "max_pos_emb": 200,
    "self_conditioning_layer": 2,
    "subsample_layers": [1],
    "bpe_pooling_window": 2,
}


@pytest.fixture
def whisper(whisper_weights: Path, monkeypatch: pytest.MonkeyPatch) -> WhisperEncoder:
    monkeypatch.setattr(whisper_start, "RIDGE", 1e-9)
    return load_whisper(whisper_weights)


@pytest.fixture
def encoder(whisper: WhisperEncoder) -> ConformerEncoder:
    torch.manual_seed(0)
    values = {**ENCODER, "subsample_layers": (1,), "bpe_output_dim": 20, "blank_token_id": 19}
    encoder = ConformerEncoder(EncoderConfig(**values)).eval()  # type: ignore[arg-type]
    whisper_start.begin_with_whisper(encoder, whisper, torch.ones(LAYERS + 1))
    return encoder


def attention_of(block: WhisperBlock, x: Tensor, of: Tensor | None = None) -> Tensor:
    """What a block attends to, looked for by the states x and found in those of another sequence."""
    q, k, v = block.qkv(block.attention_norm(x)).chunk(3, dim=-1)
    if of is not None:
        v = block.qkv(block.attention_norm(of)).chunk(3, dim=-1)[2]
    heard: Tensor = block.out(F.scaled_dot_product_attention(q, k, v))
    return heard


@torch.no_grad()
def test_attention_that_knows_no_positions_is_whispers(encoder: ConformerEncoder, whisper: WhisperEncoder) -> None:
    x, mask = torch.randn(1, 30, WIDTH), torch.ones(1, 30, dtype=torch.bool)
    for ours, theirs in zip(encoder.layers[1:], whisper.blocks, strict=True):
        assert torch.allclose(ours.attn(x, mask), attention_of(theirs, x), atol=1e-3)


@torch.no_grad()
def test_the_halves_of_a_feed_forward_add_up_to_whispers(encoder: ConformerEncoder, whisper: WhisperEncoder) -> None:
    """But for gelu, of which silu is never more than 0.021 off."""
    x, theirs = torch.randn(30, WIDTH), whisper.blocks[0]
    expected = theirs.down(F.gelu(theirs.up(theirs.norm(x))))
    ours = 0.5 * encoder.layers[1].ff2(x) + 0.5 * encoder.layers[2].ff1(x)
    assert (ours - expected).abs().max() < 0.021 * theirs.down.weight.abs().sum(dim=1).max()
    assert F.cosine_similarity(ours - theirs.down.bias, expected - theirs.down.bias).min() > 0.9


@torch.no_grad()
def test_what_is_new_begins_without_effect(encoder: ConformerEncoder) -> None:
    x, mask = torch.randn(1, 30, WIDTH), torch.ones(1, 30, dtype=torch.bool)
    for block in encoder.layers[1:]:
        assert not block.conv(x, mask, mask).any()
    assert not encoder.layers[1].ff1(x).any() and not encoder.out_mid(torch.randn(5, 128)).any()


@torch.no_grad()
def test_fitted_positions_bring_attention_nearer_to_whispers(
    encoder: ConformerEncoder, whisper: WhisperEncoder
) -> None:
    for block in whisper.blocks:  # random weights hardly look at positions
        block.qkv.weight.mul_(6.0)
    whisper_start.begin_with_whisper(encoder, whisper, torch.ones(LAYERS + 1))
    mels = [torch.randn(80, 160) for _ in range(8)]
    states = [whisper_start.halved(whisper.stem(mel[None])[0]) for mel in mels[:4]]

    def distance() -> float:
        total = 0.0
        mask = torch.ones(1, 40, dtype=torch.bool)
        for x in states:
            positions = whisper_start.halved(whisper.positions[:80])
            content = encoder.layers[0].post_norm(F.layer_norm(x, x.shape[-1:]))[None]
            theirs = attention_of(whisper.blocks[0], (x + positions)[None], of=content)
            total += float((encoder.layers[1].attn(content, mask) - theirs).square().mean())
        return total

    before = distance()
    whisper_start.fit_positions(encoder, whisper, mels)
    assert distance() < 0.9 * before


def test_a_recipe_begins_with_whisper_once_and_goes_on(corpus: Path, whisper_weights: Path, tmp_path: Path) -> None:
    layers = ["--layers", "1", "2", "--precision", "float32"]
    assert main(["--weights", str(whisper_weights), "--data", str(corpus), "--out", str(tmp_path / "w"), *layers]) == 0
    keys = {
        "extension": EXTENSION,
        "encoder": ENCODER,
        "whisper_from": str(whisper_weights),
        "whisper_steps": 2,
        "distillation": {"teacher": str(tmp_path / "w"), "state_blocks": [2, 3]},
        "imitation_training": {"steps": 2, "precision": "no", "evaluate_every": 2},
        "spec_augment": {"time_warp_frames": 0},
    }
    lines: list[str] = []
    materials = Materials(corpus, tmp_path / "out")
    build(small_recipe(keys, steps=1), materials, ("tokenizer", "imitation"), lines.append)
    assert any(line.startswith("whisper: finding relative positions") for line in lines)
    lines.clear()
    build(small_recipe(keys, steps=1), materials, ("imitation", "encoder"), lines.append)
    assert not any(line.startswith("whisper") for line in lines), "what has been learned since would be lost"
    copied = load_whisper(whisper_weights).blocks[0].out.weight
    trained = load_file(tmp_path / "out" / "encoder" / STATE)
    name = next(name for name in trained if name.endswith("layers.1.attn.to_out.weight"))
    assert F.cosine_similarity(trained[name].flatten(), copied.flatten(), dim=0) > 0.9


def test_an_encoder_of_another_shape_is_refused(corpus: Path, whisper_weights: Path, tmp_path: Path) -> None:
    keys = {"extension": EXTENSION, "encoder": {**ENCODER, "num_layers": 4}, "whisper_from": str(whisper_weights)}
    keys |= {"distillation": {"teacher": "w", "state_blocks": [2, 3]}}
    with pytest.raises(ConfigError, match="num_layers = 3, not 4"):
        build(small_recipe(keys), Materials(corpus, tmp_path), ("tokenizer", "imitation"), lambda line: None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "needs .distillation. teacher"),
        ({"distillation": {"teacher": "w"}}, "and state_blocks"),
        ({"encoder_from": "tiny"}, "whisper_from and encoder_from are both set"),
    ],
)
def test_whisper_without_its_states_and_two_beginnings_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_recipe({"extension": EXTENSION, "whisper_from": "whisper", **keys})
