"""CTC-only checkpoints: the published layout of Granite Speech 5.0 TurboCTC <-> `CtcModel`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import untrusted
from redline.checkpoints import config_keys
from redline.checkpoints.folder import (
    check_layers,
    check_tensors,
    fill_counters,
    headers,
    read_weights,
    resolve,
    to_dtype,
    weights,
    write,
)
from redline.errors import CheckpointError, ConfigError
from redline.models.config import known
from redline.models.config_rules import ValueRule, flag, name, only, part, rules_of
from redline.models.ctc import CtcConfig, CtcModel, TurboConfig

MODEL_TYPE = "granite_speech5_ctc"
LAYER_PARTS = {  # of each layer: published names -> ours
    **{f"feed_forward{n}.linear1": f"ff{n}.up_proj" for n in (1, 2)},
    **{f"feed_forward{n}.linear2": f"ff{n}.down_proj" for n in (1, 2)},
    **{f"norm_feed_forward{n}": f"ff{n}.pre_norm" for n in (1, 2)},
    **{f"self_attn.{part}_proj": f"attn.to_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn.to_out",
    "self_attn.rel_pos_emb": "attn.rel_pos_emb",
    "norm_self_att": "attn.pre_norm",
    "norm_conv": "conv.norm",
    "conv.pointwise_lin1": "conv.up_conv",
    "conv.depthwise_conv": "conv.depth_conv.conv",
    "conv.norm": "conv.batch_norm",
    "conv.pointwise_lin2": "conv.down_conv",
    "norm_out": "post_norm",
}
LAYER = re.compile(r"(encoder\.layers\.\d+)\.(.+)\.(\w+)")
POINTWISE = (".up_conv.weight", ".down_conv.weight")
"""Linear layers in files, convolutions of one frame in the model."""
ENCODER = rules_of(TurboConfig) | {
    "num_key_value_heads": rules_of(TurboConfig)["num_attention_heads"],
    "num_mel_bins": only(80),
    "hidden_act": only("silu"),
    "attention_bias": only(True),
}
TOP: dict[str, ValueRule] = rules_of(CtcConfig) | {
    "model_type": only(MODEL_TYPE),
    "encoder_config": part,
    "vocab_size": ENCODER["vocab_size"],
    "tie_word_embeddings": only(True),
    "ctc_loss_reduction": name,
    "ctc_zero_infinity": flag,
}
PREPROCESSOR: dict[str, ValueRule] = config_keys.PREPROCESSOR_KEYS | {
    "num_mel_bins": only(80),
    "feature_size": only(320),
    "delta_win_length": only(3),
    "logmel_floor_db": only(8, 8.0),
}


def is_ctc(folder: Path) -> bool:
    """Whether the config of a folder names this kind of model."""
    return untrusted.read_json(folder / "config.json").get("model_type") == MODEL_TYPE


def read_ctc_config(values: Mapping[str, Any]) -> CtcConfig:
    """The published `config.json`; raises `ConfigError` for what is missing or not built."""
    config_keys.check_keys(values, TOP, "config.json")
    encoder = values.get("encoder_config")
    if not isinstance(encoder, Mapping):
        raise ConfigError("config.json has no encoder_config; a CTC model needs one")
    config_keys.check_keys(encoder, ENCODER, "encoder_config")
    turbo = known(TurboConfig, encoder)
    for key, given, same in (
        ("num_key_value_heads", encoder.get("num_key_value_heads"), turbo.num_attention_heads),
        ("vocab_size", values.get("vocab_size"), turbo.vocab_size),
    ):
        if given not in (None, same):
            raise ConfigError(f"{key} is {given}; allowed is {same}, as the rest of encoder_config says")
    return known(CtcConfig, {**values, "turbo": turbo})


def load_ctc(
    source: str | Path,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[CtcModel, CtcConfig, Path]:
    """Read a checkpoint -> the model in eval mode, its config and its folder; raises `CheckpointError`."""
    folder = resolve(source, revision)
    files = headers(folder)
    promised = _canonical({key: value for tensors in files.values() for key, value in tensors.items()}, folder)
    config = read_ctc_config(untrusted.read_json(folder / "config.json"))
    check_layers(promised, {"encoder.layers.": config.encoder.num_layers}, folder)
    with torch.device("meta"):
        model = CtcModel(config)
    expected = model.state_dict()
    fill_counters(promised, expected)
    check_tensors(promised, expected, folder)
    tensors = to_dtype(_canonical(read_weights(files), folder), dtype, folder)
    fill_counters(tensors, expected)
    model.load_state_dict(tensors, assign=True)
    if untrusted.is_there(folder / "preprocessor_config.json"):
        config_keys.check_keys(
            untrusted.read_json(folder / "preprocessor_config.json"), PREPROCESSOR, "preprocessor_config.json"
        )
    return model.eval().to(device), config, folder


def _renamed(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in tensors.items():
        if (match := LAYER.fullmatch(key)) and match[2] in parts:
            key = f"{match[1]}.{parts[match[2]]}.{match[3]}"
        renamed[key] = tensor
    return renamed


def _canonical(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors as the model has them: keys and values in one matrix, one CTC head, pointwise layers as convolutions."""
    ours = _renamed({key: tensor for key, tensor in tensors.items() if not key.startswith("ctc_head.")}, LAYER_PARTS)
    for kind in ("weight", "bias"):
        copy, head = tensors.get(f"ctc_head.{kind}"), ours.get(f"encoder.out.{kind}")
        if copy is not None and (head is None or head.shape != copy.shape or not (copy.is_meta or copy.equal(head))):
            raise CheckpointError(f"{folder}: ctc_head.{kind} differs from encoder.out.{kind}; they must be one")
    for key in [key for key in ours if key.endswith(".attn.to_k.weight")]:
        values = ours.get(key.replace("to_k", "to_v"))
        if values is not None and values.dim() == 2 and values.shape == ours[key].shape:
            ours[key.replace("to_k", "to_kv")] = torch.cat((ours.pop(key), ours.pop(key.replace("to_k", "to_v"))))
    return {key: tensor.unsqueeze(-1) if key.endswith(POINTWISE) else tensor for key, tensor in ours.items()}


def save_ctc(
    folder: str | Path,
    model: CtcModel,
    tokenizer: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Path:
    """Write a model and its `tokenizer.json` in the published layout; all of it appears at once, or nothing."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in weights(model, dtype).items():
        if key.endswith(".attn.to_kv.weight"):
            for part, half in zip(("to_k", "to_v"), tensor.chunk(2), strict=True):
                tensors[key.replace("to_kv", part)] = half.contiguous()
        else:
            tensors[key] = tensor.squeeze(-1) if key.endswith(POINTWISE) else tensor
    published = _renamed(tensors, {ours: theirs for theirs, ours in LAYER_PARTS.items()})

    def extra(new: Path) -> None:
        shutil.copyfile(tokenizer, new / "tokenizer.json")

    described = {
        "config.json": model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")},
        "preprocessor_config.json": {
            "feature_extractor_type": "GraniteSpeech5FeatureExtractor",
            **{"sampling_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 160},
            **{"num_mel_bins": 80, "delta_win_length": 3},
        },
    }
    return write(folder, published, described, extra, overwrite=overwrite)
