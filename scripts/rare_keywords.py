#!/usr/bin/env python3
"""Write a manifest whose keywords are the rare words of each row: `redline evaluate --compare-keywords` scores them.

scripts/rare_keywords.py --data manifest.jsonl --split test --text manifest.jsonl --text books/ --out keywords.jsonl

A word is rare when it has five letters or more and occurs fewer than `--below` times in what a model learned from:
the folders of .txt files and the manifests that `--text` names. Of a manifest the rows of other splits count, so that
the one with the rows to hear may be named as well. Rows without a rare word are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from redline.errors import DataError
from redline.manifest import read_manifest, write_manifest

WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
"""Letters, with apostrophes and hyphens between them."""
LETTERS = 5


def words_of(text: str) -> list[str]:
    """The words of a text as they are written; in small letters where the text has only capitals."""
    return WORD.findall(text.lower() if text.isupper() else text)


def learned(place: Path, split: str) -> Iterator[str]:
    """The texts that a model learned from: lines of the .txt files of a folder, or rows of a manifest."""
    if place.is_file() and place.suffix == ".jsonl":
        yield from (row.text for row in read_manifest(place) if row.split != split)
        return
    files = sorted(place.rglob("*.txt")) if place.is_dir() else [place]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{place}: neither a manifest (.jsonl) nor text; name a folder with .txt files in it")
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def count(texts: Iterable[str], wanted: set[str]) -> Counter[str]:
    """How often each of some words occurs, small letters or capitals."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word in WORD.findall(text.lower()) if word in wanted)
    return counts


def rare(text: str, counts: Counter[str], below: int, most: int, draw: random.Random) -> list[str]:
    """At most so many rare words of a text, each once and in its order."""
    candidates = {
        word.lower(): word for word in words_of(text) if len(word) >= LETTERS and counts[word.lower()] < below
    }
    kept = set(draw.sample(sorted(candidates), min(most, len(candidates))))
    return [word for key, word in candidates.items() if key in kept]


def read(path: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split as they stand in the manifest, but with their recordings named from the root."""
    known = read_manifest(path, split=split)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [row for row in (json.loads(line) for line in lines if line.strip()) if str(row.get("split") or "") == split]
    return [
        {**row, "audio": str(utterance.audio), "text": utterance.text}
        for row, utterance in zip(rows, known, strict=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Count, choose, write; exit 2 when there is nothing to write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest with the rows to hear")
    parser.add_argument("--split", default="test", help="their split (default: test)")
    parser.add_argument("--text", type=Path, action="append", required=True, help="folder of .txt or manifest; repeat")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--below", type=int, default=20, help="a word that occurs so often is not rare (default: 20)")
    parser.add_argument("--most", type=int, default=5, help="most keywords of a row (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="which of more rare words a row keeps (default: 0)")
    options = parser.parse_args(arguments)
    try:
        rows = read(options.data, options.split)
        wanted = {word.lower() for row in rows for word in words_of(row["text"]) if len(word) >= LETTERS}
        counts = Counter[str]()
        for place in options.text:
            counts.update(count(learned(place, options.split), wanted))
    except DataError as error:
        print(f"rare_keywords.py: {error}", file=sys.stderr)
        return 2
    with_keywords = []
    for row in rows:
        draw = random.Random(f"{options.seed} {row.get('id') or row['audio']}")
        if keywords := rare(row["text"], counts, options.below, options.most, draw):
            with_keywords.append({**row, "keywords": keywords})
    number = sum(len(row["keywords"]) for row in with_keywords)
    print(f"{number} keywords in {len(with_keywords)} of {len(rows)} rows", file=sys.stderr)
    if not with_keywords:
        print(f"rare_keywords.py: no word occurs fewer than {options.below} times; raise --below", file=sys.stderr)
        return 2
    write_manifest(options.out, with_keywords)
    return 0


if __name__ == "__main__":
    sys.exit(main())
