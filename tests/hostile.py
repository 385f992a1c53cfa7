"""Checkpoints that somebody has tampered with: a small whole one, and ways of spoiling it by a seeded generator."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import ar, nar
from redline.checkpoints.config_keys import read_ar_config, read_nar_config
from redline.checkpoints.draft_lm import save_draft_lm
from redline.decoding.ngram import DraftOptions, Grams, NgramLM, bits_for
from redline.models.ar import ArModel
from redline.models.draft_head import DraftHead
from redline.models.heads import LanguageHead, PunctuationHead
from redline.models.nar import NarModel
from tests.builders import tiny_ar_checkpoint, tiny_checkpoint

VALUES: tuple[Any, ...] = (
    None, "x", "", [], [1], {}, {"a": 1}, True, False, -1, 0, 1, 2, 3, 7, 1000, 10**6, 10**8, 10**30,
    0.5, -0.5, 1e308, math.nan, math.inf, [[]], ["x", 1], -(10**9),
)  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


def bigrams(vocab_size: int) -> NgramLM:
    """A model of a few n-grams."""
    bits = bits_for(vocab_size, 2)
    ones = np.arange(vocab_size, dtype=np.int64)
    twos = np.array([(token << bits) | (token + 1) for token in range(4)], dtype=np.int64)
    first = Grams(ones, np.full(len(ones), -2.0, np.float32), np.where(ones < 4, -0.5, 0.0).astype(np.float32))
    second = Grams(twos, np.full(len(twos), -1.0, np.float32), np.zeros(len(twos), np.float32))
    return NgramLM([first, second], vocab_size, 0, DraftOptions(width=4, candidates=4))


def editing(folder: Path) -> Path:
    """A whole small NAR checkpoint, with every extra file that one may have."""
    checkpoint = tiny_checkpoint(folder.with_name("letters"))
    config = json.loads((checkpoint / "config.json").read_text())
    config = read_nar_config(
        config
        | {"encoder_layer_indices": [1, -1]}
        | {"encoder_config": config["encoder_config"] | {"num_layers": 2, "self_conditioning_layer": 1}}
        | {"projector_config": config["projector_config"] | {"num_layers": 1}}
        | {"text_config": config["text_config"] | {"num_hidden_layers": 1}}
    )
    torch.manual_seed(0)
    model = NarModel(config).eval()
    model.punctuation_head, model.language_head = PunctuationHead(32), LanguageHead(32, ("en", "de"))
    return nar.save_nar(folder, model, checkpoint / "tokenizer.json", bigrams(config.text.vocab_size))


def answering(folder: Path) -> Path:
    """A whole small AR checkpoint, with every extra file that one may have but a head for voices."""
    checkpoint = tiny_ar_checkpoint(folder.with_name("spoken letters"))
    config = json.loads((checkpoint / "config.json").read_text())
    config = read_ar_config(
        config
        | {"encoder_config": config["encoder_config"] | {"num_layers": 2, "self_conditioning_layer": 1}}
        | {"projector_config": config["projector_config"] | {"num_hidden_layers": 1}}
        | {"text_config": config["text_config"] | {"num_hidden_layers": 1}}
    )
    torch.manual_seed(0)
    model = ArModel(config).eval()
    encoder, rows = config.encoder, config.text.vocab_size
    model.draft_head = DraftHead(encoder.hidden_dim, rows, blank=rows - 1, window=encoder.bpe_pooling_window)
    ar.save_ar(folder, model, checkpoint / "tokenizer.json")
    save_draft_lm(bigrams(rows - 1), folder)
    (folder / "chat_template.jinja").write_text("USER: {{ messages[0]['content'] }}\n ASSISTANT:")
    return folder


def places(values: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value with a key or place in it."""
    keys = values.keys() if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    containers = []
    for key in keys:
        containers.append((values, key))
        containers += places(values[key])
    return containers


def spoil_json(text: str, chance: random.Random) -> str:
    """One value of another kind, one key less, more or twice, or text that is no JSON."""
    values = json.loads(text)
    holder, key = chance.choice(places(values))
    how = chance.randrange(10)
    if how < 6:
        holder[key] = chance.choice(VALUES)
    elif how == 6:
        del holder[key]
    elif how == 7 and isinstance(holder, dict):
        holder[chance.choice(("sliding_window", "rope_type", "quantization_config", "a" * 300))] = chance.choice(VALUES)
    elif how == 8:
        return chance.choice(
            ("", "{", "[]", "null", DEEP, '{"a":' * 5000 + "1" + "}" * 5000, "\ufffd",
             '{"model_type": "a", ' + text.lstrip()[1:], "9" * 5000, text[: len(text) // 2])
        )  # fmt: skip
    return json.dumps(values)


def spoil_bytes(raw: bytes, chance: random.Random) -> bytes:
    """Flipped bits in the header or behind it, a cut, or more than there should be."""
    data = bytearray(raw)
    length = struct.unpack("<Q", raw[:8])[0]
    how = chance.randrange(6)
    if how == 0:
        return raw[: chance.randrange(len(raw))]
    if how == 1:
        return raw + bytes(chance.randrange(1, 64))
    if how == 2:
        data[:8] = struct.pack("<Q", chance.choice((0, 1, length - 1, length + 1, len(raw), 2**40, 2**64 - 1)))
    else:
        end = 8 + length if how < 5 else len(data)
        for _ in range(chance.choice((1, 1, 3))):
            data[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(data)


def spoil_header(raw: bytes, chance: random.Random) -> bytes:
    """A header that is JSON and lies: about types, shapes, places, names."""
    length = struct.unpack("<Q", raw[:8])[0]
    header, rest = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = chance.choice(names)
    entry = header[name]
    how = chance.randrange(9)
    if how == 0:
        entry["dtype"] = chance.choice(("I64", "BOOL", "C64", "F8_E4M3", "F16", "F32", "x", 3, None))
    elif how == 1:
        entry["shape"] = chance.choice(([], [0], [-1], [2**62, 2], [1] * 70, "x", None, [1.5], entry["shape"][::-1]))
    elif how == 2:
        entry["data_offsets"] = chance.choice(([0, 0], [-4, 0], [0], [2**70, 2**71], "x", [4, 0]))
    elif how == 3:
        header[chance.choice(("x", "", "a" * 70_000, name + ".lora_A.weight"))] = header.pop(name)
    elif how == 4:
        header["__metadata__"] = chance.choice((None, 3, [], {"format": 3}, {"order": "9" * 30}, {}))
    elif how == 5:
        about = header.get("__metadata__") or {}
        header["__metadata__"] = {
            key: chance.choice(("", "-1", "1e9", "nan", "0", value)) for key, value in about.items()
        }
    elif how == 6:
        header[name] = chance.choice(VALUES)
    else:
        text = json.dumps(header)
        extra = json.dumps({name: entry})[1:-1]
        text = text[:-1] + ", " + extra + "}" if how == 7 else DEEP
        return struct.pack("<Q", len(text)) + text.encode() + rest
    text = json.dumps(header)
    return struct.pack("<Q", len(text.encode())) + text.encode() + rest


def spoil_tensors(path: Path, chance: random.Random) -> None:
    """Sound files with unsound tensors."""
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    name = chance.choice(sorted(tensors))
    tensor = tensors[name]
    change: list[Callable[[], Any]] = [
        lambda: tensor.to(torch.int64),
        lambda: tensor.bool(),
        lambda: tensor.float().reshape(-1),
        lambda: tensor.float()[None],
        lambda: torch.zeros(()),
        lambda: torch.zeros(0, 3),
        lambda: torch.full(tensor.shape, math.nan),
        lambda: torch.full(tensor.shape, math.inf),
        lambda: -torch.ones(tensor.shape),
        lambda: (torch.rand(tensor.shape) * 255).to(tensor.dtype),
        lambda: torch.cat((tensor.reshape(-1), tensor.reshape(-1))),
        lambda: None,
    ]
    spoiled = chance.choice(change)()
    if spoiled is None:
        del tensors[name]
    else:
        tensors[name] = spoiled.contiguous()
    save_file(tensors, path, metadata=about)


def spoil(folder: Path, chance: random.Random) -> str:
    """Tamper with one file of a checkpoint; gives its name."""
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    texts = [name for name in names if name.endswith(".json")]
    name = chance.choice([*weights, *weights, *texts, "config.json", "config.json", "config.json"])
    path = folder / name
    how = chance.randrange(12)
    if how == 0:
        path.unlink()
    elif how == 1:
        path.write_bytes(chance.randbytes(chance.choice((0, 7, 100, 5000))))
    elif name.endswith(".json"):
        path.write_text(spoil_json(path.read_text(), chance))
    elif how < 5:
        path.write_bytes(spoil_bytes(path.read_bytes(), chance))
    elif how < 8:
        path.write_bytes(spoil_header(path.read_bytes(), chance))
    else:
        spoil_tensors(path, chance)
    return name
