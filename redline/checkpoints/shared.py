"""Parts that a checkpoint shares with one in the folder beside it: an encoder, n-grams of drafts.

`shared.json` names that folder, and a SHA-256 of each part that is there and not here:

    {"folder": "tiny", "encoder": "9f86d0...", "draft_lm": "60303a..."}

Whatever else is in those files may change. What writes a model writes all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from torch import Tensor

from redline import tensor_file, untrusted
from redline.errors import CheckpointError

SHARED = "shared.json"
WEIGHTS = "model.safetensors"
DRAFT_LM = "draft_lm.safetensors"
SHARED_PARTS = {"encoder": (WEIGHTS, r"encoder\.(?!out_bpe\.).*"), "draft_lm": (DRAFT_LM, ".*")}
"""What can be shared: its file, and the names of its tensors; not the token head of a model that edits."""


def shared_part(folder: Path, part: str) -> tuple[Path, dict[str, Tensor]] | None:
    """The file of a part that a checkpoint shares, and its tensors on "meta"; None where it has its own or none.

    Raises `CheckpointError` where the file is not there, or has another part than it had.
    """
    path = folder / SHARED
    if not untrusted.is_there(path):
        return None
    values = untrusted.read_json(path)
    other, known = str(values.get("folder")), {"folder", *SHARED_PARTS}
    if values.keys() - known or not all(re.fullmatch(r"\w[\w.-]{0,99}", str(value), re.A) for value in values.values()):
        raise CheckpointError(
            f"{path}: has {str(values)[:200]}; allowed are the name of a folder beside this one as `folder`, "
            f"and SHA-256 digests as {' and '.join(SHARED_PARTS)}"
        )
    if part not in values:
        return None
    here, file = folder.resolve(), SHARED_PARTS[part][0]
    home = here.parent / other
    if home == here or home.is_symlink():
        raise CheckpointError(f"{path}: folder is {other!r}; another folder beside this one is needed, not a link")
    if not untrusted.is_there(home / file):
        raise CheckpointError(
            f"{folder}: its {part} is in {file} of the folder {other!r} beside it, and {home / file} is not there; "
            "copy both folders, or load it where it is and save it again, which writes all of it"
        )
    digest, tensors = part_digest(home / file, part)
    if digest != values[part]:
        raise CheckpointError(
            f"{home / file}: its {part} is not the one that {folder} was made for (SHA-256 {digest[:12]}..., not "
            f"{str(values[part])[:12]}...); put back the file of the same release"
        )
    return home / file, tensors


def part_digest(path: Path, part: str) -> tuple[str, dict[str, Tensor]]:
    """SHA-256 of a part in a file: names, types, shapes and numbers as they are stored -> it and the tensors on "meta".

    That of n-grams is also of the options beside them. Raises `CheckpointError`.
    """
    header, metadata = tensor_file.read_header(path)
    taken = {name: header[name] for name in sorted(header) if re.fullmatch(SHARED_PARTS[part][1], name)}
    digest = hashlib.sha256(json.dumps(metadata if part == "draft_lm" else {}, sort_keys=True).encode())
    for name, stored in tensor_file.stored_bytes(path, taken):
        digest.update(json.dumps([name, str(taken[name].dtype), list(taken[name].shape)]).encode())
        digest.update(stored)
    return digest.hexdigest(), taken
