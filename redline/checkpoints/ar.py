"""Checkpoints of the AR and Plus models: `config.json` + safetensors <-> `ArModel`.

Three namings are known; all are turned into the first:

    published        language_model.model.*          2B, 2B-Plus until v2604
    transformers 5   model.language_model.*          a leading `model.` everywhere, the head as lm_head.*
    v2610            language_model.model.model.*    2B-Plus since then: the decoder one level further down

Adapters found among the weights, in `adapter_model.safetensors` or in both are merged into the matrices they belong to.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import tensor_file, untrusted
from redline.checkpoints.config_keys import check_adapter_keys, read_ar_config
from redline.checkpoints.draft_lm import find_draft_lm, save_draft_lm
from redline.checkpoints.folder import (
    check,
    check_layers,
    check_preprocessor,
    fill_counters,
    headers,
    read_tensors,
    resolve,
    to_dtype,
    weights,
    write,
)
from redline.checkpoints.heads import DRAFT_HEAD, load_draft_head, save_draft_head
from redline.checkpoints.layouts import AR, EMBEDDINGS
from redline.checkpoints.layouts import LM_HEAD as HEAD
from redline.diarize import embedder
from redline.errors import CheckpointError
from redline.models.ar import ArModel
from redline.models.config import SPEECH_KINDS, ArConfig

GENERATION = "generation_config.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def is_ar(folder: Path) -> bool:
    """Whether the folder's `config.json` is that of an AR or Plus model."""
    return untrusted.read_json(folder / "config.json").get("model_type") in list(SPEECH_KINDS)


def load(
    source: str | Path,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    draft_lm: str | Path = "own",
) -> tuple[ArModel, ArConfig, Path]:
    """Read a checkpoint: a folder, a hub id or a bundled name -> the model in eval mode, its config and its folder.

    `draft_lm` is the n-gram model that reads along while the draft is written: the checkpoint's "own" if it has one,
    "none", or a file. Raises `CheckpointError` when it is not an AR or Plus layout, or `ConfigError` when its numbers
    do not fit.
    """
    folder = resolve(source, revision)
    found = headers(folder)
    promised = AR.canonical({name: tensor for said in found.values() for name, tensor in said.items()}, folder)
    values = _with_ends(untrusted.read_json(folder / "config.json"), folder)
    if HEAD not in promised and values.get("tie_word_embeddings") is False:
        raise CheckpointError(f"{folder}: config.json does not tie the word embeddings, but there is no {HEAD}")
    # What the headers promise is looked at first, as if it were the tensors: nothing is read that does not fit.
    model = _fit(promised, values, folder)
    tensors = AR.rename(read_tensors(found), folder)
    model = _fit(tensors, values, folder, model)
    config = model.config
    model.load_state_dict(to_dtype(tensors, dtype, folder), assign=True)
    check_preprocessor(folder, config.window_size, config.downsample_rate)
    if untrusted.is_there(folder / DRAFT_HEAD):
        encoder = config.encoder
        head = load_draft_head(folder, encoder.hidden_dim, config.text.vocab_size + 1, encoder.bpe_pooling_window)
        model.draft_head = head.to(dtype=dtype)
    if untrusted.is_there(folder / embedder.SPEAKER_HEAD):
        model.voices = embedder.load(folder / embedder.SPEAKER_HEAD).to(dtype=dtype)
    model.eval().to(device)
    if model.draft_head is not None:
        model.draft_lm = find_draft_lm(folder, draft_lm, model.draft_head.rows - 1, device)
    elif draft_lm not in ("own", "none"):
        raise CheckpointError(f"{folder}: no {DRAFT_HEAD}, so there is no draft that {draft_lm} could read along")
    return model, config, folder


def _with_ends(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config, whose texts end at the tokens of a `generation_config.json`, too, where there is one."""
    text = values.get("text_config")
    if not untrusted.is_there(folder / GENERATION) or not isinstance(text, Mapping):
        return values
    more = untrusted.read_json(folder / GENERATION).get("eos_token_id")
    if more is None:
        return values
    said = [one for one in (text.get("eos_token_id"), more) if one is not None]
    ends = [end for one in said for end in (one if isinstance(one, list) else [one])]
    return values | {"text_config": {**text, "eos_token_id": ends}}


def _fit(
    tensors: dict[str, Tensor], values: Mapping[str, Any], folder: Path, planned: ArModel | None = None
) -> ArModel:
    """Bring tensors to the published layout -> the model of just these shapes, on "meta": the planned one if it fits.

    Raises `CheckpointError`.
    """
    _merge_adapters(tensors, folder)
    tied = HEAD not in tensors or _same(tensors[HEAD], tensors[EMBEDDINGS])
    if tied:
        tensors.pop(HEAD, None)
    elif not tensors[HEAD].is_meta and _ties(values):
        raise CheckpointError(f"{folder}: config.json ties the word embeddings, but {HEAD} differs from them")
    config = read_ar_config(values, tied=tied)
    promised = {
        "encoder.layers.": config.encoder.num_layers,
        "projector.qformer.encoder.layer.": config.projector.num_hidden_layers,
        "language_model.model.layers.": config.text.num_hidden_layers,
    }
    check_layers(tensors, promised, folder)
    with torch.device("meta"):
        model = planned if planned is not None and planned.config == config else ArModel(config)
    expected = model.state_dict()
    fill_counters(tensors, expected)
    check(tensors, expected, folder)
    return model


def _ties(values: Mapping[str, Any]) -> bool:
    """Whether a config says, and nowhere denies, that the output matrix is that of the embeddings."""
    said = [
        part.get("tie_word_embeddings") for part in (values, values.get("text_config")) if isinstance(part, Mapping)
    ]
    return True in said and False not in said


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; those on "meta" never are, for all that is known."""
    return not one.is_meta and torch.equal(one, other)


def _merge_adapters(tensors: dict[str, Tensor], folder: Path) -> None:
    """Add each adapter's B @ A, scaled, to its matrix; in float32, then back to the matrix's precision."""
    if untrusted.is_there(folder / ADAPTER):
        said, _ = tensor_file.read_header(folder / ADAPTER)
        planned = all(tensor.is_meta for tensor in tensors.values())
        adapters = AR.rename(said if planned else tensor_file.read_tensors(folder / ADAPTER, said), folder)
        # `save_pretrained` of a model with an adapter writes it twice: with the weights, and in a file of its own.
        for name in sorted(adapters.keys() & tensors.keys()):
            if not _equal(adapters[name], tensors[name]):
                raise CheckpointError(
                    f"{folder}: {name} is in the weights and in {ADAPTER}, and they differ; remove the wrong one"
                )
        tensors |= {name: tensor for name, tensor in adapters.items() if name not in tensors}
    downs = [name for name in tensors if name.endswith(".lora_A.weight")]
    if not downs:
        if stray := [name for name in tensors if ".lora_" in name]:
            raise CheckpointError(f"{folder}: half an adapter: {stray[0]} has no lora_A")
        return
    if not untrusted.is_there(folder / ADAPTER_CONFIG):
        raise CheckpointError(f"{folder}: adapters among the weights, but no {ADAPTER_CONFIG} that tells their scale")
    settings = untrusted.read_json(folder / ADAPTER_CONFIG)
    check_adapter_keys(settings)
    for name in downs:
        stem = name.removesuffix(".lora_A.weight")
        target, up = f"{stem}.weight", f"{stem}.lora_B.weight"
        if target not in tensors or up not in tensors:
            raise CheckpointError(f"{folder}: the adapter {name} has no {target if target not in tensors else up}")
        a, b, weight = tensors.pop(name).float(), tensors.pop(up).float(), tensors[target]
        if not a.dim() == b.dim() == weight.dim() == 2 or not len(a):
            shapes = [list(tensor.shape) for tensor in (a, b, weight)]
            raise CheckpointError(f"{folder}: the adapter {name} has shapes {shapes}; three matrices are needed")
        rank = len(a)
        if settings.get("lora_alpha") is None or settings.get("r", rank) != rank:
            raise CheckpointError(
                f"{folder}: {ADAPTER_CONFIG} has lora_alpha {settings.get('lora_alpha')} and r {settings.get('r')}, "
                f"but {name} has {rank} rows; lora_alpha must be there, and r say the same"
            )
        scale = float(settings["lora_alpha"]) / (rank**0.5 if settings.get("use_rslora") else rank)
        if (b.shape[0], a.shape[1]) != tuple(weight.shape) or b.shape[1] != rank:
            raise CheckpointError(f"{folder}: the adapter {name} {list(a.shape)} does not fit {list(weight.shape)}")
        tensors[target] = (weight.float() + scale * (b @ a)).to(weight.dtype)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are copies, maybe one of them rounded to the precision of the other."""
    coarse = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    same = one.shape == other.shape
    return same and (one.is_meta or torch.equal(one.to(coarse), other.to(coarse)))  # of headers no more is known


def save(
    folder: str | Path,
    model: ArModel,
    tokenizer: str | Path,
    *,
    chat_template: str | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Path:
    """Write a model, its `tokenizer.json` and its chat template in the published layout; all at once, or nothing.

    A folder that is there already is refused, or with `overwrite` replaced as a whole if it is a checkpoint. Raises
    `CheckpointError`, also when a number is beyond the range of `dtype`.
    """
    config = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    window, rate = model.config.window_size, model.config.downsample_rate
    preprocessor = AR.preprocessor | {"projector_window_size": window, "projector_downsample_rate": rate}
    described: dict[str, dict[str, object] | str] = {"config.json": config, "preprocessor_config.json": preprocessor}
    if chat_template is not None:
        described["chat_template.jinja"] = chat_template

    def extra(new: Path) -> None:
        if model.draft_head is not None:
            save_draft_head(model.draft_head, new, dtype)
        if model.draft_lm is not None:
            save_draft_lm(model.draft_lm, new)
        if model.voices is not None:
            embedder.save(model.voices, new / embedder.SPEAKER_HEAD)
        shutil.copyfile(tokenizer, new / "tokenizer.json")

    tensors = weights(model, dtype, without=("draft_head.", "voices."))
    return write(folder, tensors, described, extra, overwrite=overwrite)
