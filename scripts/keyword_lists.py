#!/usr/bin/env python3
"""What long lists of keywords cost and do: time, texts that change, and word errors, for lists of several lengths.

    scripts/keyword_lists.py --data manifest.jsonl --split dev --text books/ --model tiny

The phrases are drawn from words and pairs of words of the texts that are in none of the recordings, so whatever is
found is wrong. Each recording is transcribed with every list in turn, and what counts is processor time, so that other
work on the machine slows all of them alike; the first time that a list is met is told apart, because it is made ready
there. The time is that of searching and all else behind a decoded recording.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from itertools import pairwise
from pathlib import Path

from redline import audio, load_model
from redline.evaluate.metrics.alignment import Errors, align_words, count_errors, total
from redline.evaluate.run import clip
from redline.manifest import Utterance, read_manifest
from redline.normalize import normalised

LENGTHS = (0, 100, 20_000)
WORD = re.compile(r"[A-Za-z]{4,}")


def phrases(folder: Path, heard: set[str], most: int, seed: int) -> list[str]:
    """Words and pairs of words of the .txt files of a folder, in capitals as names are, none of which is heard."""
    found: set[str] = set()
    for path in sorted(folder.rglob("*.txt")):
        words = WORD.findall(path.read_text(encoding="utf-8", errors="replace"))
        found.update(word for word in words if word.lower() not in heard)
        found.update(f"{a} {b}" for a, b in pairwise(words) if a.lower() not in heard and b.lower() not in heard)
        if len(found) > 20 * most:
            break
    drawn = random.Random(seed).sample(sorted(found), min(most, len(found)))
    return list(dict.fromkeys(phrase.title() for phrase in drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a manifest")
    parser.add_argument("--split", help="which rows")
    parser.add_argument("--language", default="en", help="which rows")
    parser.add_argument("--every", type=int, default=1, help="take each so many rows only")
    parser.add_argument("--text", type=Path, required=True, help="folder of .txt files to draw phrases from")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("lengths", nargs="*", type=int, default=list(LENGTHS), help="phrases of each list")
    given = parser.parse_args()
    rows = [row for row in read_manifest(given.data, split=given.split) if row.text]
    rows = [row for row in rows if (row.language or "en") == given.language][:: given.every]
    heard = {word for row in rows for word in row.text.lower().split()}
    drawn = phrases(given.text, heard, max(given.lengths), given.seed)
    lists = {length: tuple(drawn[:length]) for length in given.lengths}
    model = load_model(given.model)
    seconds, ready, errors = ({length: [] for length in lists} for _ in range(3))
    changed = dict.fromkeys(lists, 0)
    for number, row in enumerate(rows):
        wave, texts = clip(audio.load(row.audio), row), {}
        for length, keywords in lists.items():
            if number == 0:
                started = time.process_time()
                model.transcribe(wave, keywords=keywords)
                ready[length].append(time.process_time() - started)
            started = time.process_time()
            texts[length] = model.transcribe(wave, keywords=keywords).text
            seconds[length].append(time.process_time() - started)
            errors[length].append(_errors(row, texts[length]))
        for length, text in texts.items():
            changed[length] += text.lower() != texts[min(lists)].lower()
    audio_s = sum(row.duration or 0.0 for row in rows)
    print(f"{len(rows)} utterances, {audio_s / 60:.1f} min")
    print("phrases  first clip  x CPU time   ratio  texts changed   WER")
    least = sum(seconds[min(lists)])
    for length in lists:
        taken = sum(seconds[length])
        print(
            f"{len(lists[length]):7d}  {ready[length][0]:9.2f}s  {audio_s / taken:11.1f}  {taken / least:5.2f}  "
            f"{changed[length]:13d}  {100 * total(errors[length]).rate:4.1f} %"
        )


def _errors(row: Utterance, text: str) -> Errors:
    language = row.language or "en"
    return count_errors(align_words(normalised(row.text, language), normalised(text, language)))


if __name__ == "__main__":
    main()
