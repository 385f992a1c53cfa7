#!/usr/bin/env python3
"""Write one manifest of several, wherever they lie: `audio` is relative to the new one.

scripts/join_manifests.py all.jsonl LibriSpeech/manifest.jsonl cv-corpus-21.0-2025-03-14/en/manifest.jsonl

Ids that come twice and recordings that are in two splits are refused: what is held out must not train.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from redline.errors import RedlineError
from redline.manifest import read_manifest, write_manifest


def joined(target: Path, sources: list[Path]) -> list[dict[str, Any]]:
    """The rows of all manifests; raises `ValueError` for an id or a recording that is in two of them."""
    rows: list[dict[str, Any]] = []
    first: dict[str, Path] = {}
    splits: dict[Path, str] = {}
    for source in sources:
        read_manifest(source)  # what is wrong with it is said with its line
        for line in source.read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            row = json.loads(line)
            audio = (source.parent / row["audio"]).resolve()
            name, split = str(row.get("id") or row["audio"]), row.get("split", "")
            if first.setdefault(name, source) != source:
                raise ValueError(f"{name} is both in {first[name]} and in {source}; ids must be different")
            if splits.setdefault(audio, split) != split:
                raise ValueError(f"{audio} is both in split {splits[audio]!r} and in {split!r}; give it one")
            rows.append(row | {"audio": Path(os.path.relpath(audio, target.resolve().parent)).as_posix()})
    return rows


def main() -> int:
    """Write it, and say how many rows it has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the new manifest")
    parser.add_argument("manifests", type=Path, nargs="+", help="those that are read")
    given = parser.parse_args()
    try:
        rows = joined(given.out, given.manifests)
        write_manifest(given.out, rows)
    except (RedlineError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out}: {len(rows)} rows of {len(given.manifests)} manifests", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
