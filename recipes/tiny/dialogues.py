"""Make dialogues of two speakers or more from recordings of single ones, with turns and the times of all words.

    python -m redline_recipes.tiny.dialogues --data manifest.jsonl --split train --count 600 --out dialogues
    python -m redline_recipes.tiny.dialogues --data manifest.jsonl --split train dev --count 0 --out words

The second finds the times of words only.

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
from redline.train.data.rows import training_rows
from redline.types import SAMPLE_RATE
from redline_recipes.tiny.dialogue import Dialogue, DialogueOptions, plan, render
from redline_recipes.tiny.word_alignment import AlignmentOptions, time_words

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


def with_words(utterances: Sequence[Utterance], cache: Path, model: str, options: AlignmentOptions) -> list[Utterance]:
    """The utterances that have words, from the manifest, from the cache or aligned now; the cache gets all of them."""
    kept = {(row.id, row.text): row for row in read_manifest(cache)} if cache.exists() else {}
    known = [
        row if row.words else replace(row, words=old.words) if (old := kept.get((row.id, row.text))) else None
        for row in utterances
    ]
    todo = [row for row, timed_row in zip(utterances, known, strict=True) if timed_row is None]
    timed: dict[str, Utterance] = {}
    if todo:
        network, _, _ = nar.load_nar(model)
        with bar() as progress:
            task = progress.add_task(f"aligning {len(todo)} utterances", total=sum(row.duration for row in todo))
            aligned, dropped = time_words(network, todo, options, lambda seconds: progress.advance(task, seconds))
        timed = {row.id: row for row in aligned}
        for identity, reason in sorted(dropped.items()):
            NOTES.print(f"  {identity}: {reason}", style="yellow")
    everything = [timed_row or timed.get(row.id, row) for row, timed_row in zip(utterances, known, strict=True)]
    if todo:
        partial = write_manifest(cache.with_suffix(".partial"), (row.to_dict() for row in everything))
        partial.replace(cache)
    usable = [row for row in everything if row.words]
    NOTES.print(f"{len(usable)} utterances with times of words, {len(everything) - len(usable)} without are left out")
    return usable


def write(dialogues: Sequence[Dialogue], out: Path, options: DialogueOptions) -> Path:
    """Every clip that is not there yet, then the manifest of all of them."""
    out.mkdir(parents=True, exist_ok=True)
    with bar() as progress:
        for dialogue in progress.track(dialogues, description=f"writing {len(dialogues)} clips"):
            path = out / f"{dialogue.id}.flac"
            if not path.exists():
                partial = path.with_suffix(".partial")
                soundfile.write(partial, render(dialogue, options), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                partial.replace(path)
    return write_manifest(out / "manifest.jsonl", (dialogue.to_dict(f"{dialogue.id}.flac") for dialogue in dialogues))


def main(argv: Sequence[str] | None = None) -> int:
    """Align, plan, write; exit 2 when nothing can be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest of utterances with speakers and splits")
    parser.add_argument("--split", nargs="+", help="splits to take (default: all)")
    parser.add_argument("--language", nargs="+", help="languages to take (default: all)")
    parser.add_argument("--count", type=int, required=True, help="clips to make; 0: times of words only")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips, manifest.jsonl and words.jsonl")
    parser.add_argument("--model", default="tiny", help="whose character head aligns; remove words.jsonl to align anew")
    parser.add_argument("--speakers", type=int, default=DialogueOptions.speakers, help="of each dialogue")
    parser.add_argument(
        "--turns", type=int, nargs=2, default=DialogueOptions.turns, help="least and most of a dialogue"
    )
    parser.add_argument("--clip-s", type=float, nargs=2, default=DialogueOptions.clip_s, help="least and most seconds")
    parser.add_argument("--overlap", type=float, default=DialogueOptions.overlap, help="share of joints that overlap")
    parser.add_argument("--one-microphone", action="store_true", help="give all speakers the same mean spectrum")
    parser.add_argument("--telephone", action="store_true", help="leave out what is not between 300 and 3,400 Hz")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        options = DialogueOptions(
            speakers=arguments.speakers,
            turns=tuple(arguments.turns),
            clip_s=tuple(arguments.clip_s),
            overlap=arguments.overlap,
            one_microphone=arguments.one_microphone,
            band_hz=TELEPHONE_HZ if arguments.telephone else None,
            seed=arguments.seed,
        )
        rows = training_rows(arguments.data, language=arguments.language)
        rows = [row for row in rows if arguments.split is None or row.split in arguments.split]
        timed = with_words(rows, arguments.out / "words.jsonl", arguments.model, AlignmentOptions())
        if arguments.count:
            dialogues = plan(timed, arguments.count, options)
            hours = sum(dialogue.duration for dialogue in dialogues) / 3600
            manifest = write(dialogues, arguments.out, options)
            NOTES.print(f"{manifest}: {len(dialogues)} clips, {hours:.2f} h")
    except RedlineError as error:
        NOTES.print(f"dialogues.py: {error}", style="red")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
