"""CTC-only checkpoints: the published layout of Granite Speech 5.0 TurboCTC <-> `CtcModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import untrusted
from redline.checkpoints import config_keys
from redline.checkpoints import folder as folders
from redline.checkpoints.layouts import CTC_LAYOUT, CTC_PARTS
from redline.errors import CheckpointError, ConfigError
from redline.models.config import EncoderConfig, known
from redline.models.config_rules import ValueRule, count, flag, items, name, only, part, rules_of
from redline.models.ctc import CtcConfig, CtcModel

MODEL_TYPE = "granite_speech5_ctc"
POINTWISE = (".up_conv.weight", ".down_conv.weight")
"""Linear layers in files, convolutions of one frame in the model."""
CONFIG_NAMES = {  # of numbers in `encoder_config`: published -> ours
    "vocab_size": "output_dim",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "head_dim": "dim_head",
    "max_position_embeddings": "max_pos_emb",
    **{same: same for same in ("context_size", "conv_kernel_size", "conv_expansion_factor")},
}
RULES = rules_of(EncoderConfig)
ENCODER = {theirs: RULES[ours] for theirs, ours in CONFIG_NAMES.items()} | {
    "intermediate_size": count(1 << 20),
    "subsample_layers": items(count(255, 0), most=8),
    "num_key_value_heads": RULES["num_heads"],
    "num_mel_bins": only(80),
    "hidden_act": only("silu"),
    "attention_bias": only(True),
}
TOP: dict[str, ValueRule] = {
    "model_type": only(MODEL_TYPE),
    "encoder_config": part,
    "vocab_size": RULES["output_dim"],
    "pad_token_id": RULES["blank_token_id"],
    "languages": rules_of(CtcConfig)["languages"],
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
    stated = values.get("encoder_config")
    if stated is None:
        raise ConfigError("config.json has no encoder_config; a CTC model needs one")
    config_keys.check_keys(stated, ENCODER, "encoder_config")
    encoder = {key: value for key, value in stated.items() if value is not None}
    ours = {ours: encoder[theirs] for theirs, ours in CONFIG_NAMES.items() if theirs in encoder}
    width, heads, layers = (ours.get(key, getattr(CtcConfig, key)) for key in ("hidden_dim", "num_heads", "num_layers"))
    config_keys.agree({"num_key_value_heads": encoder.get("num_key_value_heads"), "num_attention_heads": heads})
    rows = ours.get("output_dim", CtcConfig.output_dim)
    config_keys.agree({"vocab_size": values.get("vocab_size"), "that of encoder_config": rows})
    derived = {
        "dim_head": width // heads,
        "feedforward_mult": encoder.get("intermediate_size", 4096) // width,
        "self_conditioning_layer": layers // 2,
        "subsample_layers": [layer + 1 for layer in encoder.get("subsample_layers", (0, 1))],
        "blank_token_id": values.get("pad_token_id"),
        "languages": values.get("languages"),
    }
    return known(CtcConfig, derived | ours)


def load_ctc(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32) -> CtcModel:
    """Read a checkpoint's folder -> the model in eval mode; raises `CheckpointError`."""
    files = folders.headers(folder)
    promised = _canonical(folders.merged(files), folder)
    config = read_ctc_config(untrusted.read_json(folder / "config.json"))
    model = folders.planned(CtcModel, config, promised, {"layers.": config.num_layers}, folder)
    folders.check_tensors(promised, model, folder)
    tensors = _canonical(folders.read_weights(files), folder)
    folders.check_tensors(tensors, model, folder)
    model.load_state_dict(folders.to_dtype(tensors, dtype, folder), assign=True)
    config_keys.check_preprocessor(folder, PREPROCESSOR)
    return model.eval().to(device)


def _canonical(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors as the model has them: keys and values in one matrix, one CTC head, pointwise layers as convolutions."""
    ours = CTC_LAYOUT.canonical(tensors, folder)
    for kind in ("weight", "bias"):
        copy, head = ours.pop(f"ctc_head.{kind}", None), ours.get(f"out.{kind}")
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
    """Write a model and its `tokenizer.json` in the published layout, as `folder.write` does."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        if key.endswith(".attn.to_kv.weight"):
            for part, half in zip(("to_k", "to_v"), tensor.chunk(2), strict=True):
                tensors[key.replace("to_kv", part)] = half
        else:
            tensors[key] = tensor.squeeze(-1) if key.endswith(POINTWISE) else tensor
    for theirs, ours in reversed(CTC_PARTS):
        tensors = {name.replace(ours, theirs): tensor for name, tensor in tensors.items()}
    config = model.config
    encoder = {theirs: getattr(config, ours) for theirs, ours in CONFIG_NAMES.items()} | {
        "intermediate_size": config.feedforward_mult * config.hidden_dim,
        "subsample_layers": [layer - 1 for layer in config.subsample_layers],
        "num_key_value_heads": config.num_heads,
    }
    configs = {
        "config.json": {
            **{"model_type": MODEL_TYPE, "architectures": ["GraniteSpeech5ForCTC"], "tie_word_embeddings": True},
            **{"vocab_size": config.output_dim, "pad_token_id": config.blank_token_id, "encoder_config": encoder},
            **{"languages": list(config.languages), "dtype": str(dtype).removeprefix("torch.")},
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "GraniteSpeech5FeatureExtractor",
            **{"sampling_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 160},
            **{"num_mel_bins": 80, "delta_win_length": 3},
        },
    }
    published = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    return folders.write(folder, published, configs, tokenizer, lambda new: None, dtype=dtype, overwrite=overwrite)
