"""Checkpoints: `config.json` + safetensors <-> `NarEditor`.

The published NAR model exists in several layouts. They are told apart by the tensors inside, never by a name:

    first revision   llm.model.*                  BPE head of vocabulary + 1 rows: row 0 blank, token = row - 1
    later revision   language_model.model.*       BPE head of vocabulary rows, blank = blank_token_id
    native port      model.language_model.*       as the later one, other names, projector norms without weights

Everything is turned into the later layout, which is also what `save` writes. Only JSON and safetensors are read: no
pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redline.errors import CheckpointError
from redline.forms import MARKS
from redline.models import heads, ngram
from redline.models.config import NarConfig
from redline.models.editor import NarEditor

ASSETS = Path(__file__).parent.parent / "assets"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

RENAMES = (  # applied in order to every tensor name
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.out_bpe\.", "encoder.out_bpe."),
    (r"^model\.(encoder|projector)\.", r"\1."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^llm\.", "language_model."),
    (r"^projector\.qformer\.window_positions$", "projector.window_positions"),
    (r"^projector\.linear\.", "projector.out_linear."),
    (r"^(projector\.qformer\.layers\.\d+)\.o_proj\.", r"\1.cross_attention.o_proj."),
    (r"\.cross_attention\.query\.", ".cross_attention.q_proj."),
    (r"\.cross_attention\.key\.", ".cross_attention.k_proj."),
    (r"\.cross_attention\.value\.", ".cross_attention.v_proj."),
)
MARKERS = (  # present, after renaming, in every layout that can be read
    "encoder.out_bpe.weight",
    "projector.window_positions",
    "language_model.model.embed_tokens.weight",
)
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
) -> tuple[NarEditor, NarConfig, Path]:
    """Read a checkpoint: a folder, a hub id or a bundled name -> the model in eval mode, its config and its folder.

    The config describes the model as loaded, so a first revision's BPE head is reported with vocabulary rows.
    `draft_lm` is the n-gram model that reads along while the draft is written: the checkpoint's "own" if it has one,
    "none", or a file. Raises `CheckpointError` when it is not one of the known layouts, or `ConfigError` when its
    numbers do not fit.
    """
    folder = resolve(source, revision)
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in _read(folder)}
    tensors = _canonical_tensors(tensors, folder)
    config = _read_config(folder)
    _move_blank_row(tensors, config, folder)
    with torch.device("meta"):
        model = NarEditor(config)
    expected = model.state_dict()
    _fill_implied(tensors, expected, config, folder)
    _check(tensors, expected, folder)
    model.load_state_dict(tensors, assign=True)
    if (folder / heads.FORMS).is_file():
        model.forms = heads.load_forms(folder / heads.FORMS, config.text.hidden_size).to(dtype=dtype)
    if (folder / heads.LANGUAGE).is_file():
        model.language = heads.load_language(folder / heads.LANGUAGE, config.encoder.hidden_dim).to(dtype=dtype)
    model.eval().to(device)
    model.draft_lm = _draft_lm(folder, draft_lm, config.text.vocab_size)
    if model.draft_lm is not None:
        model.draft_lm.to(device)
    return model, config, folder


def _draft_lm(folder: Path, wanted: str | Path, vocab_size: int) -> ngram.NgramLM | None:
    if wanted == "none" or (wanted == "own" and not (folder / ngram.NAME).is_file()):
        return None
    return ngram.NgramLM.load(folder / ngram.NAME if wanted == "own" else Path(wanted), vocab_size)


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a bundled name, a local folder or a hub id, in that order.

    A hub id is downloaded or taken from the cache (JSON, safetensors and text files only); `HF_HUB_OFFLINE` is
    respected. A `Path` is always a folder. Raises `CheckpointError`.
    """
    name = str(source)
    bundled = bundled_names()
    is_bundled = isinstance(source, str) and name in bundled
    if is_bundled or Path(name).is_dir():
        if revision is not None:
            raise CheckpointError(f"{name}: a revision ({revision}) only makes sense for a hub id; leave it out")
        return ASSETS / name if is_bundled else Path(name)
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _download(name, revision)
    raise CheckpointError(
        f"{name}: no such folder; give a folder, a hub id such as owner/name, "
        f"or a bundled model ({', '.join(bundled) or 'none in this installation'})"
    )


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        wanted = f"{name} (revision {revision})" if revision else name
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{wanted}: not a local folder, and not to be had from the hub or its cache: {first_line} "
            "Check the name and the network, or download it once while online."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); a checkpoint needs it") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON {type(values).__name__}; an object is needed")
    return values


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in a fixed order."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        seen = f"only pickle weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise CheckpointError(f"{folder}: {seen}; {WEIGHTS} is needed, or {INDEX} with its shards")
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: no weight_map; it must name the shard of every tensor")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        # The name alone is judged: files of a hub cache are links that lead out of the folder by design.
        if not re.fullmatch(r"\w[\w.-]*\.safetensors", shard):
            raise CheckpointError(f"{folder / INDEX}: shard {shard!r}; only .safetensors files beside it are allowed")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder}: shard {shard} is missing; download the checkpoint again")
    return [folder / shard for shard in shards]


def _read(folder: Path) -> list[tuple[str, Tensor]]:
    tensors: list[tuple[str, Tensor]] = []
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                tensors += [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors


def _canonical_tensors(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Tensors under the names of the later layout; refuses what is none of the known layouts."""
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


def _read_config(folder: Path) -> NarConfig:
    """The config in the published keys; the native port's keys, and values it leaves to be derived, are filled in."""
    values = _read_json(folder / "config.json")
    parts = [values.get(part) for part in ("encoder_config", "projector_config", "text_config")]
    if all(isinstance(part, Mapping) for part in parts):
        encoder, projector, text = ({k: v for k, v in part.items() if v is not None} for part in parts)  # type: ignore[union-attr]
        defaults = {"blank_token_id": text["eos_token_id"]} if "eos_token_id" in text else {}
        if "cat_hidden_layers" in encoder:
            defaults["encoder_layer_indices"] = [*encoder["cat_hidden_layers"], -1]
        if "hidden_dim" in encoder and "num_heads" in encoder:
            encoder.setdefault("dim_head", encoder["hidden_dim"] // encoder["num_heads"])
        if "num_layers" in encoder:
            encoder.setdefault("self_conditioning_layer", encoder["num_layers"] // 2)
        if "hidden_size" in text:
            projector.setdefault("llm_dim", text["hidden_size"])
        if "num_attention_heads" in projector:
            projector.setdefault("num_heads", projector["num_attention_heads"])
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
    rows = len(tensors["encoder.out_bpe.weight"])
    if rows not in (vocab, vocab + 1):
        raise CheckpointError(
            f"{folder}: the BPE head has {rows} rows; known are {vocab} (later revision: one per token) and "
            f"{vocab + 1} (first revision: blank, then one per token)"
        )
    if rows == vocab + 1:
        for name in ("encoder.out_bpe.weight", "encoder.out_bpe.bias"):
            if name in tensors:
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
    if copy is not None and not torch.equal(copy, tensors["language_model.model.embed_tokens.weight"]):
        raise CheckpointError(f"{folder}: config.json ties the word embeddings, but {head} differs from them")


def _check(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Strictness: every tensor is there, no other, each of the right shape."""
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(tensors.keys() & expected.keys())
        if tensors[name].shape != expected[name].shape
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": shapes,
    }
    found = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise CheckpointError(f"{folder}: the tensors do not fit config.json; {'; '.join(found)}")


def save(
    folder: str | Path,
    model: NarEditor,
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
    target = Path(folder)
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not (overwrite and (target / "config.json").is_file() and (target / WEIGHTS).is_file()):
        raise CheckpointError(
            f"{target}: already there; choose another folder"
            + (" (only a checkpoint is ever replaced)" if overwrite else " or allow overwriting")
        )
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(("forms.", "language."))
    }
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{target}: not finite as {dtype}: {', '.join(broken[:5])}; nothing was written")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        config = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
        for name, values in {"config.json": config, "preprocessor_config.json": PREPROCESSOR}.items():
            (new / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if model.forms is not None:
            heads.save(model.forms, new / heads.FORMS, MARKS[1:])
        if model.language is not None:
            heads.save(model.language, new / heads.LANGUAGE, model.language.languages)
        if model.draft_lm is not None:
            model.draft_lm.save(new)
        shutil.copyfile(tokenizer, new / "tokenizer.json")
        old = target.rename(Path(temporary) / "old") if target.exists() else None
        try:
            new.rename(target)
        except OSError:
            if old is not None:
                old.rename(target)
            raise
    return target
