"""What tests of recipes share with those of training, and a small Whisper model."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import base, books, corpus, manifest, model

__all__ = ["base", "books", "corpus", "manifest", "model"]
WIDTH, LAYERS = 64, 2


@pytest.fixture(scope="session")
def reference() -> torch.nn.Module:
    """A small encoder of random weights by the code of transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=1, encoder_ffn_dim=4 * WIDTH, num_mel_bins=80
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):  # they would be zeros, or of no account
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.fixture(scope="session")
def whisper_weights(reference: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as CTranslate2 keeps them."""
    folder = tmp_path_factory.mktemp("whisper")
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    norm = {"weight": "gamma", "bias": "beta"}
    variables = {f"{conv}/{part}": tensors[f"{conv}.{part}"] for conv in ("conv1", "conv2") for part in norm}
    variables["position_encodings/encodings"] = tensors["embed_positions.weight"]
    variables |= {f"layer_norm/{norm[part]}": tensors[f"layer_norm.{part}"] for part in norm}
    for number in range(LAYERS):
        theirs, ours = f"layers.{number}", f"layer_{number}"
        zero = np.zeros(WIDTH, dtype=np.float32)  # keys have no bias
        projections = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
        inner = {
            "weight": np.concatenate([tensors[f"{name}.weight"] for name in projections]),
            "bias": np.concatenate([tensors.get(f"{name}.bias", zero) for name in projections]),
        }
        for part in norm:
            variables |= {
                f"{ours}/self_attention/layer_norm/{norm[part]}": tensors[f"{theirs}.self_attn_layer_norm.{part}"],
                f"{ours}/self_attention/linear_0/{part}": inner[part],
                f"{ours}/self_attention/linear_1/{part}": tensors[f"{theirs}.self_attn.out_proj.{part}"],
                f"{ours}/ffn/layer_norm/{norm[part]}": tensors[f"{theirs}.final_layer_norm.{part}"],
                f"{ours}/ffn/linear_0/{part}": tensors[f"{theirs}.fc1.{part}"],
                f"{ours}/ffn/linear_1/{part}": tensors[f"{theirs}.fc2.{part}"],
            }
    data = struct.pack("<IH", 6, 8) + b"Whisper\0" + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        array = np.ascontiguousarray(array, dtype="<f4")
        data += struct.pack("<H", len(name) + 9) + b"encoder/" + name.encode() + b"\0"
        data += struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", 0, array.nbytes) + array.tobytes()
    (folder / "model.bin").write_bytes(data)
    return folder
