"""What tests of AR and Plus training are made of: a base checkpoint, a manifest to ask about, and a small recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from redline.checkpoints import nar
from redline.models.nar import NarModel
from redline.train.recipe import recipe_from_dict
from redline_recipes.tiny.ar import ArRecipe
from redline_recipes.tiny.bpe import train_tokenizer
from redline_recipes.tiny.nar import nar_config
from tests.corpus import LANGUAGE_MODEL, LOOP, make_corpus, small_recipe

TEXTS = ["the zebra sat", "a giraffe ran to the house", "the zebra and the house", "the house"]


def small_nar_checkpoint(folder: Path) -> Path:
    """A NAR checkpoint with random weights, on whose encoder AR models are built."""
    tokenizer = train_tokenizer(TEXTS, 270, folder / "tokenizer.json")
    torch.manual_seed(0)
    model = NarModel(nar_config(small_recipe(), tokenizer))
    return nar.save_nar(folder / "model", model, folder / "tokenizer.json")


def make_asked_corpus(folder: Path) -> Path:
    """The made-up corpus with word times, and some of it as if two speakers took turns."""
    path = make_corpus(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        words = row["text"].split()
        if number % 3 == 0:
            middle = 0.3
            row["turns"] = [
                {"speaker": "1", "start": 0.0, "end": middle, "text": words[0]},
                {"speaker": "2", "start": middle, "end": row["duration"], "text": " ".join(words[1:])},
            ]
        else:
            row["words"] = [{"start": 0.3 * at, "end": 0.3 * at + 0.3, "text": word} for at, word in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def small_ar_recipe(base: Path, more: Mapping[str, object] = MappingProxyType({}), **training: object) -> ArRecipe:
    """A Plus recipe small enough for seconds, with `more` keys and sections."""
    recipe = recipe_from_dict(
        {
            "extension": "redline_recipes.tiny.extension",
            "kind": "granite_speech_plus",
            "encoder_from": str(base),
            "export_layers": [1],
            "window_size": 2,
            "downsample_rate": 2,
            "projector": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "hidden_dropout_prob": 0.0,
            },
            "language_model": {**LANGUAGE_MODEL, "max_position_embeddings": 1024},
            "augment": {"views": 2},
            "tasks": {"rare_count": 3, "rare_letters": 3, "tick_s": 0.04},
            "answer_batches": {"batch_s": 8, "buckets": 2, "curriculum": []},
            "answer_training": LOOP | training,
            **more,
        }
    )
    assert isinstance(recipe, ArRecipe)
    return recipe
