"""CTC-only checkpoints: the published layout of Granite Speech 5.0 TurboCTC -> `CtcModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import untrusted
from redline.checkpoints import config_keys
from redline.checkpoints import folder as folders
from redline.checkpoints.layouts import CTC_LAYOUT
from redline.errors import CheckpointError, ConfigError
from redline.models.config import known
from redline.models.config_rules import ValueRule, flag, name, only, part, rules_of
from redline.models.ctc import CtcConfig, CtcModel, TurboConfig

MODEL_TYPE = "granite_speech5_ctc"
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
    if encoder is None:
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
    source: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CtcModel, CtcConfig, Path]:
    """Read a checkpoint -> the model in eval mode, its config and its folder; raises `CheckpointError`."""
    folder = folders.resolve(source)
    files = folders.headers(folder)
    promised = _canonical(folders.merged(files), folder)
    config = read_ctc_config(untrusted.read_json(folder / "config.json"))
    model = folders.planned(CtcModel, config, promised, {"encoder.layers.": config.encoder.num_layers}, folder)
    folders.check_tensors(promised, model, folder)
    tensors = _canonical(folders.read_weights(files), folder)
    folders.check_tensors(tensors, model, folder)
    model.load_state_dict(folders.to_dtype(tensors, dtype, folder), assign=True)
    config_keys.check_preprocessor(folder, PREPROCESSOR)
    return model.eval().to(device), config, folder


def _canonical(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors as the model has them: keys and values in one matrix, one CTC head, pointwise layers as convolutions."""
    ours = CTC_LAYOUT.canonical(tensors, folder)
    for kind in ("weight", "bias"):
        copy, head = ours.pop(f"ctc_head.{kind}", None), ours.get(f"encoder.out.{kind}")
        if copy is not None and (head is None or head.shape != copy.shape or not (copy.is_meta or copy.equal(head))):
            raise CheckpointError(f"{folder}: ctc_head.{kind} differs from encoder.out.{kind}; they must be one")
    for key in [key for key in ours if key.endswith(".attn.to_k.weight")]:
        values = ours.get(key.replace("to_k", "to_v"))
        if values is not None and values.dim() == 2 and values.shape == ours[key].shape:
            ours[key.replace("to_k", "to_kv")] = torch.cat((ours.pop(key), ours.pop(key.replace("to_k", "to_v"))))
    return {key: tensor.unsqueeze(-1) if key.endswith(POINTWISE) else tensor for key, tensor in ours.items()}
