"""The folder of a checkpoint: where it is, what is in it, and how a new one appears whole or not at all.

Only JSON, safetensors and text are read or downloaded: no pickle, no code, and `auto_map` is ignored.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from redline.errors import CheckpointError

ASSETS = Path(__file__).parent.parent / "assets"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
"""What is downloaded from a hub."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        wanted = f"{name} (revision {revision})" if revision else name
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{wanted}: not a local folder, and not to be had from the hub or its cache: {first_line} "
            "Check the name and the network, or download it once while online."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises `CheckpointError` when there is none."""
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
    weight_map = read_json(folder / INDEX).get("weight_map")
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


def read_tensors(folder: Path) -> list[tuple[str, Tensor]]:
    """Every tensor of the weight files, with its name; raises `CheckpointError` when one cannot be read."""
    tensors: list[tuple[str, Tensor]] = []
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                tensors += [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors


def check(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
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
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        save_file(dict(tensors), new / WEIGHTS, metadata={"format": "pt"})
        for name, values in files.items():
            text = values if isinstance(values, str) else json.dumps(values, indent=2) + "\n"
            (new / name).write_text(text, encoding="utf-8")
        extra(new)
        for file in new.iterdir():  # safetensors lets only the owner read what it writes
            file.chmod(new.stat().st_mode & 0o666)
        old = target.rename(Path(temporary) / "old") if target.exists() else None
        try:
            new.rename(target)
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
