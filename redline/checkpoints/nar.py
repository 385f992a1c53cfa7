"""Checkpoints: `config.json` + safetensors <-> `NarModel`.

The published NAR model exists in several layouts. They are told apart by the tensors inside, never by a name:

    first revision   llm.model.*                  BPE head of vocabulary + 1 rows: row 0 blank, token = row - 1
    later revision   language_model.model.*       BPE head of vocabulary rows, blank = blank_token_id
    native port      model.language_model.*       as the later one, other names, projector norms without weights,
                                                  its own front end and no least number of slots

Everything is turned into the later layout, which is also what `save` writes; docs/checkpoints.md has the details. Only
JSON and safetensors are read: no pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import untrusted
from redline.checkpoints import config_keys
from redline.checkpoints.folder import (
    check,
    check_layers,
    check_preprocessor,
    headers,
    read_tensors,
    resolve,
    to_dtype,
    weights,
    write,
)
from redline.decoding import ngram
from redline.errors import CheckpointError
from redline.models import heads
from redline.models.config import NarConfig, cat_layers
from redline.models.nar import NarModel
from redline.punctuation import MARKS

RENAMES = (  # applied in order to every tensor name
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.out_bpe\.", "encoder.out_bpe."),
    (r"^model\.(encoder|projector)\.", r"\1."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^llm\.", "language_model."),
    (r"^projector\.qformer\.(window_positions|pos_emb)$", "projector.window_positions"),
    (r"^projector\.qformer\.queries$", "projector.query"),
    (r"^projector\.proj\.", "projector.layer_projector."),
    (r"^projector\.(qformer\.)?linear\.", "projector.out_linear."),
    (r"^(projector\.qformer\.layers\.\d+)\.o_proj\.", r"\1.cross_attention.o_proj."),
    (r"\.cross_attn\.", ".cross_attention."),
    (r"\.cross_attention\.query\.", ".cross_attention.q_proj."),
    (r"\.cross_attention\.key\.", ".cross_attention.k_proj."),
    (r"\.cross_attention\.value\.", ".cross_attention.v_proj."),
)
ADAPTER = "adapter_model.safetensors"
NATIVE = "model.out_bpe.weight"
"""Only the native port has its BPE head here."""
MARKERS = (  # present, after renaming, in every layout that can be read
    "encoder.out_bpe.weight",
    "projector.window_positions",
    "language_model.model.embed_tokens.weight",
)
NATIVE_ENCODER = {"pooling_window": "bpe_pooling_window"}
NATIVE_PROJECTOR = {
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "window_size": "block_size",
    "layer_norm_eps": "layernorm_eps",
    "attention_bias": "attn_bias",
}
"""Keys of the native port, by drafts of it, and what the published config calls them."""
PROJECTOR_NORM = re.compile(
    r"^projector\.(layer_norms\.\d+|out_norm|qformer\.layers\.\d+\.(attn|mlp)_norm)\.(weight|bias)$"
)
KNOWN = (
    "known are the published NAR layouts: llm.* (first revision), language_model.* (later revision) and "
    "model.language_model.* (native port), each with a BPE head and a projector with window_positions"
)
PREPROCESSOR = {
    "feature_extractor_type": "GraniteSpeechNarFeatureExtractor",
    "sampling_rate": 16_000,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 80,
}


def load(
    source: str | Path,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    draft_lm: str | Path = "own",
) -> tuple[NarModel, NarConfig, Path]:
    """Read a checkpoint: a folder, a hub id or a bundled name -> the model in eval mode, its config and its folder.

    The config describes the model as loaded, so a first revision's BPE head is reported with vocabulary rows.
    `draft_lm` is the n-gram model that reads along while the draft is written: the checkpoint's "own" if it has one,
    "none", or a file. Raises `CheckpointError` when it is not one of the known layouts, or `ConfigError` when its
    numbers do not fit.
    """
    folder = resolve(source, revision)
    found = headers(folder)
    said = {name: tensor for tensors in found.values() for name, tensor in tensors.items()}
    promised = _canonical_tensors(said, folder)
    config = _read_config(folder, NATIVE in said)
    layers = {
        "encoder.layers.": config.encoder.num_layers,
        "projector.qformer.layers.": config.projector.num_layers,
        "language_model.model.layers.": config.text.num_hidden_layers,
    }
    check_layers(promised, layers, folder)
    with torch.device("meta"):
        model = NarModel(config)
    # What the headers promise is looked at first, as if it were the tensors: nothing is read that does not fit.
    _fit(promised, model, folder)
    tensors = to_dtype(_canonical_tensors(read_tensors(found), folder), dtype, folder)
    _fit(tensors, model, folder)
    model.load_state_dict(tensors, assign=True)
    check_preprocessor(folder)
    if untrusted.is_there(folder / heads.PUNCTUATION_HEAD):
        model.forms = heads.load_forms(folder / heads.PUNCTUATION_HEAD, config.text.hidden_size).to(dtype=dtype)
    if untrusted.is_there(folder / heads.LANGUAGE_HEAD):
        model.language = heads.load_language(folder / heads.LANGUAGE_HEAD, config.encoder.hidden_dim).to(dtype=dtype)
    model.eval().to(device)
    model.draft_lm = ngram.found(folder, draft_lm, config.text.vocab_size, device)
    return model, config, folder


def _fit(tensors: dict[str, Tensor], model: NarModel, folder: Path) -> None:
    """Bring tensors to the later layout, shape by shape that of the model; raises `CheckpointError`."""
    expected = model.state_dict()
    _move_blank_row(tensors, model.config, folder)
    _fill_implied(tensors, expected, model.config, folder)
    check(tensors, expected, folder)


def _canonical_tensors(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors under the names of the later layout; refuses what is none of the known layouts."""
    if untrusted.is_there(folder / ADAPTER):
        raise CheckpointError(
            f"{folder}: {ADAPTER} beside the weights of a NAR model would count for nothing; merge it into them "
            "(peft: merge_and_unload), or take it away"
        )
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in RENAMES:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise CheckpointError(f"{folder}: two tensors are both {new}; layouts are mixed")
        renamed[new] = tensor
    absent = [marker for marker in MARKERS if marker not in renamed]
    if absent:
        prefixes = sorted({".".join(name.split(".")[:2]) for name in tensors})
        raise CheckpointError(
            f"{folder}: not a NAR checkpoint: no {', '.join(absent)} among {len(tensors)} tensors "
            f"({', '.join(prefixes[:8])}{', ...' if len(prefixes) > 8 else ''}); {KNOWN}"
        )
    return renamed


def _read_config(folder: Path, native: bool) -> NarConfig:
    """The config in the published keys; the native port's keys, and values it leaves to be derived, are filled in."""
    values = untrusted.read_json(folder / "config.json")
    config_keys.check_nar(values)
    parts = [values.get(part) for part in ("encoder_config", "projector_config", "text_config")]
    if all(isinstance(part, Mapping) for part in parts):
        encoder, projector, text = ({k: v for k, v in part.items() if v is not None} for part in parts)  # type: ignore[union-attr]
        ends = text.get("eos_token_id", [])
        ends = ends if isinstance(ends, list) else [ends]
        defaults: dict[str, Any] = {"blank_token_id": ends[0]} if ends else {}
        if native:
            defaults |= {"frame_rule": "native", "min_edit_sequence_length": 1}
        if "encoder_layer_indices" in projector:
            defaults["encoder_layer_indices"] = projector["encoder_layer_indices"]
        if "cat_hidden_layers" in encoder:
            defaults["encoder_layer_indices"] = [*cat_layers(encoder["cat_hidden_layers"]), -1]
        for part, names in ((encoder, NATIVE_ENCODER), (projector, NATIVE_PROJECTOR)):
            for name, published in names.items():
                if name in part:
                    part.setdefault(published, part[name])
        if "hidden_dim" in encoder and "num_heads" in encoder:
            encoder.setdefault("dim_head", encoder["hidden_dim"] // encoder["num_heads"])
        if "num_layers" in encoder:
            encoder.setdefault("self_conditioning_layer", encoder["num_layers"] // 2)
        if "hidden_dim" in encoder:
            projector.setdefault("encoder_dim", encoder["hidden_dim"])
        if "cat_hidden_layers" in encoder:
            projector.setdefault("num_encoder_layers", len(encoder["cat_hidden_layers"]) + 1)
        if "hidden_size" in text:
            projector.setdefault("llm_dim", text["hidden_size"])
        if "intermediate_size" in projector and "hidden_size" in projector:
            projector.setdefault("mlp_ratio", projector["intermediate_size"] // projector["hidden_size"])
        values = defaults | {key: value for key, value in values.items() if value is not None}
        encoder["blank_token_id"] = values.get("blank_token_id", NarConfig.blank_token_id)
        values |= {"encoder_config": encoder, "projector_config": projector, "text_config": text}
    config = NarConfig.from_dict(values)
    return replace(config, encoder=replace(config.encoder, bpe_output_dim=config.text.vocab_size))


def _move_blank_row(tensors: dict[str, Tensor], config: NarConfig, folder: Path) -> None:
    """Turn a first-revision BPE head into the later one: row t + 1 becomes row t, row 0 the row of the blank.

    The first revision's own row for the blank's id goes: it could only write a token that is never part of a text.
    """
    vocab = config.text.vocab_size
    rows = next(iter(tensors["encoder.out_bpe.weight"].shape), 0)
    if rows not in (vocab, vocab + 1):
        raise CheckpointError(
            f"{folder}: the BPE head has {rows} rows; known are {vocab} (later revision: one per token) and "
            f"{vocab + 1} (first revision: blank, then one per token)"
        )
    if rows == vocab + 1:
        for name in ("encoder.out_bpe.weight", "encoder.out_bpe.bias"):
            if name in tensors and tensors[name].dim() and len(tensors[name]) == rows:
                old = tensors[name]
                tensors[name] = old[1:].clone()
                tensors[name][config.blank_token_id] = old[0]


def _fill_implied(tensors: dict[str, Tensor], expected: Mapping[str, Tensor], config: NarConfig, folder: Path) -> None:
    """Add what a layout may leave out without loss, and drop a head that only repeats the tied embeddings."""
    for name in expected:
        if name.endswith(".num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
    norms = [name for name in expected if PROJECTOR_NORM.match(name)]
    if not any(name in tensors for name in norms):  # the native port: these norms were found to be the identity
        dtype = tensors["projector.window_positions"].dtype
        for name in norms:
            fill = torch.ones if name.endswith("weight") else torch.zeros
            tensors[name] = fill(expected[name].shape, dtype=dtype)
    head = "language_model.lm_head.weight"
    copy = tensors.pop(head, None) if config.text.tie_word_embeddings else None
    embeddings = tensors["language_model.model.embed_tokens.weight"]
    if copy is not None and (copy.shape != embeddings.shape or not (copy.is_meta or torch.equal(copy, embeddings))):
        raise CheckpointError(f"{folder}: config.json ties the word embeddings, but {head} differs from them")


def save(
    folder: str | Path,
    model: NarModel,
    tokenizer: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Path:
    """Write a model and its `tokenizer.json` in the later published layout; all of it appears at once, or nothing.

    Its `draft_lm`, `forms` and `language`, where it has them, go into files of their own beside the weights.

    A folder that is there already is refused, or with `overwrite` replaced as a whole if it is a checkpoint.
    Raises `CheckpointError`, also when a number is beyond the range of `dtype`.
    """
    config = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}

    def extra(new: Path) -> None:
        if model.forms is not None:
            heads.save(model.forms, new / heads.PUNCTUATION_HEAD, MARKS[1:])
        if model.language is not None:
            heads.save(model.language, new / heads.LANGUAGE_HEAD, model.language.languages)
        if model.draft_lm is not None:
            model.draft_lm.save(new)
        shutil.copyfile(tokenizer, new / "tokenizer.json")

    described = {"config.json": config, "preprocessor_config.json": PREPROCESSOR}
    tensors = weights(model, dtype, without=("forms.", "language."))
    return write(folder, tensors, described, extra, overwrite=overwrite)
