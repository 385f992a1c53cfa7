"""The checkpoint that a run starts from: its precision, and whether a recipe means the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from redline import untrusted
from redline.errors import ConfigError
from redline.models.config import NarConfig

CONFIG_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_shape(
    start: str, config: NarConfig, stated: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any | None]
) -> None:
    """Refuse a recipe that says something else than the checkpoint it starts from; raises `ConfigError` with the key.

    `stated` are the sections encoder, projector and language_model as the recipe has them, `top` its keys outside of
    sections that tell a shape (None: not stated).
    """
    parts = asdict(config)
    sections = {"encoder": parts["encoder"], "projector": parts["projector"], "language_model": parts["text"]}
    shape = {f"[{name}] {key}": value for name, values in sections.items() for key, value in values.items()}
    shape |= {"vocab_size": config.text.vocab_size, "encoder_layer_indices": config.encoder_layer_indices}
    settings = {f"[{name}] {key}": value for name, values in stated.items() for key, value in values.items()}
    settings |= {key: value for key, value in top.items() if value is not None}
    for key, value in settings.items():
        if (tuple(value) if isinstance(value, list) else value) != shape.get(key):
            raise ConfigError(
                f"recipe {key} is {value!r}, but the model that it starts from, {start}, has {shape.get(key)!r}; "
                "leave the key out, or start from another model"
            )


def dtype_of(folder: Path) -> torch.dtype:
    """The precision in which a checkpoint is kept, as its `config.json` tells; bfloat16 where it does not."""
    config = untrusted.read_json(folder / "config.json")
    name = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(name, str) or name not in CONFIG_DTYPES:
        raise ConfigError(f"{folder / 'config.json'}: dtype is {name!r}; allowed are {', '.join(CONFIG_DTYPES)}")
    return CONFIG_DTYPES[name]
