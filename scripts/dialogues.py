#!/usr/bin/env python3
"""Make dialogues of two speakers from recordings of single ones, with turns and the times of all words.

    scripts/dialogues.py --data manifest.jsonl --split train --count 600 --out dialogues
    scripts/dialogues.py --data manifest.jsonl --split train dev --count 0 --out words     # times of words only

`OUT/words.jsonl` keeps the utterances with the times of their words, found by alignment with a model's character head;
those whose text does not fit their sound have none. `OUT/manifest.jsonl` lists the clips, 16 kHz mono FLAC beside it.
A second call takes up what is there, and rows of `--data` that have words are not aligned again. Splits and languages
are never mixed within a clip, and the seed decides everything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from redline.checkpoints import nar
from redline.errors import RedlineError
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.train.data.batches import taught
from redline.train.dialogue import Dialogue, DialogueOptions, TimingOptions, plan, render, time_words
from redline.types import SAMPLE_RATE

TELEPHONE_HZ = (300.0, 3400.0)
NOTES = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def bar() -> Progress:
    """Progress on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=NOTES)


def with_words(utterances: Sequence[Utterance], cache: Path, model: str, options: TimingOptions) -> list[Utterance]:
    """The utterances that have words, from the manifest, from the cache or aligned now; the cache gets all of them."""
    kept = {(one.id, one.text): one for one in read_manifest(cache)} if cache.exists() else {}
    known = [
        one if one.words else replace(one, words=old.words) if (old := kept.get((one.id, one.text))) else None
        for one in utterances
    ]
    todo = [one for one, found in zip(utterances, known, strict=True) if found is None]
    timed: dict[str, Utterance] = {}
    if todo:
        network, _, _ = nar.load_nar(model)
        with bar() as progress:
            task = progress.add_task(f"aligning {len(todo)} utterances", total=sum(one.duration for one in todo))
            found, dropped = time_words(network, todo, options, lambda seconds: progress.advance(task, seconds))
        timed = {one.id: one for one in found}
        for identity, reason in sorted(dropped.items()):
            NOTES.print(f"  {identity}: {reason}", style="yellow")
    everything = [found or timed.get(one.id, one) for one, found in zip(utterances, known, strict=True)]
    if todo:
        partial = write_manifest(cache.with_suffix(".partial"), (one.to_dict() for one in everything))
        partial.replace(cache)
    usable = [one for one in everything if one.words]
    NOTES.print(f"{len(usable)} utterances with times of words, {len(everything) - len(usable)} without are left out")
    return usable


def write(dialogues: Sequence[Dialogue], out: Path, options: DialogueOptions) -> Path:
    """Every clip that is not there yet, then the manifest of all of them."""
    out.mkdir(parents=True, exist_ok=True)
    with bar() as progress:
        for one in progress.track(dialogues, description=f"writing {len(dialogues)} clips"):
            path = out / f"{one.id}.flac"
            if not path.exists():
                partial = path.with_suffix(".partial")
                soundfile.write(partial, render(one, options), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                partial.replace(path)
    return write_manifest(out / "manifest.jsonl", (one.to_dict(f"{one.id}.flac") for one in dialogues))


def main(argv: Sequence[str] | None = None) -> int:
    """Align, plan, write; exit 2 when nothing can be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest of utterances with speakers and splits")
    parser.add_argument("--split", nargs="+", help="splits to take (default: all)")
    parser.add_argument("--language", nargs="+", help="languages to take (default: all)")
    parser.add_argument("--count", type=int, required=True, help="clips to make; 0: times of words only")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips, manifest.jsonl and words.jsonl")
    parser.add_argument("--model", default="tiny", help="whose character head aligns; remove words.jsonl to align anew")
    parser.add_argument("--overlap", type=float, default=DialogueOptions.overlap, help="share of joints that overlap")
    parser.add_argument("--one-microphone", action="store_true", help="give both speakers the same mean spectrum")
    parser.add_argument("--telephone", action="store_true", help="leave out what is not between 300 and 3,400 Hz")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        options = DialogueOptions(
            overlap=arguments.overlap,
            one_microphone=arguments.one_microphone,
            band_hz=TELEPHONE_HZ if arguments.telephone else None,
            seed=arguments.seed,
        )
        rows = taught(arguments.data, language=arguments.language)
        rows = [row for row in rows if arguments.split is None or row.split in arguments.split]
        timed = with_words(rows, arguments.out / "words.jsonl", arguments.model, TimingOptions())
        if arguments.count:
            dialogues = plan(timed, arguments.count, options)
            hours = sum(one.duration for one in dialogues) / 3600
            manifest = write(dialogues, arguments.out, options)
            NOTES.print(f"{manifest}: {len(dialogues)} clips, {hours:.2f} h")
    except RedlineError as error:
        NOTES.print(f"dialogues.py: {error}", style="red")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
