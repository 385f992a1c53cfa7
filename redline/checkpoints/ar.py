"""Checkpoints of the AR and Plus models: `config.json` + safetensors <-> `ArModel`.

Three namings are known; all are turned into the first:

    published        language_model.model.*          2B, 2B-Plus until v2604
    transformers 5   model.language_model.*          a leading `model.` everywhere, the head as lm_head.*
    v2610            language_model.model.model.*    2B-Plus since then: the decoder one level further down

LoRA adapters found among the weights, in `adapter_model.safetensors` or in both are merged into their matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from redline import tensor_file, untrusted
from redline.checkpoints import folder as folders
from redline.checkpoints.config_keys import ADAPTER_KEYS, check_keys, check_preprocessor, read_ar_config
from redline.checkpoints.draft_lm import find_draft_lm, save_draft_lm
from redline.checkpoints.heads import DRAFT_HEAD, load_draft_head, save_draft_head
from redline.checkpoints.layouts import AR_LAYOUT, EMBEDDINGS, LM_HEAD
from redline.decoding.ngram import NgramLM
from redline.diarize.embedder import SPEAKER_HEAD, SpeakerEmbedder, load_embedder, save_embedder
from redline.errors import CheckpointError
from redline.models.ar import ArModel
from redline.models.config import SPEECH_KINDS

GENERATION = "generation_config.json"
LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class ArCheckpoint(NamedTuple):
    """What a checkpoint of an AR or Plus model holds: the model in eval mode, whose config describes it as loaded."""

    model: ArModel
    trusts_draft: bool
    """Whether the encoder's draft is the text, words are aligned and speakers are clustered.

    For models whose language model makes more errors than their encoder.
    """
    draft_lm: NgramLM | None
    """The n-gram LM by which drafts are searched; without one they are greedy."""
    speaker_embedder: SpeakerEmbedder | None
    folder: Path


def is_ar(folder: Path) -> bool:
    """Whether the folder's `config.json` is that of an AR or Plus model."""
    return untrusted.read_json(folder / "config.json").get("model_type") in list(SPEECH_KINDS)


def load_ar(
    source: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    draft_lm: str | Path = "own",
) -> ArCheckpoint:
    """Read a checkpoint: a folder, a hub id or a bundled name.

    `draft_lm` is the checkpoint's "own" n-gram LM if it has one, "none", or a file. Raises `CheckpointError` when it is
    not an AR or Plus layout, or `ConfigError` when its numbers do not fit.
    """
    folder = folders.resolve(source)
    files = folders.headers(folder)
    promised = AR_LAYOUT.canonical(folders.merged(files), folder)
    values = _read_config(folder)
    if LM_HEAD not in promised and values.get("tie_word_embeddings") is False:
        raise CheckpointError(f"{folder}: config.json does not tie the word embeddings, but there is no {LM_HEAD}")
    # What the headers promise is looked at first, as if it were the tensors: nothing is read that does not fit.
    model = _fit(promised, values, folder)
    tensors = AR_LAYOUT.rename(folders.read_weights(files), folder)
    model = _fit(tensors, values, folder, model)
    config = model.config
    model.load_state_dict(folders.to_dtype(tensors, dtype, folder), assign=True)
    check_preprocessor(folder, window_size=config.window_size, downsample_rate=config.downsample_rate)
    embedder, lm, trusts_draft = None, None, False
    if untrusted.is_there(folder / SPEAKER_HEAD):
        embedder = load_embedder(folder / SPEAKER_HEAD).to(device, dtype)
    if untrusted.is_there(folder / DRAFT_HEAD):
        encoder, most_rows = config.encoder, config.text.vocab_size + 1
        head = load_draft_head(folder, encoder.hidden_dim, most_rows, encoder.bpe_pooling_window)
        model.draft_head, trusts_draft = head
        lm = find_draft_lm(folder, draft_lm, model.draft_head.blank)
    elif draft_lm not in ("own", "none"):
        raise CheckpointError(f"{folder}: no {DRAFT_HEAD}, so there is no draft for the n-grams of {draft_lm}")
    return ArCheckpoint(model.eval().to(device, dtype), trusts_draft, lm, embedder, folder)


def _read_config(folder: Path) -> dict[str, Any]:
    """The config, whose texts end at the tokens of a `generation_config.json`, too, where there is one."""
    values, path = untrusted.read_json(folder / "config.json"), folder / GENERATION
    text = values.get("text_config")
    more = untrusted.read_json(path).get("eos_token_id") if untrusted.is_there(path) else None
    if more is None or not isinstance(text, Mapping):
        return values
    given = [ids for ids in (text.get("eos_token_id"), more) if ids is not None]
    ends = [id for ids in given for id in (ids if isinstance(ids, list) else [ids])]
    return values | {"text_config": {**text, "eos_token_id": ends}}


def _fit(
    tensors: dict[str, Tensor], values: Mapping[str, Any], folder: Path, planned: ArModel | None = None
) -> ArModel:
    """Bring tensors to the published layout -> the model of just these shapes, on "meta": the planned one if it fits.

    Raises `CheckpointError`.
    """
    _merge_adapters(tensors, folder)
    head = tensors.get(LM_HEAD)
    # Headers do not tell whether two tensors are equal.
    tied = head is None or (not head.is_meta and torch.equal(head, tensors[EMBEDDINGS]))
    if tied:
        tensors.pop(LM_HEAD, None)
    elif head is not None and not head.is_meta:
        parts = [part for part in (values, values.get("text_config")) if isinstance(part, Mapping)]
        ties = [part.get("tie_word_embeddings") for part in parts]
        if True in ties and False not in ties:
            raise CheckpointError(f"{folder}: config.json ties the word embeddings, but {LM_HEAD} differs from them")
    config = read_ar_config(values, tied=tied)
    layers = {
        "encoder.layers.": config.encoder.num_layers,
        "projector.qformer.encoder.layer.": config.projector.num_hidden_layers,
        "language_model.model.layers.": config.text.num_hidden_layers,
    }
    if planned is None or planned.config != config:
        planned = folders.planned(ArModel, config, tensors, layers, folder)
    folders.check_tensors(tensors, planned, folder)
    return planned


def _merge_adapters(tensors: dict[str, Tensor], folder: Path) -> None:
    """Add each LoRA adapter's B @ A, scaled, to its matrix; in float32, then back to the matrix's precision."""
    if untrusted.is_there(folder / LORA):
        header, _ = tensor_file.read_header(folder / LORA)
        planned = all(tensor.is_meta for tensor in tensors.values())
        adapters = AR_LAYOUT.rename(header if planned else tensor_file.read_tensors(folder / LORA, header), folder)
        for name, tensor in sorted(adapters.items()):
            # `save_pretrained` of a model with an adapter writes it twice: with the weights, and in a file of its own.
            # A copy may be rounded to the precision of the other; of headers no more than shapes is known.
            other = tensors.setdefault(name, tensor)
            coarse = min(tensor.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
            same = tensor.shape == other.shape
            if not (same and (tensor.is_meta or torch.equal(tensor.to(coarse), other.to(coarse)))):
                raise CheckpointError(
                    f"{folder}: {name} is in the weights and in {LORA}, and they differ; remove the wrong one"
                )
    downs = [name for name in tensors if name.endswith(".lora_A.weight")]
    if not downs:
        if stray := [name for name in tensors if ".lora_" in name]:
            raise CheckpointError(f"{folder}: half an adapter: {stray[0]} has no lora_A")
        return
    if not untrusted.is_there(folder / LORA_CONFIG):
        raise CheckpointError(f"{folder}: adapters among the weights, but no {LORA_CONFIG} that tells their scale")
    settings = untrusted.read_json(folder / LORA_CONFIG)
    check_keys(settings, ADAPTER_KEYS, LORA_CONFIG)
    for name in downs:
        stem = name.removesuffix(".lora_A.weight")
        target, up = f"{stem}.weight", f"{stem}.lora_B.weight"
        if target not in tensors or up not in tensors:
            raise CheckpointError(f"{folder}: the adapter {name} has no {target if target not in tensors else up}")
        a, b, weight = tensors.pop(name).float(), tensors.pop(up).float(), tensors[target]
        shapes = [list(tensor.shape) for tensor in (a, b, weight)]
        rank = shapes[0][0] if a.dim() == b.dim() == weight.dim() == 2 else 0
        if not rank or shapes[1:] != [[len(weight), rank], [len(b), a.shape[1]]]:
            raise CheckpointError(f"{folder}: the adapter {name} has shapes {shapes}; A, B and B @ A are needed")
        if settings.get("lora_alpha") is None or settings.get("r", rank) != rank:
            raise CheckpointError(
                f"{folder}: {LORA_CONFIG} has lora_alpha {settings.get('lora_alpha')} and r {settings.get('r')}, "
                f"but {name} has {rank} rows; lora_alpha must be there, and r say the same"
            )
        scale = float(settings["lora_alpha"]) / (rank**0.5 if settings.get("use_rslora") else rank)
        tensors[target] = (weight.float() + scale * (b @ a)).to(weight.dtype)


def save_ar(
    folder: str | Path,
    model: ArModel,
    tokenizer: str | Path,
    draft_lm: NgramLM | None = None,
    speaker_embedder: SpeakerEmbedder | None = None,
    *,
    trusts_draft: bool = False,
    chat_template: str | None = None,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model, its `tokenizer.json` and what belongs to it in the published layout, as `folder.write` does."""

    def extra(new: Path) -> None:
        if chat_template is not None:
            (new / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        if model.draft_head is not None:
            save_draft_head(model.draft_head, new, dtype, trusts_draft)
        if draft_lm is not None:
            save_draft_lm(draft_lm, new)
        if speaker_embedder is not None:
            save_embedder(speaker_embedder, new / SPEAKER_HEAD)

    window, rate = model.config.window_size, model.config.downsample_rate
    configs = {
        "config.json": model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")},
        "preprocessor_config.json": {"feature_extractor_type": "GraniteSpeechFeatureExtractor"}
        | folders.FEATURES
        | {"projector_window_size": window, "projector_downsample_rate": rate},
    }
    return folders.write(
        folder, model.state_dict(), configs, tokenizer, extra, dtype=dtype, int8=int8, overwrite=overwrite
    )
