#!/usr/bin/env python3
"""Write the manifest of a Common Voice folder, so that `redline train` and `evaluate` can use it.

tar xf cv-corpus-21.0-2025-03-14-en.tar.gz           # unpacks into cv-corpus-21.0-2025-03-14/en
scripts/common_voice.py cv-corpus-21.0-2025-03-14/en > cv-corpus-21.0-2025-03-14/en/manifest.jsonl

The folder is that of one language, as it comes: train.tsv, dev.tsv, test.tsv, validated.tsv and the recordings in
clips/ (or another folder whose name ends so). Rows of train, dev and test have that split. What only validated.tsv has
is train unless its speaker is heard in dev or test; such rows are left out, so that no voice is on two sides. A "delta"
has validated.tsv alone, so all of it is train.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import soundfile

SPLITS = ("test", "dev", "train")
"""In this order: a clip that several tables name is held out if one of them holds it out."""
SPEAKER = 16
"""So many letters of the hash that stands for a speaker are enough to tell speakers apart."""


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a .tsv file by column; quotation marks in it are letters like others. Empty where there is none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def durations(root: Path) -> dict[str, float]:
    """Seconds of each clip that clip_durations.tsv tells, which it does in milliseconds."""
    durations_s = {}
    for row in table(root / "clip_durations.tsv"):
        milliseconds = row.get("duration[ms]") or row.get("duration[milliseconds]") or ""
        if milliseconds.isdigit():
            durations_s[row["clip"]] = int(milliseconds) / 1000
    return durations_s


def placed(root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row with its split, each clip once."""
    seen: set[str] = set()
    held_out: set[str] = set()
    for split in SPLITS:
        for row in table(root / f"{split}.tsv"):
            if split != "train":
                held_out.add(row["client_id"])
            if row["path"] not in seen:
                seen.add(row["path"])
                yield split, row
    for row in table(root / "validated.tsv"):
        if row["path"] not in seen and row["client_id"] not in held_out:
            seen.add(row["path"])
            yield "train", row


def rows(root: Path, left_out: Counter[str]) -> Iterator[dict[str, object]]:
    """A row of the manifest for each clip that is there and says something; the others are counted by reason."""
    folders = sorted(folder for folder in root.glob("*clips") if folder.is_dir())
    known = durations(root)
    for split, row in placed(root):
        name, text = row["path"], row.get("sentence", "").strip()
        audio = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if audio is None or not text:
            left_out["without a recording" if audio is None else "without a sentence"] += 1
            continue
        try:
            seconds = known.get(name) or soundfile.info(audio).duration
        except soundfile.LibsndfileError:
            left_out["that cannot be read"] += 1
            continue
        yield {
            "id": Path(name).stem,
            "audio": audio.relative_to(root).as_posix(),
            "text": text,
            "language": row.get("locale") or root.name,
            "speaker": f"cv-{row['client_id'][:SPEAKER]}",
            "duration": round(seconds, 3),
            "source": f"common-voice-{row.get('locale') or root.name}",
            "split": split,
        }


def main(arguments: list[str]) -> int:
    """Print the manifest; exit 2 when there is nothing to print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of one language, which has .tsv files and clips/")
    root = parser.parse_args(arguments).folder
    left_out: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for row in rows(root, left_out):
        print(json.dumps(row, ensure_ascii=False))
        splits[str(row["split"])] += 1
    counts = [f"{count} {name}" for name, count in sorted(splits.items())]
    counts += [f"{count} {reason} left out" for reason, count in sorted(left_out.items())]
    if counts:
        print(", ".join(counts), file=sys.stderr)
    if not splits:
        print(
            f"{root}: no clip that train.tsv, dev.tsv, test.tsv or validated.tsv names; give the unpacked folder of "
            "one language",
            file=sys.stderr,
        )
    return 0 if splits else 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
