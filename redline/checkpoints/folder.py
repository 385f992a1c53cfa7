"""The folder of a checkpoint: where it is, what is in it, and how a new one appears whole or not at all.

Only JSON, safetensors and text are read or downloaded: no pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from redline import tensor_file, untrusted
from redline.checkpoints.config_keys import check_preprocessor_keys
from redline.errors import CheckpointError, ConfigError
from redline.files import folder_beside, settle

ASSETS = Path(__file__).parent.parent / "assets"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
"""What is downloaded from a hub."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a bundled name, a local folder or a hub id, in that order.

    A hub id is downloaded or taken from the cache (JSON, safetensors and text files only); `HF_HUB_OFFLINE` is
    respected. A `Path` is always a folder. Raises `CheckpointError`.
    """
    name, bundled = str(source), bundled_names()
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
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        wanted = f"{name} (revision {revision})" if revision else name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{wanted}: not a local folder, and not to be had from the hub or its cache: {reason} "
            "Check the name and the network, or download it once while online."
        ) from error


def _weight_files(folder: Path) -> list[tuple[Path, set[str] | None]]:
    """The safetensors files of a checkpoint in a fixed order, and the tensors that the index says are in each."""
    if untrusted.is_there(folder / WEIGHTS):
        return [(folder / WEIGHTS, None)]
    if not untrusted.is_there(folder / INDEX):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        seen = f"only pickle weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise CheckpointError(f"{folder}: {seen}; {WEIGHTS} is needed, or {INDEX} with its shards")
    weight_map = untrusted.read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: no weight_map; it must name the shard of every tensor")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        # The name alone is judged here: where it leads is looked at when the shard is opened.
        if not isinstance(shard, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", shard):
            raise CheckpointError(f"{folder / INDEX}: shard {shard!r}; only .safetensors files beside it are allowed")
        shards.setdefault(shard, set()).add(name)
    for shard in shards:
        if not untrusted.is_there(folder / shard):
            raise CheckpointError(f"{folder}: shard {shard} is missing; download the checkpoint again")
    return [(folder / shard, shards[shard]) for shard in sorted(shards)]


def headers(folder: Path) -> dict[Path, dict[str, Tensor]]:
    """What the weight files say is in them, without reading it: tensors on "meta" by name, file by file.

    Raises `CheckpointError` for a file that is damaged, and where a tensor is in two files or not where the index says.
    """
    files: dict[Path, dict[str, Tensor]] = {}
    home: dict[str, Path] = {}
    for path, wanted in _weight_files(folder):
        files[path], _ = tensor_file.read_header(path)
        for name, tensor in files[path].items():
            if name in home:
                raise CheckpointError(f"{folder}: {name} is both in {home[name].name} and in {path.name}; remove one")
            home[name] = path
            if not (tensor.is_floating_point() or name.endswith(".num_batches_tracked")):
                raise CheckpointError(
                    f"{path}: {name} has numbers of type {tensor.dtype}; weights are float16, bfloat16 or float32"
                )
        if wanted is not None and (absent := sorted(wanted - files[path].keys())):
            raise CheckpointError(f"{path}: {absent[0]} is not in it, though {INDEX} says so; download it again")
    return files


def read_weights(headers: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Every tensor of `headers`; raises `CheckpointError` when one cannot be read or is not finite."""
    tensors: dict[str, Tensor] = {}
    for path, header in headers.items():
        tensors |= tensor_file.read_tensors(path, header)
    return tensors


def to_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype, folder: Path) -> dict[str, Tensor]:
    """The tensors in one precision, integers as they are.

    Raises `CheckpointError` where a number is beyond its range, and for a variance below 0, which has no root.
    """
    converted = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in converted.items():
        if tensor.dtype != tensors[name].dtype and not tensor_file.finite(tensor):
            raise CheckpointError(f"{folder}: {name} is beyond the range of {dtype}; choose bfloat16 or float32")
        if name.endswith(".running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{folder}: {name} is below 0 somewhere; a variance cannot be, the file is damaged")
    return converted


def check_layers(tensors: Iterable[str], promised: Mapping[str, int], folder: Path) -> None:
    """Whether there are as many layers as the config promises, by the prefix of their tensors; raises `ConfigError`.

    To be asked before a model is built: one of a million layers is never made.
    """
    names = list(tensors)
    for prefix, count in promised.items():
        seen = {name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix)}
        if len(seen) != count:
            raise ConfigError(f"{folder}: config.json promises {count} layers {prefix}*, the weights have {len(seen)}")


def check_preprocessor(folder: Path, window_size: int | None = None, downsample_rate: int | None = None) -> None:
    """Whether the features that a checkpoint asks for are those that are made here; raises `ConfigError`."""
    if untrusted.is_there(folder / PREPROCESSOR_FILE):
        check_preprocessor_keys(untrusted.read_json(folder / PREPROCESSOR_FILE), window_size, downsample_rate)


def fill_counters(tensors: dict[str, Tensor], expected: Iterable[str]) -> None:
    """Add the counters of batch norms, which a file may leave out."""
    for name in expected:
        if name.endswith(".num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Strictness: every tensor is there, no other, each of the right shape; raises `CheckpointError`."""
    shapes = {
        name: (list(tensors[name].shape), list(expected[name].shape)) for name in tensors.keys() & expected.keys()
    }
    problems = {
        "missing": expected.keys() - tensors.keys(),
        "unexpected": tensors.keys() - expected.keys(),
        "of another shape": {
            f"{name} {has} instead of {needs}" for name, (has, needs) in shapes.items() if has != needs
        },
    }
    messages = [
        f"{len(names)} {kind}: {', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in problems.items()
        if names
    ]
    if messages:
        raise CheckpointError(f"{folder}: the tensors do not fit config.json; {'; '.join(messages)}")


def write(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, Mapping[str, Any] | str],
    extra: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Path:
    """Make a checkpoint of tensors, JSON objects or texts by file name, and what `extra` puts beside them.

    All of it appears at once, or nothing. A folder that is there already is refused, or with `overwrite` replaced as a
    whole if it is a checkpoint. Raises `CheckpointError`, also when a number is not finite.
    """
    target = Path(folder)
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not (overwrite and (target / "config.json").is_file() and (target / WEIGHTS).is_file()):
        raise CheckpointError(
            f"{target}: already there; choose another folder"
            + (" (only a checkpoint is ever replaced)" if overwrite else " or allow overwriting")
        )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        dtype = tensors[broken[0]].dtype
        raise CheckpointError(f"{target}: not finite as {dtype}: {', '.join(broken[:5])}; nothing was written")
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(target) as temporary:
        new = temporary / "new"
        new.mkdir()
        save_file(dict(tensors), new / WEIGHTS, metadata={"format": "pt"})
        for name, values in files.items():
            text = values if isinstance(values, str) else json.dumps(values, indent=2) + "\n"
            (new / name).write_text(text, encoding="utf-8")
        extra(new)
        for file in new.iterdir():  # safetensors lets only the owner read what it writes
            file.chmod(new.stat().st_mode & 0o666)
        old = target.rename(temporary / "old") if target.exists() else None
        try:
            settle(new, target)
        except OSError:
            if old is not None:
                old.rename(target)
            raise
    return target


def weights(model: nn.Module, dtype: torch.dtype, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A model's tensors on the CPU in one precision, those left out whose names begin with one of `without`."""
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(without)
    }
