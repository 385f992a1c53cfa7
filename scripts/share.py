"""A copy of a checkpoint that takes its encoder, or its n-grams, from another in the folder beside it.

scripts/share.py runs/plus/model redline/assets/tiny redline/assets/tiny-plus

The encoders must be the same to within the rounding of half precision: what is used is the other's.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from redline.checkpoints.shared import SHARED, SHARED_PARTS, part_digest
from redline.errors import CheckpointError, RedlineError
from redline.quantization import dequantized

ROUNDING = 2.0**-9
"""Of the largest number of a tensor: what is written in half precision or a byte twice differs by less."""


def without(part: str, source: Path, lender: Path) -> dict[str, Tensor]:
    """The tensors of a file but those of a part; raises `CheckpointError` where the lender has another one."""
    tensors, theirs = load_file(source), load_file(lender)
    digest, taken = part_digest(lender, part)
    if part == "draft_lm" and part_digest(source, part)[0] != digest:
        raise CheckpointError(f"{source}: not the n-grams of {lender}; remove them, or do not share them")
    own = {name: tensor for name, tensor in tensors.items() if re.fullmatch(SHARED_PARTS[part][1], name)}
    mine, other = dequantized(own, source), dequantized({name: theirs[name] for name in taken}, lender)
    for name in sorted(mine.keys() | other.keys()):
        if not _same(mine.get(name), other.get(name)):
            raise CheckpointError(f"{source}: its {name} is not that of {lender}; only an equal {part} can be shared")
    return {name: tensor for name, tensor in tensors.items() if name not in own}


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return not a.numel() or float((a.float() - b.float()).abs().max()) <= ROUNDING * float(b.float().abs().max())


def share(source: Path, lender: Path, out: Path, parts: Sequence[str]) -> Path:
    """Write the copy; raises `CheckpointError` where something is in the way or differs."""
    if out.exists() or out.resolve().parent != lender.resolve().parent:
        raise CheckpointError(f"{out}: must be new, and in the same folder as {lender}")
    values, left = {"folder": lender.resolve().name}, {}
    for part in parts:
        file = SHARED_PARTS[part][0]
        left[file] = without(part, source / file, lender / file) if (source / file).exists() else {}
        values[part] = part_digest(lender / file, part)[0]
    out.mkdir()
    for path in source.iterdir():
        if path.name not in left:
            shutil.copyfile(path, out / path.name)
    for file, tensors in left.items():
        if tensors:
            save_file(tensors, out / file, metadata={"format": "pt"})
    (out / SHARED).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for path in out.iterdir():
        path.chmod(out.stat().st_mode & 0o666)
    return out


def main() -> int:
    """Write it, and say how large it was and is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of a whole checkpoint")
    parser.add_argument("lender", type=Path, help="folder of the checkpoint that has the same encoder")
    parser.add_argument("out", type=Path, help="folder of the copy, beside the lender")
    parser.add_argument(
        "--parts", nargs="+", choices=SHARED_PARTS, default=list(SHARED_PARTS), help="what to share (default: both)"
    )
    given = parser.parse_args()
    try:
        path = share(given.checkpoint, given.lender, given.out, given.parts)
    except RedlineError as error:
        print(f"share.py: {error}", file=sys.stderr)
        return 2
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) / 1e6 for folder in (given.checkpoint, path)]
    print(f"{path}: {sizes[1]:.1f} MB in place of {sizes[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
