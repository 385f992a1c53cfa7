"""Tensors that are no numbers, of another shape, or not where they should be: refused by name."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline import tensor_file
from redline.checkpoints import heads, nar
from redline.checkpoints.draft_lm import FORMAT
from redline.checkpoints.shared import DRAFT_LM
from redline.diarize import embedder
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import CheckpointError
from redline.load import load_model

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["encoder.out.bias", "language_model.model.embed_tokens.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(
    editing: Path, bad: float, dtype: torch.dtype, name: str
) -> None:
    tensors = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in load_file(editing / WEIGHTS).items()
    }
    tensors[name].view(-1)[-1] = bad
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{name} has {'NaN' if math.isnan(bad) else 'infinity'} in it"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("file", ["out_forms.safetensors", "out_language.safetensors", "out_llm.safetensors"])
def test_heads_that_are_no_numbers_are_refused_by_name(editing: Path, answering: Path, file: str) -> None:
    folder = answering if file == "out_llm.safetensors" else editing
    from safetensors import safe_open

    with safe_open(folder / file, framework="pt") as opened:
        about = opened.metadata()
    tensors = load_file(folder / file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, folder / file, metadata=about)
    with pytest.raises(CheckpointError, match=rf"{name} has NaN in it"):
        load_model(folder, device="cpu")


def test_finite_is_exact_where_sums_overflow() -> None:
    assert tensor_file.finite(torch.full((9,), 3e38)) and tensor_file.finite(torch.tensor([3e38, -3e38, 3e38]))
    assert not tensor_file.finite(torch.tensor([math.inf, -math.inf])) and tensor_file.finite(torch.zeros(0))


def test_weights_beyond_the_range_that_was_asked_for_are_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.out.bias"][0] = 1e30
    save_file(tensors, editing / WEIGHTS)
    load_model(editing, device="cpu", dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"encoder\.out\.bias is beyond the range of torch\.float16"):
        nar.load_nar(editing, dtype=torch.float16)


def test_a_variance_below_zero_is_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.layers.0.conv.batch_norm.running_var"][0] = -1.0
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"running_var is below 0"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(editing: Path, dtype: torch.dtype) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.out.bias"] = tensors["encoder.out.bias"].to(dtype)
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"encoder\.out\.bias.* numbers of type"):
        load_model(editing, device="cpu")


def rewrite_header(path: Path, change: Any) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = change(raw[8 : 8 + length].decode())
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + raw[8 + length :])


def test_a_tensor_that_a_header_names_twice_is_refused(editing: Path) -> None:
    def twice(text: str) -> str:
        entry = json.dumps({"encoder.out.bias": json.loads(text)["encoder.out.bias"]})[1:-1]
        return text.rstrip()[:-1] + ", " + entry + "}"

    rewrite_header(editing / WEIGHTS, twice)
    with pytest.raises(CheckpointError, match=r"the key 'encoder\.out\.bias' is there twice"):
        load_model(editing, device="cpu")


def test_a_tensor_in_two_shards_is_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    (editing / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[8:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, editing / shard)
    index = {name: shard for shard, members in shards.items() for name in members}
    (editing / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"is both in a\.safetensors and in b\.safetensors"):
        load_model(editing, device="cpu")
    save_file({name: tensors[name] for name in names[:8]}, editing / "a.safetensors")
    load_model(editing, device="cpu")
    index[names[20]] = "a.safetensors"
    (editing / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"is not in it, though model\.safetensors\.index\.json says so"):
        load_model(editing, device="cpu")


def test_a_header_longer_than_any_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 33))
        file.truncate((1 << 33) + 8)  # a file with a hole takes no room
    with pytest.raises(CheckpointError, match="a header of 8589934592 bytes; at most"):
        tensor_file.read_header(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokens.1", lambda t: t + 40, "ids beyond the vocabulary"),
        ("tokens.1", lambda t: t.flip(0), "not in order"),
        ("tokens.2", lambda t: t.float(), "tokens.2"),
        ("probs.1", lambda t: t[:-1], "probs.1"),
        ("heads.2", lambda t: t * 0, "heads.2"),
        ("heads.1", lambda t: t | 255, "heads.1"),
        ("parents.1", lambda t: t * 0, "backoffs.1"),
        ("range", lambda t: t.flip(0) * -1, "range"),
    ],
)
def test_n_grams_that_contradict_themselves_are_refused(editing: Path, name: str, change: Any, message: str) -> None:
    path = editing / DRAFT_LM
    tensors, about = tensor_file.load_tensors(path)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, metadata=about)
    with pytest.raises(CheckpointError, match=message):
        load_model(editing, device="cpu")


@pytest.mark.parametrize(
    "about", [{"order": "0"}, {"order": "9" * 20}, {"boundary": "-1"}, {"width": str(10**9)}, {"lm_weight": "nan"}, {}]
)
def test_n_grams_with_numbers_that_cannot_be_are_refused(editing: Path, about: dict[str, str]) -> None:
    tensors, metadata = tensor_file.load_tensors(editing / DRAFT_LM)
    save_file(tensors, editing / DRAFT_LM, metadata=metadata | about if about else {"format": FORMAT})
    with pytest.raises(CheckpointError, match=r"draft_lm\.safetensors"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("shape", [(), (3,), (54, 31), (0, 32), (54, 32, 1), (10**5, 32)])
@pytest.mark.parametrize("file", ["out_forms.safetensors", "out_language.safetensors", "out_llm.safetensors"])
def test_heads_of_another_shape_are_refused(editing: Path, answering: Path, file: str, shape: tuple[int, ...]) -> None:
    folder = answering if file == "out_llm.safetensors" else editing
    tensors, about = tensor_file.load_tensors(folder / file)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name] = torch.zeros(shape)
    save_file(tensors, folder / file, metadata=about)
    with pytest.raises(CheckpointError, match=rf"{file}: (does not fit|holds|\d+ rows)"):
        load_model(folder, device="cpu")


def test_a_head_of_a_million_languages_takes_no_memory(editing: Path) -> None:
    tensors, about = tensor_file.load_tensors(editing / heads.LANGUAGE_HEAD)
    rows = " ".join(map(str, range(200_000)))
    save_file(tensors, editing / heads.LANGUAGE_HEAD, metadata=about | {"rows": rows})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("change", ["int64", "scale", "rows", "missing"])
def test_a_head_for_voices_that_is_spoiled_is_refused(answering: Path, change: str) -> None:
    path = answering / embedder.SPEAKER_HEAD
    embedder.save_embedder(SpeakerEmbedder(8), path)
    tensors, about = tensor_file.load_tensors(path)
    if change == "int64":
        tensors["linear.weight"] = tensors["linear.weight"].long()
    elif change == "scale":
        tensors["linear.weight.scale"] = torch.ones(3)
    elif change == "missing":
        del tensors["centre"]
    save_file(tensors, path, metadata=about | ({"rows": "4000"} if change == "rows" else {}))
    with pytest.raises(CheckpointError, match=r"does not fit"):
        load_model(answering, device="cpu")
