"""What fine-tuning on a few minutes of one reader gives that reader, and what it costs the others.

    python -m redline_recipes.tiny.one_reader --data prompts-en/manifest.jsonl manifest.jsonl --split test \
        --speaker allison --out one-reader

Takes utterances of one speaker of a split that the model never learned from, teaches it a part of them with
`redline finetune`, and scores before and after on the reader's other utterances and on the other readers of the split
(python -m redline_recipes.tiny.prompts makes the manifest of a reader with twenty minutes).
The model that comes out is for this measurement only: it has heard a reader of the split.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from redline.manifest import Utterance, read_manifest, write_manifest

READER, OTHERS = "the reader", "other readers"


def divide(rows: Sequence[Utterance], speaker: str, minutes: float) -> tuple[list[Utterance], list[Utterance]]:
    """Rows that teach, at most so many minutes of the speaker, and rows to score: the speaker's rest and the others."""
    own = [row for row in rows if row.speaker == speaker]
    if not own:
        known = ", ".join(sorted({row.speaker for row in rows}))
        raise SystemExit(f"one_reader.py: no speaker {speaker} in this split; there are {known}")
    own.sort(key=lambda row: hashlib.sha256(row.id.encode()).digest())
    teach: list[Utterance] = []
    most = min(60 * minutes, 0.7 * sum(row.duration for row in own))
    while own and sum(row.duration for row in teach) + own[0].duration <= most:
        teach.append(replace(own.pop(0), split=""))
    score = [replace(row, source=READER, split="") for row in own]
    return teach, score + [replace(row, source=OTHERS, split="") for row in rows if row.speaker != speaker]


def main() -> int:
    """Divide, teach, score; the exit status is that of `redline finetune`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="manifests with speakers")
    parser.add_argument("--speaker", required=True)
    parser.add_argument("--split", default="dev", help="split that the model never learned from (default: dev)")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most so much of the speaker, and at most 70 %%")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, required=True)
    options, more = parser.parse_known_args()
    rows = [row for path in options.data for row in read_manifest(path)]
    rows = [row for row in rows if row.split == options.split and row.language == "en" and row.text]
    teach, score = divide(rows, options.speaker, options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    taught = write_manifest(options.out / "teach.jsonl", (row.to_dict() for row in teach))
    scored = write_manifest(options.out / "score.jsonl", (row.to_dict() for row in score))
    command = [sys.executable, "-c", "from redline.cli.main import main; main()", "finetune", "--model", options.model]
    command += ["--data", str(taught), "--test", str(scored), "--out", str(options.out), *more]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
