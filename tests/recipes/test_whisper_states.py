"""Whisper's encoder as a teacher: the states are those of the published code, and are computed once."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from redline.errors import CheckpointError
from redline_recipes.distillation.teacher import opened_states
from redline_recipes.distillation.whisper import load_whisper, read_variables, whisper_mel
from redline_recipes.distillation.whisper_states import main, states_of

WIDTH, LAYERS = 64, 2


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    """A small encoder of random weights by the code of transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=1, encoder_ffn_dim=4 * WIDTH, num_mel_bins=80
    )
    return transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()


@pytest.fixture(scope="module")
def weights(reference: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_energies_are_those_of_the_published_code() -> None:
    transformers = pytest.importorskip("transformers")
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    extract = transformers.WhisperFeatureExtractor()
    theirs = extract(samples, sampling_rate=16_000, padding="do_not_pad", return_tensors="pt").input_features[0]
    assert torch.allclose(whisper_mel(torch.from_numpy(samples)), theirs, atol=1e-4)


@torch.inference_mode()
def test_states_are_those_of_the_published_code(reference: torch.nn.Module, weights: Path) -> None:
    mel = torch.randn(1, 80, 3000)
    states = load_whisper(weights)(mel)
    theirs = reference(mel, output_hidden_states=True)
    assert torch.allclose(states[0], theirs.hidden_states[1], atol=1e-4)
    assert torch.allclose(states[1], theirs.last_hidden_state, atol=1e-4)


def test_a_clip_has_one_state_for_two_frames(weights: Path) -> None:
    encoder = load_whisper(weights)
    (states,) = states_of(encoder, torch.randn(320 * 51), [2])
    assert states.shape == (26, WIDTH)


def test_states_of_a_training_set_are_computed_once(weights: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["--weights", str(weights), "--data", str(corpus), "--out", str(tmp_path), "--layers", "1", "2"]
    assert main([*arguments, "--precision", "float32"]) == 0
    train = [row["id"] for row in map(json.loads, corpus.read_text().splitlines()) if row["split"] == "train"]
    lower, upper = opened_states(tmp_path)
    assert set(lower.frames) == set(upper.frames) == set(train)
    size = (tmp_path / "states-1.frames").stat().st_size
    assert main(arguments) == 0 and (tmp_path / "states-1.frames").stat().st_size == size


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\1\0\0\0nonsense")
    with pytest.raises(CheckpointError, match="CTranslate2"):
        read_variables(tmp_path / "model.bin")
    assert main(["--wheels", str(tmp_path / "none"), "--data", "x", "--out", str(tmp_path / "out")]) == 2
