"""A NAR recipe as the library runs it: from a checkpoint to one that loads, without any extension."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline.checkpoints import nar
from redline.decoding.slots import slot_batch
from redline.errors import ConfigError, DataError
from redline.features import FEATURE_DIM
from redline.models.config import LMConfig
from redline.models.granite import GraniteLM
from redline.train.objectives.nar import EditOptions, merge_adapters, with_adapters
from redline.train.run import Materials, build
from tests.corpus import editor_recipe, silent, small_recipe


def test_a_recipe_makes_a_checkpoint_that_loads(corpus: Path, model: Path, tmp_path: Path) -> None:
    build(editor_recipe(model), Materials(corpus, tmp_path), (), silent)
    network, config, _ = nar.load_nar(tmp_path / "model")
    assert config.languages == ("en",)
    assert config.encoder.subsample_layers == (1,)
    logits = network(torch.randn(1, 60, FEATURE_DIM), torch.tensor([60]), *slot_batch([[]], config.blank_token_id))
    assert logits.shape == (1, 8, config.text.vocab_size)
    rows = [json.loads(line) for line in (tmp_path / "editor" / "log.jsonl").read_text().splitlines()]
    assert any("loss" in row for row in rows) and any("loss" not in row for row in rows)
    assert (tmp_path / "editor" / "log.png").stat().st_size > 1000


def test_a_recipe_without_an_encoder_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_from is empty.*redline_recipes.tiny.extension"):
        build(editor_recipe(""), Materials(corpus, tmp_path), (), silent)
    with pytest.raises(ConfigError, match="name a checkpoint with an encoder as init_from"):
        build(small_recipe(steps=0), Materials(corpus, tmp_path), ("tokenizer",), silent)


def test_training_without_a_dev_split_says_so(corpus: Path, tmp_path: Path) -> None:
    path = corpus.parent / "only-train.jsonl"
    path.write_text("\n".join(line for line in corpus.read_text().splitlines() if '"train"' in line), encoding="utf-8")
    with pytest.raises(DataError, match="split 'dev'"):
        build(small_recipe(), Materials(path, tmp_path), ("tokenizer",), silent)


def test_merged_adapters_equal_adapters() -> None:
    torch.manual_seed(0)
    config = LMConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    plain = GraniteLM(config).eval()
    names = set(plain.state_dict())
    model = with_adapters(plain, EditOptions(lora_rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    expected = model(ids, lengths, causal=False)
    merge_adapters(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(ids, lengths, causal=False), expected, rtol=1e-4, atol=1e-5)


def test_adapters_need_a_language_model_that_has_read(corpus: Path, tmp_path: Path) -> None:
    recipe = replace(small_recipe(steps=1), edit=EditOptions(lora_rank=2))
    with pytest.raises(ConfigError, match="adapters need a pretrained language model"):
        build(recipe, Materials(corpus, tmp_path), ("tokenizer", "encoder", "editor"), silent)


def test_stages_that_are_not_there_are_named(corpus: Path, model: Path, tmp_path: Path) -> None:
    recipe, materials = editor_recipe(model), Materials(corpus, tmp_path)
    with pytest.raises(ConfigError, match=r"stages of this recipe are tokenizer, editor, export"):
        build(recipe, materials, ("answers",), silent)
    with pytest.raises(DataError, match="run the stage 'tokenizer' first"):
        build(small_recipe(), materials, ("encoder",), silent)
    with pytest.raises(DataError, match="no trained editor yet"):
        build(recipe, materials, ("tokenizer", "export"), silent)
    with pytest.raises(DataError, match="no trained encoder yet"):
        build(small_recipe(), materials, ("editor",), silent)
