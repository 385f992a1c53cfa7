#!/usr/bin/env python3
"""Diarization by the command itself: `redline transcribe --speakers` on dialogues whose speakers are known.

python -m redline_recipes.tiny.dialogues --data manifest.jsonl --split test --count 12 --speakers 3 --turns 6 12 \\
    --clip-s 20 90 --out three
scripts/speakers.py three/manifest.jsonl four/manifest.jsonl     # pip install 'redline[speakers]' pyannote.metrics

Rows have `turns`, better with `words`, or `segments` ([speaker, start, end], without text). A line of JSON for each
manifest, once without and once with the number of speakers told: the diarization error rate of pyannote.metrics
(overlap counted; `der` forgives nothing, `der_forgiving` 0.25 s on both sides of a boundary), cpWER, WER, speakers
missed and invented, and the seconds of overlapped speech: in the reference, marked, and rightly marked.
What somebody says are his words with pauses below half a second, and what the transcript marks as overlapped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from redline.evaluate.metrics.cpwer import score_cpwer
from redline.evaluate.metrics.wer import score_wer
from redline.evaluate.result import Result
from redline.manifest import Utterance, numbered_rows
from redline.types import Task, Transcript

PAUSE_S = 0.5
COLLAR_S = 0.25
Spoken = tuple[str, float, float]
"""Speaker, start and end in seconds."""


@dataclass(frozen=True)
class Dialogue:
    """A recording and who speaks when in it."""

    row: Utterance
    spoken: tuple[Spoken, ...]

    @property
    def speakers(self) -> int:
        return len({speaker for speaker, _, _ in self.spoken})


def read_dialogues(path: Path) -> list[Dialogue]:
    """The rows of a manifest that tell who speaks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    dialogues = []
    for number, row in numbered_rows(path):
        if isinstance(row, Exception):
            raise row
        segments = json.loads(lines[number - 1]).get("segments", ())
        spoken = tuple((speaker, start, end) for speaker, start, end in segments) or spoken_of(row)
        if spoken:
            dialogues.append(Dialogue(row, spoken))
    return dialogues


def spoken_of(row: Utterance) -> tuple[Spoken, ...]:
    """Of a row with turns: by its words, where they have times, else by the turns."""
    owners = [turn.speaker for turn in row.turns for _ in turn.text.split()]
    if row.words and len(owners) == len(row.words):
        pairs = zip(owners, row.words, strict=True)
        return without_pauses((owner, word.start, word.end) for owner, word in pairs)
    return tuple((turn.speaker, turn.start, turn.end) for turn in row.turns)


def spoken_in(transcript: Transcript) -> tuple[Spoken, ...]:
    """The same of an answer, with the speech that it marks as overlapped."""
    said = [(word.speaker, word.start, word.end) for word in transcript.words if word.speaker]
    over = [(overlap.speaker, overlap.start, overlap.end) for each in transcript.segments for overlap in each.overlaps]
    return without_pauses([*said, *over])


def without_pauses(parts: Iterable[Spoken]) -> tuple[Spoken, ...]:
    """Parts of one speaker with less than half a second between them are one."""
    joined: list[Spoken] = []
    for speaker, start, end in sorted(parts):
        if joined and joined[-1][0] == speaker and start - joined[-1][2] < PAUSE_S:
            joined[-1] = (speaker, joined[-1][1], max(joined[-1][2], end))
        else:
            joined.append((speaker, start, end))
    return tuple(joined)


def transcripts(dialogues: Sequence[Dialogue], model: str, is_told: bool) -> list[Transcript]:
    """What the command writes; one call for all dialogues of as many speakers."""
    found: dict[Path, Transcript] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count, group in groupby(sorted(dialogues, key=lambda each: each.speakers), lambda each: each.speakers):
            files = [each.row.audio for each in group]
            asked = ["--speakers", *([str(count)] if is_told else [])]
            command = [sys.executable, "-m", "redline", "transcribe", *map(str, files), *asked, "--format", "json"]
            subprocess.run([*command, "--model", model, "--output-dir", folder, "--overwrite"], check=True)
            found |= {file: Transcript.load(Path(folder) / f"{file.stem}.json") for file in files}
    return [found[each.row.audio] for each in dialogues]


def annotation(spoken: Sequence[Spoken]) -> Any:
    """The same for pyannote."""
    from pyannote.core import Annotation, Segment

    parts = Annotation()
    for number, (speaker, start, end) in enumerate(spoken):
        parts[Segment(start, end), number] = speaker
    return parts


def error_rate(dialogues: Sequence[Dialogue], answers: Sequence[Transcript], collar_s: float) -> float:
    """The diarization error rate of all dialogues together, as a fraction."""
    from pyannote.core import Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    metric = DiarizationErrorRate(collar=2 * collar_s)  # which pyannote halves between the sides of a boundary
    for dialogue, answer in zip(dialogues, answers, strict=True):
        whole = Timeline([Segment(0.0, answer.duration)])
        metric(annotation(dialogue.spoken), annotation(spoken_in(answer)), uem=whole)
    return float(abs(metric))


def overlap_score(dialogues: Sequence[Dialogue], answers: Sequence[Transcript]) -> dict[str, float]:
    """Seconds in which two speak at once: in the reference, marked, and both."""
    seconds = {"overlap_s": 0.0, "marked_s": 0.0, "rightly_marked_s": 0.0}
    for dialogue, answer in zip(dialogues, answers, strict=True):
        true, marked = (annotation(spoken).get_overlap() for spoken in (dialogue.spoken, spoken_in(answer)))
        seconds["overlap_s"] += true.duration()
        seconds["marked_s"] += marked.duration()
        seconds["rightly_marked_s"] += marked.crop(true).duration() if true and marked else 0.0
    return {name: round(value, 1) for name, value in seconds.items()}


def score(dialogues: Sequence[Dialogue], answers: Sequence[Transcript]) -> dict[str, Any]:
    """All numbers of one run; rates in percent."""
    task = Task(language="en", words=True, speakers=True)
    results = [
        Result(each.row, task, answer.text, duration=answer.duration, words=answer.words, turns=answer.turns)
        for each, answer in zip(dialogues, answers, strict=True)
    ]
    words, speakers = (
        score_wer((r.normalised["reference"], r.normalised["edited"]) for r in results),
        score_cpwer(results),
    )
    rates = {
        "der": error_rate(dialogues, answers, 0.0),
        "der_forgiving": error_rate(dialogues, answers, COLLAR_S),
        "cpwer": speakers and speakers["cpwer"],
        "wer": words["wer"] if words["words"] else None,
    }
    heard = [len({speaker for speaker, _, _ in spoken_in(answer)}) for answer in answers]
    true = [each.speakers for each in dialogues]
    return {name: None if rate is None else round(100 * rate, 1) for name, rate in rates.items()} | {
        "missed": sum(max(0, wanted - got) for wanted, got in zip(true, heard, strict=True)),
        "invented": sum(max(0, got - wanted) for wanted, got in zip(true, heard, strict=True)),
        "speakers": sum(true),
        **overlap_score(dialogues, answers),
    }


def draw(path: Path, dialogue: Dialogue, answer: Transcript) -> None:
    """Who speaks when in one dialogue: as it is, and as it was found."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 2.6), layout="constrained")
    rows: list[str] = []
    for title, parts in (("in truth", dialogue.spoken), ("found", spoken_in(answer))):
        names = list(dict.fromkeys(speaker for speaker, _, _ in parts))
        for number, name in enumerate(names):
            bars = [(start, end - start) for speaker, start, end in parts if speaker == name]
            axes.broken_barh(bars, (len(rows) + 0.1, 0.8), color=f"C{number}")
            rows.append(f"{title} {number + 1}")
    axes.set_yticks([at + 0.5 for at in range(len(rows))], rows)
    axes.invert_yaxis()
    axes.set(xlabel="seconds", xlim=(0, answer.duration))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """A line of JSON for each manifest and way to ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+", help="dialogues with turns or segments")
    parser.add_argument("--model", default="tiny")
    parser.add_argument(
        "--picture", type=Path, help="PNG of who speaks when in the first dialogue of the last manifest"
    )
    arguments = parser.parse_args()
    for path in arguments.manifests:
        dialogues = read_dialogues(path)
        if not dialogues:
            print(f"{path}: no row tells who speaks; rows need turns or segments", file=sys.stderr)
            return 2
        for is_told in (False, True):
            answers = transcripts(dialogues, arguments.model, is_told)
            numbers = score(dialogues, answers)
            print(json.dumps({"manifest": str(path), "number_told": is_told, **numbers}), flush=True)
    if arguments.picture is not None:
        draw(arguments.picture, dialogues[0], answers[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
