"""A manifest before hours are spent on it: what it holds, and what will not train, with the lines that are meant."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from redline.errors import DataError
from redline.features import FRAME_RATE
from redline.manifest import Utterance, numbered_rows
from redline.tokenizer import Tokenizer
from redline.train.data.batches import letters_of, spoken

LONGEST_S = 30.0
"""Longer rows are left out of training."""
MOST_LETTERS_PER_S = 30.0
"""Nobody speaks so fast: the text is not that of the sound."""
LEAST_LETTERS_PER_S = 1.0
"""Of rows over five seconds: most of the sound has no text."""
OFF = 1.25
"""How many times longer or shorter than its sound a row may claim to be."""
SLACK_S = 0.1
"""By so much a row may end after its recording."""
OVERLAP_S = 0.5
"""Two rows of a recording may share so much."""
TOLD = 5
"""So many examples are named in a message."""
REMEDIES = {
    "line": "correct these lines or take them out",
    "missing": "correct their paths, which count from the folder of the manifest",
    "unreadable": "convert these recordings, or take the rows out",
    "start": "correct start and end, which are seconds of the recording",
    "end": "correct start and end, which are seconds of the recording",
    "duration": "give the seconds from start to end",
    "long": "cut them at pauses, as `redline prepare` does",
    "empty": "write what is said, or take the rows out",
    "text": "see whether text and sound belong together",
    "ids": "give each row an id of its own, or none",
    "sound": "take one of them out",
    "leak": "leave each recording in one split",
    "speakers": "leave each speaker in one split, or the scores flatter",
    "texts": "leave each text in one split, or the scores flatter",
}
"""What to do about a finding that does not say so itself, by its kind."""

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of texts."""

    name: str
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    rows: int | None
    """Characters of the encoder's head, by code point; None where texts are not spelled."""
    frame_s: float
    """Seconds of one frame of the encoder, each of which can hold one character."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, and in which lines of the manifest."""

    level: Level
    kind: str
    message: str
    lines: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"level": self.level, "kind": self.kind, "message": self.message, "lines": list(self.lines)}


@dataclass(frozen=True)
class Part:
    """The rows of one split."""

    utterances: int
    seconds: float
    speakers: int
    languages: dict[str, float]
    """Seconds of each language."""


@dataclass(frozen=True)
class Inspection:
    """What a manifest holds and what is wrong with it."""

    parts: dict[str, Part]
    """By the name of the split; empty where rows name none."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything in it can be trained on."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        parts = {
            name: {
                "utterances": part.utterances,
                "hours": round(part.seconds / 3600, 4),
                "speakers": part.speakers,
                "hours_by_language": {key: round(value / 3600, 4) for key, value in part.languages.items()},
            }
            for name, part in self.parts.items()
        }
        return {"ok": self.ok, "splits": parts, "findings": [finding.to_dict() for finding in self.findings]}


@dataclass
class _Problems:
    """Lines and examples of each kind of problem, in the order in which they were met."""

    found: dict[tuple[Level, str, str], tuple[list[int], list[str]]] = field(default_factory=dict)

    def add(self, level: Level, kind: str, what: str, line: int, example: str = "") -> None:
        lines, examples = self.found.setdefault((level, kind, what), ([], []))
        lines.append(line)
        if example and example not in examples:
            examples.append(example)

    def findings(self) -> Iterator[Finding]:
        for (level, kind, what), (lines, examples) in self.found.items():
            more = f" and {len(examples) - TOLD} more" if len(examples) > TOLD else ""
            told = f": {'; '.join(examples[:TOLD])}{more}" if examples else ""
            remedy = f"; {REMEDIES[kind]}" if kind in REMEDIES else ""
            yield Finding(level, kind, f"{len(lines)} {what}{told}{remedy}", tuple(lines))


def inspect(
    path: Path,
    length_of: Callable[[Path], float],
    knowledge: Knowledge | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Look through a manifest and at the head of its recordings; nothing is listened to.

    `length_of` gives the seconds of a recording or raises `DataError`; `progress` hears of how many are done. Raises
    `DataError` for a file that is no manifest.
    """
    problems = _Problems()
    rows: dict[int, Utterance] = {}
    for number, row in numbered_rows(path):
        if isinstance(row, DataError):
            problems.add("error", "line", "lines cannot be read", number, str(row).removeprefix(f"{path}:"))
        else:
            rows[number] = row
    if not rows and not problems.found:
        raise DataError(f"{path}: no rows; a manifest has one JSON object a line, with audio, text and duration")
    lengths = _lengths(rows, length_of, problems, progress)
    seconds: dict[int, float] = {}
    for number, row in rows.items():
        seconds[number] = _time(number, row, lengths.get(row.audio), problems)
        _text(number, row, seconds[number], knowledge, problems)
    _twice(rows, problems)
    _across(rows, problems)
    if not any(row.split == "dev" for row in rows.values()):
        message = "no rows with split dev; `redline train` needs them, `redline finetune` holds some back"
        problems.found[("warning", "split", message)] = ([], [])
    parts = {}
    for split in sorted({row.split for row in rows.values()}):
        own = {number: row for number, row in rows.items() if row.split == split}
        languages: dict[str, float] = defaultdict(float)
        for number, row in own.items():
            languages[row.language] += seconds[number]
        speakers = len({row.speaker for row in own.values() if row.speaker})
        parts[split] = Part(len(own), sum(seconds[number] for number in own), speakers, dict(languages))
    findings = [Finding(one.level, one.kind, one.message.removeprefix("0 "), one.lines) for one in problems.findings()]
    return Inspection(parts, tuple(sorted(findings, key=lambda one: one.level != "error")))


def _lengths(
    rows: dict[int, Utterance],
    length_of: Callable[[Path], float],
    problems: _Problems,
    progress: Callable[[int, int], None],
) -> dict[Path, float]:
    """Seconds of every recording that can be read; one that is missing is told once."""
    lines: dict[Path, list[int]] = defaultdict(list)
    for number, row in rows.items():
        lines[row.audio].append(number)
    found: dict[Path, float] = {}
    for done, (audio, own) in enumerate(lines.items(), start=1):
        missing = not audio.is_file()
        try:
            if missing:
                raise DataError(f"{audio}: {'is a folder' if audio.is_dir() else 'no such file'}")
            found[audio] = length_of(audio)
        except DataError as error:
            kind, what = ("missing", "rows name a missing file") if missing else ("unreadable", "rows cannot be heard")
            for number in own:
                problems.add("error", kind, what, number, str(error))
        progress(done, len(lines))
    return found


def _time(number: int, row: Utterance, length: float | None, problems: _Problems) -> float:
    """Seconds of a row as its recording has them, where that is known."""
    if length is None:
        return row.duration
    if row.start >= length:
        example = f"{row.id} at {row.start:g} s of {length:.1f} s"
        problems.add("error", "start", "rows begin after the end of their recording", number, example)
        return 0.0
    heard = length if row.end is None else min(row.end, length) - row.start
    if row.end is not None and row.end > length + SLACK_S:
        example = f"{row.id} ends at {row.end:g} s of {length:.1f} s"
        problems.add("error", "end", "rows end after the end of their recording", number, example)
    elif row.duration <= 0:
        problems.add("error", "duration", "rows have no duration; training needs it", number, row.id)
    elif not heard / OFF <= row.duration <= heard * OFF:
        example = f"{row.id} claims {row.duration:g} s, has {heard:.1f} s"
        problems.add("warning", "duration", "rows claim another duration than their sound has", number, example)
    if heard > LONGEST_S:
        problems.add("warning", "long", f"rows are longer than {LONGEST_S:g} s and do not train", number, row.id)
    return heard


def _text(number: int, row: Utterance, seconds: float, knowledge: Knowledge | None, problems: _Problems) -> None:
    said = spoken(row.text, letters_of(row.language))
    if not said:
        what = "rows have no text" if not row.text else "rows have no word that is spoken (signs or digits only)"
        problems.add("warning", "empty", f"{what} and do not train", number, row.id)
        return
    if seconds > 0 and len(said) > MOST_LETTERS_PER_S * seconds:
        example = f"{row.id}: {len(said)} letters in {seconds:.1f} s"
        problems.add("error", "text", "texts are too long for their sound", number, example)
    elif seconds > 5 and len(said) < LEAST_LETTERS_PER_S * seconds:
        example = f"{row.id}: {len(said)} letters in {seconds:.1f} s"
        problems.add("warning", "text", "texts are very short for their sound", number, example)
    if knowledge is None:
        return
    if row.language and knowledge.languages and row.language not in knowledge.languages:
        problems.add(
            "warning", "language", f"rows are in a language that {knowledge.name} does not know", number, row.language
        )
    decoded = knowledge.tokenizer.decode(knowledge.tokenizer.encode(row.text)).strip()
    lost = sorted(set(row.text) - set(decoded)) if decoded != row.text else []
    for char in lost:
        problems.add(
            "error",
            "characters",
            f"characters that the tokenizer of {knowledge.name} does not know",
            number,
            _named(char),
        )
    if knowledge.rows is not None:
        for char in sorted({char for char in said if ord(char) >= knowledge.rows}):
            what = f"characters that the encoder of {knowledge.name} has no row for; it learns the text without them"
            problems.add("warning", "characters", what, number, _named(char))
    if 0 < seconds < len(said) * knowledge.frame_s <= MOST_LETTERS_PER_S * seconds * knowledge.frame_s:
        problems.add(
            "warning", "text", f"texts have more letters than {knowledge.name} has frames of sound", number, row.id
        )


def _named(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X})"


def _twice(rows: dict[int, Utterance], problems: _Problems) -> None:
    """Rows with the id, or with the sound, of another."""
    for number, row in _again(rows, lambda row: row.id):
        problems.add("warning", "ids", "rows have the id of another", number, row.id)
    copies = _copies({row.audio for row in rows.values()})
    again = list(_again(rows, lambda row: (copies.get(row.audio, row.audio), row.start, row.end)))
    for number, row in again:
        problems.add("warning", "sound", "rows have the sound of another", number, row.id)
    parts: dict[Path, list[tuple[float, float, int]]] = defaultdict(list)
    seen = {number for number, _ in again}
    for number, row in rows.items():
        if row.end is not None and number not in seen:
            parts[copies.get(row.audio, row.audio)].append((row.start, row.end, number))
    for own in parts.values():
        latest = 0.0
        for start, end, number in sorted(own):
            if start < latest - OVERLAP_S:
                problems.add("warning", "sound", "rows overlap another of their recording", number, rows[number].id)
            latest = max(latest, end)


def _again(rows: dict[int, Utterance], key: Callable[[Utterance], Any]) -> Iterator[tuple[int, Utterance]]:
    seen = set()
    for number, row in rows.items():
        if key(row) in seen:
            yield number, row
        seen.add(key(row))


def _copies(files: Iterable[Path]) -> dict[Path, Path]:
    """Files with the bytes of another -> that other; only files of the same size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in sorted(files):
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    found: dict[Path, Path] = {}
    for own in by_size.values():
        first: dict[str, Path] = {}
        for file in own if len(own) > 1 else ():
            digest = hashlib.sha256()
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
            found[file] = first.setdefault(digest.hexdigest(), file)
    return found


def _across(rows: dict[int, Utterance], problems: _Problems) -> None:
    """What stands on both sides of the line between learning and being tested."""

    def sides(key: Callable[[Utterance], Any]) -> dict[Any, set[str]]:
        found: dict[Any, set[str]] = defaultdict(set)
        for row in rows.values():
            if key(row):
                found[key(row)].add("train" if row.split in ("", "train") else row.split)
        return found

    copies = _copies({row.audio for row in rows.values()})
    checks: Sequence[tuple[Level, str, str, Callable[[Utterance], Any]]] = (
        ("error", "leak", "rows have sound that other splits have too",
         lambda row: (copies.get(row.audio, row.audio), row.start, row.end)),
        ("warning", "speakers", "rows have a speaker who is in other splits too", lambda row: row.speaker),
        ("warning", "texts", "rows have a text that other splits have too", lambda row: row.text.casefold()),
    )  # fmt: skip
    for level, kind, what, key in checks:
        found = sides(key)
        for number, row in rows.items():
            if key(row) and len(found[key(row)]) > 1:
                problems.add(level, kind, what, number, row.speaker if kind == "speakers" else row.id)


def knowledge_of(model: str) -> Knowledge:
    """What a bundled model, a folder or a hub id knows; raises `CheckpointError` where there is none."""
    import json

    from redline.checkpoints.ar import is_ar
    from redline.checkpoints.folder import resolve
    from redline.models.config import NarConfig

    folder = resolve(model)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    if is_ar(folder):
        return Knowledge(model, tokenizer, (), None, 0.0)
    config = NarConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    frame_s = config.encoder.subsampling / FRAME_RATE
    return Knowledge(model, tokenizer, config.languages, config.encoder.output_dim, frame_s)


def recording_length(audio: Path) -> float:
    """Seconds of a recording by its head, as training will read it; raises `DataError` for what it cannot read."""
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    try:
        return float(Recording.from_file(audio, recording_id="x").duration)
    except (OSError, AudioLoadingError) as error:
        raise DataError(f"{audio}: not a recording that can be read") from error
