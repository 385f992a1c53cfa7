"""NAR checkpoints: `config.json` + safetensors <-> `NarModel`.

The published NAR model exists in several layouts. They are told apart by the tensors inside, never by a name:

    first revision   llm.model.*                  BPE head of vocabulary + 1 rows: row 0 blank, token = row - 1
    later revision   language_model.model.*       BPE head of vocabulary rows, blank = blank_token_id
    native port      model.language_model.*       as the later one, other names, projector norms without weights,
                                                  its own front end and no least number of slots

Everything is turned into the later layout, which `save_nar` writes, too; docs/checkpoints.md has the details. Only
JSON and safetensors are read: no pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from redline import untrusted
from redline.checkpoints import folder as folders
from redline.checkpoints import heads
from redline.checkpoints.config_keys import check_preprocessor, read_nar_config
from redline.checkpoints.draft_lm import save_draft_lm
from redline.checkpoints.layouts import EMBEDDINGS, LM_HEAD, NAR_LAYOUT
from redline.decoding.ngram import NgramLM
from redline.errors import CheckpointError
from redline.models.config import NarConfig
from redline.models.nar import NarModel

ADAPTER = "adapter_model.safetensors"
NATIVE = "model.out_bpe.weight"
"""Only the native port has its BPE head here."""
PROJECTOR_NORM = re.compile(
    r"^projector\.(layer_norms\.\d+|out_norm|qformer\.layers\.\d+\.(attn|mlp)_norm)\.(weight|bias)$"
)


def load_nar(
    source: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> tuple[NarModel, NarConfig, Path]:
    """Read a checkpoint: a folder, a hub id or a bundled name -> the model in eval mode, its config and its folder.

    The config describes the model as loaded, so a first revision's BPE head is reported with vocabulary rows. Raises
    `CheckpointError` when it is not one of the known layouts, or `ConfigError` when its numbers do not fit.
    """
    folder = folders.resolve(source)
    if untrusted.is_there(folder / ADAPTER):
        raise CheckpointError(
            f"{folder}: {ADAPTER} beside the weights of a NAR model would count for nothing; merge it into them "
            "(peft: merge_and_unload), or take it away"
        )
    files = folders.headers(folder)
    header = folders.merged(files)
    promised = NAR_LAYOUT.canonical(header, folder)
    config = read_nar_config(untrusted.read_json(folder / "config.json"), native=NATIVE in header)
    layers = {
        "encoder.layers.": config.encoder.num_layers,
        "projector.qformer.layers.": config.projector.num_layers,
        "language_model.model.layers.": config.text.num_hidden_layers,
    }
    model = folders.planned(NarModel, config, promised, layers, folder)
    # What the headers promise is looked at first, as if it were the tensors: nothing is read that does not fit.
    _fit(promised, model, folder)
    tensors = NAR_LAYOUT.canonical(folders.read_weights(files), folder)
    _fit(tensors, model, folder)
    model.load_state_dict(folders.to_dtype(tensors, dtype, folder), assign=True)
    check_preprocessor(folder)
    if untrusted.is_there(folder / heads.PUNCTUATION_HEAD):
        model.punctuation_head = heads.load_punctuation_head(folder, config.text.hidden_size)
    if untrusted.is_there(folder / heads.LANGUAGE_HEAD):
        model.language_head = heads.load_language_head(folder, config.encoder.hidden_dim)
    return model.eval().to(device, dtype), config, folder


def _fit(tensors: dict[str, Tensor], model: NarModel, folder: Path) -> None:
    """Bring tensors to the later layout, shape by shape that of the model; raises `CheckpointError`."""
    _settle_blank(tensors, model.config, folder)
    _fill_norms(tensors, model)
    copy = tensors.pop(LM_HEAD, None) if model.config.text.tie_word_embeddings else None
    embeddings = tensors[EMBEDDINGS]
    if copy is not None and (copy.shape != embeddings.shape or not (copy.is_meta or torch.equal(copy, embeddings))):
        raise CheckpointError(f"{folder}: config.json ties the word embeddings, but {LM_HEAD} differs from them")
    folders.check_tensors(tensors, model, folder)


def _settle_blank(tensors: dict[str, Tensor], config: NarConfig, folder: Path) -> None:
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
    for name in ("encoder.out_bpe.weight", "encoder.out_bpe.bias"):
        old = tensors.get(name)
        if rows == vocab + 1 and old is not None and old.dim() and len(old) == rows:
            tensors[name] = old[1:].clone()
            tensors[name][config.blank_token_id] = old[0]


def _fill_norms(tensors: dict[str, Tensor], model: NarModel) -> None:
    """The projector norms that the native port leaves out, because they are the identity."""
    norms = {name: tensor for name, tensor in model.state_dict().items() if PROJECTOR_NORM.match(name)}
    if not norms.keys() & tensors.keys():
        dtype = tensors["projector.window_positions"].dtype
        for name, norm in norms.items():
            fill = torch.ones if name.endswith("weight") else torch.zeros
            tensors[name] = fill(norm.shape, dtype=dtype)


def save_nar(
    folder: str | Path,
    model: NarModel,
    tokenizer: str | Path,
    draft_lm: NgramLM | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model and its `tokenizer.json` in the later published layout, as `folder.write` does.

    Its extra heads and its n-gram LM, where there are some, go into files of their own beside the weights.
    """

    def extra(new: Path) -> None:
        if model.punctuation_head is not None:
            heads.save_punctuation_head(model.punctuation_head, new)
        if model.language_head is not None:
            heads.save_language_head(model.language_head, new)
        if draft_lm is not None:
            save_draft_lm(draft_lm, new)

    configs = {
        "config.json": model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")},
        "preprocessor_config.json": {"feature_extractor_type": "GraniteSpeechNarFeatureExtractor"} | folders.FEATURES,
    }
    return folders.write(
        folder, model.state_dict(), configs, tokenizer, extra, dtype=dtype, int8=int8, overwrite=overwrite
    )
