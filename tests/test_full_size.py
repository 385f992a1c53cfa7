"""The published 2B-NAR model, built without memory: names, shapes and counts of its checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.models.config import EncoderConfig, NarConfig
from redline.models.editor import NarEditor


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    with torch.device("meta"):
        return NarEditor(NarConfig()).state_dict()


def test_full_size_model_has_the_published_tensors(tensors: dict[str, Tensor]) -> None:
    counters = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    assert len(tensors) - len(counters) == 930
    assert counters == [f"encoder.layers.{n}.conv.batch_norm.num_batches_tracked" for n in range(16)]


@pytest.mark.parametrize(
    ("prefix", "millions"),
    [
        ("encoder.out_bpe.", 102.9),
        ("encoder.", 440.2 + 102.9),
        ("projector.", 79.8),
        ("language_model.", 1631.8),
        ("", 2254.6),
    ],
)
def test_full_size_parts_have_the_published_sizes(tensors: dict[str, Tensor], prefix: str, millions: float) -> None:
    count = sum(
        tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix) and tensor.is_floating_point()
    )
    assert count / 1e6 == pytest.approx(millions, abs=0.11)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.input_linear.weight", (1024, 160)),
        ("encoder.layers.15.attn.to_kv.weight", (2048, 1024)),
        ("encoder.layers.0.attn.rel_pos_emb.weight", (1025, 128)),
        ("encoder.layers.0.ff1.up_proj.weight", (4096, 1024)),
        ("encoder.layers.0.conv.up_conv.weight", (4096, 1024, 1)),
        ("encoder.layers.0.conv.depth_conv.conv.weight", (2048, 1, 15)),
        ("encoder.out.weight", (348, 1024)),
        ("encoder.out_mid.weight", (1024, 348)),
        ("encoder.out_bpe.weight", (100_352, 1024)),
        ("projector.layer_norms.3.weight", (1024,)),
        ("projector.layer_projector.weight", (2048, 4096)),
        ("projector.query", (1, 3, 2048)),
        ("projector.window_positions", (1, 15, 2048)),
        ("projector.qformer.layers.1.cross_attention.o_proj.bias", (2048,)),
        ("projector.qformer.layers.1.mlp.fc1.weight", (4096, 2048)),
        ("projector.out_linear.weight", (2048, 2048)),
        ("language_model.model.embed_tokens.weight", (100_352, 2048)),
        ("language_model.model.layers.39.self_attn.k_proj.weight", (512, 2048)),
        ("language_model.model.layers.39.mlp.gate_proj.weight", (4096, 2048)),
        ("language_model.model.norm.weight", (2048,)),
    ],
)
def test_full_size_shapes_are_the_published_ones(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    assert tensors[name].shape == shape


def test_draft_head_must_write_the_language_models_tokens() -> None:
    with pytest.raises(ConfigError, match="bpe_output_dim is 7"):
        NarEditor(NarConfig(encoder=EncoderConfig(bpe_output_dim=7)))
