#!/usr/bin/env python3
"""Write the manifest of a LibriSpeech folder (OpenSLR resource 12), so that `redline train` and `evaluate` can use it.

tar xf dev-clean.tar.gz && tar xf train-clean-100.tar.gz         # both unpack into LibriSpeech/
scripts/librispeech.py LibriSpeech > LibriSpeech/manifest.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile


def rows(root: Path) -> Iterator[dict[str, object]]:
    """One row per utterance of every part that is there; the split is the first word of the part's name."""
    for transcripts in sorted(root.glob("*/*/*/*.trans.txt")):
        part, speaker = transcripts.parts[-4:-2]
        for line in transcripts.read_text(encoding="utf-8").splitlines():
            name, text = line.split(maxsplit=1)
            audio = transcripts.parent / f"{name}.flac"
            yield {
                "id": name,
                "audio": audio.relative_to(root).as_posix(),
                "text": text,
                "language": "en",
                "speaker": f"ls-{speaker}",
                "duration": round(soundfile.info(audio).duration, 3),
                "source": f"librispeech-{part}",
                "split": part.split("-")[0],
            }


def main(arguments: list[str] | None = None) -> int:
    """Print the manifest; exit 2 when there is nothing to print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the unpacked LibriSpeech folder")
    folder = parser.parse_args(arguments).folder
    count = 0
    for row in rows(folder):
        print(json.dumps(row))
        count += 1
    print(f"{count} utterances", file=sys.stderr)
    if count == 0:
        print(f"{folder}: no PART/SPEAKER/CHAPTER/*.trans.txt; give the unpacked LibriSpeech folder", file=sys.stderr)
    return 0 if count else 2


if __name__ == "__main__":
    raise SystemExit(main())
