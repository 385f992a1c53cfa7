"""A safetensors file: its header is read and checked before any tensor is, and tensors with NaN are refused.

    8 bytes    length of the header, little-endian
    header     JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}, and "__metadata__"
    the rest   the tensors, one behind the other without gaps

A tensor of the header alone is one on the device "meta": it has everything but numbers, and takes no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from redline import untrusted
from redline.errors import CheckpointError

_M = TypeVar("_M", bound=nn.Module)
MAX_HEADER = 2 << 20
"""Bytes; the published checkpoints of 946 tensors have about 0.1 MiB."""
MAX_DIMS = 8
MAX_NAME = 200
PART = 1 << 20
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What may be in a file; others, of eight bits or complex, are refused by name."""


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is in a file: tensors on "meta" by name, and its metadata; raises `CheckpointError`."""
    size = untrusted.regular(path).stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if MAX_HEADER < length <= size - 8:
                raise CheckpointError(f"{path}: a header of {length} bytes; at most {MAX_HEADER} are read")
            with _opened(path):  # it judges every entry, where the tensors lie, and whether the file ends with the last
                header = untrusted.parse_json_object(file.read(length).decode("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    metadata = header.pop("__metadata__", None) or {}
    return {name: _tensor(name, entry["dtype"], entry["shape"], path) for name, entry in header.items()}, metadata


def _tensor(name: str, dtype: str, shape: list[int], path: Path) -> Tensor:
    if not 0 < len(name) <= MAX_NAME:
        raise CheckpointError(f"{path}: a tensor's name of {len(name)} characters; 1 to {MAX_NAME} are allowed")
    if dtype not in SAFETENSORS_DTYPES:
        known = ", ".join(SAFETENSORS_DTYPES)
        raise CheckpointError(f"{path}: {name} has numbers of type {dtype[:32]!r}; known are {known}")
    if len(shape) > MAX_DIMS or math.prod(max(size, 1) for size in shape) >= 2**62:
        raise CheckpointError(f"{path}: {name} has the shape {str(shape)[:80]}; up to {MAX_DIMS} sizes are allowed")
    return torch.empty(shape, dtype=SAFETENSORS_DTYPES[dtype], device="meta")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({str(error)[:200]})") from error


def read_tensors(path: Path, header: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file's header names; raises `CheckpointError` where numbers are not finite."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in header}
    for name, tensor in tensors.items():
        if not finite(tensor):
            kind = "NaN" if tensor.isnan().any() else "infinity"
            raise CheckpointError(f"{path}: {name} has {kind} in it; the file is damaged, or training had failed")
    return tensors


def stored_bytes(path: Path, header: Mapping[str, Tensor]) -> Iterator[tuple[str, memoryview]]:
    """The bytes of each tensor that a file's header names, in the order of the header."""
    with _opened(path) as file:
        for name in header:
            yield name, file.get_tensor(name).reshape(-1).view(torch.uint8).numpy().data


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a small file and its metadata, checked like the header; raises `CheckpointError`."""
    header, metadata = read_header(path)
    return read_tensors(path, header), metadata


def finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; true of integers."""
    if not tensor.is_floating_point():
        return True
    # A sum of finite numbers can overflow, but one with NaN or infinity in it is never finite. In parts, because a
    # whole matrix in float32 would double the memory.
    parts = tensor.flatten().split(PART)
    return all(bool(part.float().sum().isfinite()) or bool(part.isfinite().all()) for part in parts)


def save_head(tensors: Mapping[str, Tensor], path: Path, rows: Sequence[str]) -> Path:
    """Write the tensors of an extra head; `rows` says what its rows mean."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": f"redline {path.stem} 1", "rows": " ".join(rows)})
    return path


def load_head(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of an extra head's file, and what its rows mean; raises `CheckpointError`."""
    tensors, metadata = load_tensors(path)
    expected = f"redline {path.stem} 1"
    if metadata.get("format") != expected:
        raise CheckpointError(f"{path}: format is {metadata.get('format')!r:.80}; {expected!r} can be read")
    return tensors, tuple(metadata.get("rows", "").split())


def fill(build: Callable[[], _M], tensors: Mapping[str, Tensor], path: Path) -> _M:
    """A head with these tensors in float32, in eval mode; raises `CheckpointError` where one is off."""
    with torch.device("meta"):
        head = build()
    expected = {name: list(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected or not all(tensor.is_floating_point() for tensor in tensors.values()):
        kinds = {name: f"{str(tensor.dtype).removeprefix('torch.')} {shapes[name]}" for name, tensor in tensors.items()}
        width = next(head.parameters()).shape[-1]
        raise CheckpointError(f"{path}: does not fit a model of width {width}: it has {kinds}; floats {expected} fit")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return head.eval()
