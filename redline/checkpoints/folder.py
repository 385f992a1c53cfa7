"""The folder of a checkpoint: where it is, what is in it, and how a new one appears whole or not at all.

Only JSON, safetensors and text are read or downloaded: no pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from redline import tensor_file, untrusted
from redline.checkpoints.shared import WEIGHTS, shared_part
from redline.errors import CheckpointError, ConfigError
from redline.files import folder_beside, settle
from redline.quantization import SCALE, dequantized, quantized

ASSETS = Path(__file__).parent.parent / "assets"
INDEX = "model.safetensors.index.json"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
"""What is downloaded from a hub."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
EXTRA_HEADS = ("draft_head.", "punctuation_head.", "language_head.")
"""Parts of models that have files of their own beside the weights."""
FEATURES = {"sampling_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}
"""What every `preprocessor_config.json` that is written says."""
_M = TypeVar("_M", bound=nn.Module)
_C = TypeVar("_C")


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


def is_quantized(folder: Path) -> bool:
    """Whether matrices of a checkpoint are int8 on disk."""
    stored = (tensor_file.read_header(path)[0] for path, _ in _weight_files(folder))
    return any(tensor.dtype == torch.int8 for header in stored for tensor in header.values())


def headers(folder: Path) -> dict[Path, dict[str, Tensor]]:
    """What the weight files say is in them, without reading it: tensors on "meta" by name, file by file.

    Of an encoder that is shared the digest is compared.
    Raises `CheckpointError` for a file that is damaged, and where a tensor is in two files or not where the index says.
    """
    files: dict[Path, dict[str, Tensor]] = {}
    home: dict[str, Path] = {}
    sources = [(path, tensor_file.read_header(path)[0], wanted) for path, wanted in _weight_files(folder)]
    if encoder := shared_part(folder, "encoder"):
        sources.append((*encoder, None))
    for path, stored, wanted in sources:
        files[path] = dequantized(stored, path)
        for name, tensor in files[path].items():
            if name in home:
                raise CheckpointError(f"{folder}: {name} is both in {home[name].name} and in {path.name}; remove one")
            home[name] = path
            if not (tensor.is_floating_point() or name.endswith(".num_batches_tracked")):
                raise CheckpointError(
                    f"{path}: {name} has numbers of type {tensor.dtype}; weights are float16, bfloat16 or float32, "
                    f"or int8 beside {name}_scale"
                )
        if wanted is not None and (absent := sorted(wanted - stored.keys())):
            raise CheckpointError(f"{path}: {absent[0]} is not in it, though {INDEX} says so; download it again")
    return files


def merged(headers: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for tensors in headers.values() for name, tensor in tensors.items()}


def read_weights(headers: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Every tensor of `headers`; raises `CheckpointError` when one cannot be read or is not finite."""
    files = {}
    for path, tensors in headers.items():
        stored, _ = tensor_file.read_header(path)
        wanted = {name: tensor for name, tensor in stored.items() if name.removesuffix(SCALE) in tensors}
        files[path] = dequantized(tensor_file.read_tensors(path, wanted), path)
    return merged(files)


def to_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, folder: Path) -> dict[str, Tensor]:
    """The tensors in one precision, by default each in its own; integers as they are.

    Raises `CheckpointError` where a number is beyond its range, and for a variance below 0, which has no root.
    """
    converted = {name: x.to(dtype) if dtype and x.is_floating_point() else x for name, x in tensors.items()}
    for name, tensor in converted.items():
        narrows = tensor.is_floating_point() and torch.finfo(tensors[name].dtype).max > torch.finfo(tensor.dtype).max
        if narrows and not tensor_file.finite(tensor):
            raise CheckpointError(f"{folder}: {name} is beyond the range of {dtype}; choose bfloat16 or float32")
        if name.endswith(".running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{folder}: {name} is below 0 somewhere; a variance cannot be, the file is damaged")
    return converted


class NoInitialization(TorchFunctionMode):
    """Modules built within leave their weights as allocated, for those of a checkpoint take their place.

    Random numbers on "meta" would import PyTorch's compiler, which takes longer than the rest of loading a small model.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def planned(
    build: Callable[[_C], _M], config: _C, tensors: Mapping[str, Tensor], layers: Mapping[str, int], folder: Path
) -> _M:
    """A model on "meta", if there are as many layers as its config promises, by the prefix of their tensors.

    Raises `ConfigError` before anything is built: a model of a million layers is never made.
    """
    for prefix, count in layers.items():
        seen = {name[len(prefix) :].split(".", 1)[0] for name in tensors if name.startswith(prefix)}
        if len(seen) != count:
            raise ConfigError(f"{folder}: config.json promises {count} layers {prefix}*, the weights have {len(seen)}")
    with torch.device("meta"), NoInitialization():
        return build(config)


def check_tensors(tensors: dict[str, Tensor], model: nn.Module, folder: Path) -> None:
    """Strictness: every tensor is there, no other, each of the right shape; raises `CheckpointError`.

    The counters of batch norms, which a file may leave out, are added.
    """
    needs = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in needs:
        if name.endswith(".num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
    has = {name: list(tensor.shape) for name, tensor in tensors.items()}
    differ = (name for name in needs.keys() & has.keys() if needs[name] != has[name])
    problems = {
        "missing": needs.keys() - has.keys(),
        "unexpected": has.keys() - needs.keys(),
        "of another shape": {f"{name} {has[name]} instead of {needs[name]}" for name in differ},
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
    weights: Mapping[str, Tensor],
    configs: Mapping[str, Mapping[str, Any]],
    tokenizer: str | Path,
    extra: Callable[[Path], None],
    *,
    dtype: torch.dtype,
    int8: bool = False,
    overwrite: bool,
) -> Path:
    """Make a checkpoint of weights by name, JSON objects by file name, a tokenizer, and what `extra` puts beside them.

    With `int8` matrices take a byte a number (`redline.quantization`), everything else `dtype`.
    All of it appears at once, or nothing. A folder that is there already is refused, or with `overwrite` replaced as a
    whole if it is a checkpoint. Raises `CheckpointError`, also when a number is beyond the range of `dtype`.
    """
    target = Path(folder)
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not (overwrite and (target / "config.json").is_file() and (target / WEIGHTS).is_file()):
        remedy = " (only a checkpoint is ever replaced)" if overwrite else " or allow overwriting"
        raise CheckpointError(f"{target}: already there; choose another folder{remedy}")
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in weights.items()
        if not name.startswith(EXTRA_HEADS)
    }
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{target}: not finite as {dtype}: {', '.join(broken[:5])}; nothing was written")
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(target) as temporary:
        new = temporary / "new"
        new.mkdir()
        save_file(quantized(tensors) if int8 else tensors, new / WEIGHTS, metadata={"format": "pt"})
        for name, values in configs.items():
            (new / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(tokenizer, new / "tokenizer.json")
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
