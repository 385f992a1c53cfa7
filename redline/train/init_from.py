"""The checkpoint that a recipe starts from: its weights, its tokenizer, and whether the recipe means the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from redline import untrusted
from redline.errors import ConfigError
from redline.models.config import NarConfig


def check_shape(
    start: str, config: NarConfig, stated: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any | None]
) -> None:
    """Refuse a recipe that says something else than the checkpoint it starts from; raises `ConfigError` with the key.

    `stated` are the sections encoder, projector and language_model as the recipe has them, `top` its keys outside of
    sections that tell a shape (None: not said).
    """
    of_checkpoint = {
        "encoder": asdict(config.encoder),
        "projector": asdict(config.projector),
        "language_model": asdict(config.text),
    }
    pairs = [
        (f"[{section}] {key}", value, of_checkpoint[section].get(key))
        for section, values in stated.items()
        for key, value in values.items()
    ]
    have = {"vocab_size": config.text.vocab_size, "encoder_layer_indices": config.encoder_layer_indices}
    pairs += [(key, value, have[key]) for key, value in top.items() if value is not None]
    for key, wanted, found in pairs:
        if (tuple(wanted) if isinstance(wanted, list) else wanted) != found:
            raise ConfigError(
                f"recipe {key} is {wanted!r}, but the model that it starts from, {start}, has {found!r}; "
                "leave the key out, or start from another model"
            )


def dtype_of(folder: Path) -> torch.dtype:
    """The precision in which a checkpoint is kept, as its `config.json` tells; bfloat16 where it does not."""
    config = untrusted.read_json(folder / "config.json")
    name = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{folder / 'config.json'}: dtype is {name!r}; allowed are {', '.join(known)}")
    return known[name]
