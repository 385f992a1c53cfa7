"""How well `redline prepare` cuts: speech with known text is joined, prepared again, and compared at every border.

    python -m redline_recipes.tiny.joined_speech --data manifest.jsonl --split dev test --minutes 40 --out joined

The utterances of the splits are put one after the other in a random order, with 0.1 to 0.6 s of near silence between
them, so that no file, no cue and no long pause tells where a text ends. A word belongs to a row when the middle of its
sound does; where its sound is, tells a second model (`--referee`), which hears each utterance alone. `lost` are words
heard in a row that its text has not, `foreign` those of its text that its sound has not, both as shares of the words in
all rows. `kept` is the share of all words that are in a row: whoever drops everything makes no mistakes.
`--captions 2.5` gives captions instead of a transcript, each 2.5 s late.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from redline import audio
from redline.checkpoints import nar
from redline.decoding.word_times import scored_word_times
from redline.evaluate.metrics.alignment import align_words
from redline.features import FRAME_RATE, batch_features
from redline.manifest import Utterance, read_manifest
from redline.normalize import letters_of, spoken
from redline.types import SAMPLE_RATE, Word

PAUSE_S = (0.1, 0.6)
FLOOR = 1e-4


@dataclass(frozen=True)
class Joined:
    """One long recording, what is said in it, and when."""

    samples: np.ndarray
    text: str
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """Words in rows, those of them that only the sound or only the text has, and words in all."""

    words: int
    lost: int
    foreign: int
    num_words: int


def join(rows: Sequence[Utterance], minutes: float, seed: int) -> Joined:
    """Utterances in a random order up to so many minutes."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    order = list(rows)
    draw.shuffle(order)
    parts: list[np.ndarray] = []
    texts: list[str] = []
    starts: list[float] = []
    ends: list[float] = []
    at = 0
    for row in order:
        if at > 60 * minutes * SAMPLE_RATE:
            break
        samples = audio.load(row.audio).samples
        pause = FLOOR * noise.standard_normal(round(draw.uniform(*PAUSE_S) * SAMPLE_RATE)).astype(np.float32)
        parts += [samples, pause]
        texts.append(row.text)
        starts.append(at / SAMPLE_RATE)
        ends.append((at + len(samples)) / SAMPLE_RATE)
        at += len(samples) + len(pause)
    return Joined(np.concatenate(parts), " ".join(texts), tuple(starts), tuple(ends), tuple(texts))


@torch.inference_mode()
def true_words(joined: Joined, referee: str, language: str) -> list[Word]:
    """When each spoken word is said, as a model finds that hears every utterance alone."""
    model = nar.load_nar(referee)[0]
    frame_s = model.config.encoder.subsampling / FRAME_RATE
    timed: list[Word] = []
    for start, end, text in zip(joined.starts, joined.ends, joined.texts, strict=True):
        samples = joined.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        out = model.encoder(*batch_features([samples]))
        ((words, _),) = scored_word_times([spoken(text, letters_of(language))], out.char_logits, out.lengths, frame_s)
        timed += [Word(start + word.start, start + word.end, word.text) for word in words]
    return timed


def compare(rows: Sequence[Utterance], words: Sequence[Word]) -> Count:
    """Rows of a manifest against the true words of their recording."""
    spoken_words, texts = [], []
    for row in rows:
        assert row.end is not None
        inside = [word for word in words if row.start <= (word.start + word.end) / 2 < row.end]
        spoken_words.append(" ".join(word.text for word in inside))
        texts.append(spoken(row.text, letters_of(row.language)))
    lost = foreign = 0
    for row, pairs in zip(rows, map(align_words, spoken_words, texts), strict=True):
        wrong = [pair for pair in pairs if pair.kind != "equal"]
        lost += sum(bool(pair.reference) for pair in wrong)
        foreign += sum(bool(pair.hypothesis) for pair in wrong)
        if wrong:
            seen = ", ".join(f"{pair.reference or '-'} -> {pair.hypothesis or '-'}" for pair in wrong)
            print(f"  {row.start:.2f} to {row.end:.2f} s: {seen}", file=sys.stderr)
    return Count(sum(len(text.split()) for text in spoken_words), lost, foreign, len(words))


def captions(joined: Joined, words: Sequence[Word], late_s: float) -> str:
    """SubRip cues of seven words each, shown so much later than they are said."""

    def stamp(seconds: float) -> str:
        milliseconds = round(1000 * max(0.0, seconds))
        minutes, rest = divmod(milliseconds, 60_000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"

    cues: list[str] = []
    for first in range(0, len(words), 7):
        cue = words[first : first + 7]
        times = f"{stamp(cue[0].start + late_s)} --> {stamp(cue[-1].end + late_s)}"
        cues.append(f"{len(cues) + 1}\n{times}\n{' '.join(word.text for word in cue)}\n")
    return "\n".join(cues)


def main() -> int:
    """Join, prepare, compare; exit status 0 when at most 0.2 % of the words are lost or foreign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest of utterances with their texts")
    parser.add_argument("--split", nargs="+", default=["train"])
    parser.add_argument("--language", default="en")
    parser.add_argument("--source", default="", help="only rows whose source begins so")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--model", default="tiny", help="the model that prepares")
    parser.add_argument("--referee", default="tiny-multi", help="the model that tells where words are")
    parser.add_argument("--captions", type=float, metavar="LATE_S", help="captions this late, in place of a transcript")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for row in read_manifest(options.data, language=options.language) if row.split in options.split]
    joined = join([row for row in rows if row.source.startswith(options.source)], options.minutes, options.seed)
    words = true_words(joined, options.referee, options.language)
    options.out.mkdir(parents=True, exist_ok=True)
    soundfile.write(options.out / "talk.flac", joined.samples, SAMPLE_RATE)
    written = options.out / ("talk.txt" if options.captions is None else "talk.srt")
    written.write_text(
        joined.text if options.captions is None else captions(joined, words, options.captions), encoding="utf-8"
    )
    prepared = options.out / "prepared.jsonl"
    command = [sys.executable, "-m", "redline", "prepare", str(options.out / "talk.flac"), "--text", str(written)]
    command += ["--out", str(prepared), "--model", options.model, "--language", options.language]
    subprocess.run(command, check=True)
    count = compare(read_manifest(prepared), words)
    wrong = (count.lost + count.foreign) / max(1, count.words)
    kept = count.words / count.num_words
    print(
        f"{joined.ends[-1] / 60:.1f} min, {count.num_words} words, {kept:.1%} kept; {count.lost} lost, "
        f"{count.foreign} foreign: {wrong:.2%}"
    )
    print(json.dumps({**vars(count), "minutes": joined.ends[-1] / 60, "wrong": wrong}), file=sys.stderr)
    return 0 if wrong <= 0.002 else 1


if __name__ == "__main__":
    sys.exit(main())
