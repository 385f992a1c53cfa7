"""A made-up corpus for tests of training: tones that stand for words, and a recipe small enough for seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile

from redline.tokenizer import Tokenizer
from redline.train.recipe import NarRecipe, recipe_from_dict
from redline.train.run import Materials, build
from redline_recipes.tiny.bpe import train_tokenizer

LOOP = {"steps": 4, "warmup_steps": 1, "evaluate_every": 4, "log_every": 2, "precision": "no"}
LANGUAGE_MODEL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "attention_multiplier": 0.125,
}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "to", "red", "house", "by", "sea"]


def make_corpus(folder: Path, count: int = 24) -> Path:
    """Tones that stand for words, so that a model could learn them, in three splits."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(2, 4))]
        time = np.arange(4800) / 16_000
        tones = [np.sin(2 * np.pi * (200 + 120 * WORDS.index(word)) * time) for word in words]
        audio = (0.3 * np.concatenate(tones)).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", audio, 16_000)
        split = "train" if number < count - 4 else "dev"
        rows.append(
            {
                "audio": f"{number}.wav",
                "text": " ".join(words).upper(),
                "language": "en",
                "speaker": str(number % 3),
                "duration": len(audio) / 16_000,
                "split": split,
                "id": f"utt{number}",
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def small_recipe(more: Mapping[str, object] = MappingProxyType({}), **training: object) -> NarRecipe:
    """A recipe with the extension of the bundled ones, small enough for seconds, with `more` keys and sections."""
    recipe = recipe_from_dict({**small_sections(**training), **more})
    assert isinstance(recipe, NarRecipe)
    return recipe


def small_sections(**training: object) -> dict[str, Any]:
    """Its keys and sections."""
    loop = LOOP | training
    return {
        "extension": "redline_recipes.tiny.extension",
        "vocab_size": 270,
        "encoder_layer_indices": [1, -1],
        "encoder": {
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "dim_head": 8,
            "output_dim": 128,
            "context_size": 50,
            "max_pos_emb": 50,
            "self_conditioning_layer": 1,
            "subsample_layers": [1],
            "bpe_pooling_window": 2,
            "dropout": 0.1,
        },
        "projector": {"downsample_rate": 2, "hidden_size": 16, "num_heads": 2, "num_layers": 1, "block_size": 4},
        "language_model": LANGUAGE_MODEL,
        "augment": {"views": 2},
        "encoder_batches": {"batch_s": 8, "buckets": 2, "curriculum": [0.5], "augment_from_epoch": 1},
        "encoder_training": loop,
        "text": {"words": [2, 6], "batch_tokens": 256, "held_out_excerpts": 5},
        "lm_training": {"steps": 0},
        "editor_batches": {"batch_s": 8, "buckets": 2, "curriculum": []},
        "editor_training": loop,
    }


def editor_recipe(
    start: str | Path, more: Mapping[str, object] = MappingProxyType({}), **training: object
) -> NarRecipe:
    """A recipe that goes on from a checkpoint as the library does it, with `more` keys and sections."""
    batches = {"batch_s": 8, "buckets": 2, "curriculum": []}
    loop = LOOP | training
    sections = {"augment": {"views": 2}, "editor_batches": batches, "editor_training": loop, **more}
    recipe = recipe_from_dict({"init_from": str(start), **sections})
    assert isinstance(recipe, NarRecipe)
    return recipe


def small_tiny_recipe(more: Mapping[str, object] = MappingProxyType({}), **training: object) -> NarRecipe:
    """The small recipe with a language model from books."""
    return small_recipe({"lm_training": LOOP | training, **more}, **training)


def learn(data: Path, out: Path, steps: int, accumulate: int, say: Callable[[str], None] | None = None) -> None:
    """Train a small encoder without dropout (every process draws its own) at a constant rate (the decay counts)."""
    recipe = small_recipe(steps=steps, accumulate=accumulate, floor=1.0, evaluate_every=2)
    still = replace(recipe, encoder={**recipe.encoder, "dropout": 0.0, "pred_dropout": 0.0})
    build(still, Materials(data, out), ("tokenizer", "encoder"), say or silent)


def silent(line: str) -> None:
    """Say nothing."""


def tokenizer_of(lines: list[str]) -> Tokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(lines, 270, Path(folder) / "tokenizer.json")
