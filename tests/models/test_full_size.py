"""The published 2B-NAR model, built without memory: names, shapes and counts of its checkpoint, and its recipe."""

from __future__ import annotations

import pytest
import tokenizers
import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.models.config import EncoderConfig, NarConfig
from redline.models.nar import NarModel
from redline.tokenizer import Tokenizer
from redline.train.loop.optim import learning_rate
from redline.train.nar import check_shape
from redline.train.objectives.nar import EditorObjective
from redline.train.recipe import NarRecipe, read_recipe
from redline_recipes.tiny.bpe import END, PAD
from redline_recipes.tiny.nar import nar_config


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    with torch.device("meta"):
        return NarModel(NarConfig()).state_dict()


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
        NarModel(NarConfig(encoder=EncoderConfig(bpe_output_dim=7)))


@pytest.fixture(scope="module")
def recipe() -> NarRecipe:
    recipe = read_recipe("nle-2b")
    assert isinstance(recipe, NarRecipe)
    return recipe


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A tokenizer of the published size, with its control tokens where the published one has them."""
    names = {f"token{number}": number for number in range(100_352)}
    for number, name in ((100_256, PAD), (100_257, END)):
        del names[f"token{number}"]
        names[name] = number
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="token0"))
    core.add_special_tokens([PAD, END])
    return Tokenizer(core)


def test_the_recipe_makes_the_published_model(
    recipe: NarRecipe, tokenizer: Tokenizer, tensors: dict[str, Tensor]
) -> None:
    config = nar_config(recipe, tokenizer)
    assert config == NarConfig(languages=config.languages)
    with torch.device("meta"):
        state = NarModel(config).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


def test_the_recipe_fits_the_published_config(recipe: NarRecipe) -> None:
    assert all((recipe.encoder, recipe.projector, recipe.language_model, recipe.vocab_size))
    check_shape(recipe, NarConfig())


def test_the_recipe_trains_what_the_paper_trains(recipe: NarRecipe, tokenizer: Tokenizer) -> None:
    with torch.device("meta"):
        objective = EditorObjective(NarModel(nar_config(recipe, tokenizer)), tokenizer, recipe.edit)
    trained = {name: tensor.numel() for name, tensor in objective.named_parameters() if tensor.requires_grad}
    adapters = sum(count for name, count in trained.items() if "lora_" in name)
    assert adapters / 1e6 == pytest.approx(162.5, abs=0.1)
    assert sum(trained.values()) / 1e6 == pytest.approx(242.3, abs=0.1)
    assert all("lora_" in name or name.startswith("model.projector.") for name in trained)
    assert (recipe.edit.copy_weight, recipe.edit.encoder_weight) == (0.02, 0.0)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 3e-5 / 9000), (4_499, 1.5e-5), (9_000, 3e-5), (94_500, 1.515e-5), (180_000, 3e-7)],
)
def test_the_recipe_has_the_published_learning_rate(recipe: NarRecipe, step: int, rate: float) -> None:
    assert learning_rate(step, recipe.editor_training) == pytest.approx(rate, rel=1e-6)


def test_the_recipe_makes_the_published_steps(recipe: NarRecipe) -> None:
    training, batches = recipe.editor_training, recipe.editor_batches
    seconds = 8 * training.accumulate * batches.batch_s
    assert seconds / 13 == pytest.approx(320)
    assert training.steps * seconds / 3600 / 70_000 == pytest.approx(3, rel=0.02)
    assert training.warmup_steps == 0.05 * training.steps
    assert (batches.balance, batches.max_utterance_s, batches.max_characters_per_frame) == (0.65, 80.0, 0.66)
    assert (recipe.augment.noise_probability, recipe.augment.noise_snr_db) == (0.25, (-5.0, 20.0))
    assert not recipe.extension
