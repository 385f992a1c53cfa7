"""Inspection of a manifest before training: what it holds, and what will not train, with the lines that are meant."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from redline.errors import DataError
from redline.features import FRAME_RATE
from redline.manifest import Utterance, numbered_rows
from redline.normalize import letters_of, spoken
from redline.tokenizer import Tokenizer

LONGEST_S = 30.0  # longer rows are left out of training
MOST_LETTERS_PER_S = 30.0  # nobody speaks so fast: the text is not that of the sound
LEAST_LETTERS_PER_S = 1.0  # of rows over five seconds: most of the sound has no text
DURATION_RATIO = 1.25  # how many times longer or shorter than its sound a row may claim to be
SLACK_S = 0.1  # by so much a row may end after its recording
OVERLAP_S = 0.5  # two rows of a recording may share so much
EXAMPLES = 5  # so many are named in a message
_TIMES = "correct start and end, which are seconds of the recording"
REMEDIES = {
    "line": "correct these lines or take them out",
    "missing": "correct their paths, which count from the folder of the manifest",
    "unreadable": "convert these recordings, or take the rows out",
    "start": _TIMES,
    "end": _TIMES,
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
Problem = tuple[Level, str, str, str]
"""Of a row: how bad it is, its kind, what such rows are or have, and an example in words."""


@dataclass(frozen=True)
class ModelVocabulary:
    """What a model can read and write."""

    name: str
    tokenizer: Tokenizer
    languages: tuple[str, ...]
    characters: int | None  # rows of the encoder's character head, by code point; None where texts are not spelled
    frame_s: float  # of the encoder: each frame can hold one character


@dataclass(frozen=True)
class Finding:
    """What is wrong, and in which lines of the manifest."""

    level: Level
    kind: str
    message: str
    lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What a manifest holds and what is wrong with it."""

    splits: dict[str, dict[str, Any]]  # utterances, hours, speakers and hours by language; "" where rows name none
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything in it can be trained on."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def inspect(
    path: Path,
    length_of: Callable[[Path], float],
    vocabulary: ModelVocabulary | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Look through a manifest and at the heads of its recordings; nothing is recognized.

    `length_of` gives the seconds of a recording or raises `DataError`; `progress` gets how many are done. Raises
    `DataError` for a file that is no manifest.
    """
    problems: list[tuple[int, Problem]] = []
    rows: dict[int, Utterance] = {}
    for number, row in numbered_rows(path):
        if isinstance(row, DataError):
            reason = str(row).removeprefix(f"{path}:")
            problems.append((number, ("error", "line", "lines cannot be read", reason)))
        else:
            rows[number] = row
    if not rows and not problems:
        raise DataError(f"{path}: no rows; a manifest has one JSON object a line, with audio, text and duration")
    lengths = _lengths(rows, length_of, problems, progress)
    seconds = {number: _seconds(row, lengths.get(row.audio)) for number, row in rows.items()}
    for number, row in rows.items():
        if row.audio in lengths:
            problems += [(number, problem) for problem in _time_problems(row, lengths[row.audio])]
        problems += [(number, problem) for problem in _text_problems(row, seconds[number], vocabulary)]
    copies = _copies({row.audio for row in rows.values()})
    findings = _findings([*problems, *_repetitions(rows, copies), *_leaks(rows, copies)])
    if not any(row.split == "dev" for row in rows.values()):
        message = "no rows with split dev; `redline train` needs them, `redline finetune` holds some back"
        findings.append(Finding("warning", "split", message))
    splits = {
        split: _summary([(row, seconds[number]) for number, row in rows.items() if row.split == split])
        for split in sorted({row.split for row in rows.values()})
    }
    return Inspection(splits, tuple(sorted(findings, key=lambda finding: finding.level != "error")))


def _findings(problems: Iterable[tuple[int, Problem]]) -> list[Finding]:
    """The problems of each kind together, in the order in which they were met."""
    groups: dict[tuple[Level, str, str], list[tuple[int, str]]] = defaultdict(list)
    for number, (level, kind, what, example) in problems:
        groups[level, kind, what].append((number, example))
    findings = []
    for (level, kind, what), members in groups.items():
        examples = list(dict.fromkeys(example for _, example in members))
        more = f" and {len(examples) - EXAMPLES} more" if len(examples) > EXAMPLES else ""
        remedy = f"; {REMEDIES[kind]}" if kind in REMEDIES else ""
        message = f"{len(members)} {what}: {'; '.join(examples[:EXAMPLES])}{more}{remedy}"
        findings.append(Finding(level, kind, message, tuple(number for number, _ in members)))
    return findings


def _summary(rows: list[tuple[Utterance, float]]) -> dict[str, Any]:
    """What the rows of a split hold, each with its seconds."""
    languages: dict[str, float] = defaultdict(float)
    for row, seconds in rows:
        languages[row.language] += seconds
    return {
        "utterances": len(rows),
        "hours": round(sum(languages.values()) / 3600, 4),
        "speakers": len({row.speaker for row, _ in rows if row.speaker}),
        "hours_by_language": {language: round(seconds / 3600, 4) for language, seconds in sorted(languages.items())},
    }


def _lengths(
    rows: dict[int, Utterance],
    length_of: Callable[[Path], float],
    problems: list[tuple[int, Problem]],
    progress: Callable[[int, int], None],
) -> dict[Path, float]:
    """Seconds of every recording that can be read; the others go to the problems."""
    numbers: dict[Path, list[int]] = defaultdict(list)
    lengths: dict[Path, float] = {}
    for number, row in rows.items():
        if row.shard:  # measured when it was written
            lengths[row.audio] = row.duration
        else:
            numbers[row.audio].append(number)
    for done, (audio, own) in enumerate(numbers.items(), start=1):
        kind, what = ("unreadable", "rows cannot be heard")
        try:
            if not audio.is_file():
                kind, what = ("missing", "rows name a missing file")
                raise DataError(f"{audio}: {'is a folder' if audio.is_dir() else 'no such file'}")
            lengths[audio] = length_of(audio)
        except DataError as error:
            problems += [(number, ("error", kind, what, str(error))) for number in own]
        progress(done, len(numbers))
    return lengths


def _seconds(row: Utterance, length: float | None) -> float:
    """Seconds of a row as its recording has them, where that is known."""
    if length is None:
        return row.duration
    return max(0.0, (length if row.end is None else min(row.end, length)) - row.start)


def _time_problems(row: Utterance, length: float) -> Iterator[Problem]:
    seconds = _seconds(row, length)
    if row.start >= length:
        example = f"{row.id} at {row.start:g} s of {length:.1f} s"
        yield "error", "start", "rows begin after the end of their recording", example
    elif row.end is not None and row.end > length + SLACK_S:
        example = f"{row.id} ends at {row.end:g} s of {length:.1f} s"
        yield "error", "end", "rows end after the end of their recording", example
    elif row.duration <= 0:
        yield "error", "duration", "rows have no duration; training needs it", row.id
    elif not seconds / DURATION_RATIO <= row.duration <= seconds * DURATION_RATIO:
        example = f"{row.id} claims {row.duration:g} s, has {seconds:.1f} s"
        yield "warning", "duration", "rows claim another duration than their sound has", example
    if row.start < length and seconds > LONGEST_S:
        yield "warning", "long", f"rows are longer than {LONGEST_S:g} s and do not train", row.id


def _text_problems(row: Utterance, seconds: float, vocabulary: ModelVocabulary | None) -> Iterator[Problem]:
    text = spoken(row.text, letters_of(row.language))
    if not text:
        what = "rows have no word that is spoken (signs or digits only)" if row.text else "rows have no text"
        yield "warning", "empty", f"{what} and do not train", row.id
        return
    example = f"{row.id}: {len(text)} letters in {seconds:.1f} s"
    if seconds > 0 and len(text) > MOST_LETTERS_PER_S * seconds:
        yield "error", "text", "texts are too long for their sound", example
    elif seconds > 5 and len(text) < LEAST_LETTERS_PER_S * seconds:
        yield "warning", "text", "texts are very short for their sound", example
    if vocabulary is None:
        return
    if row.language and vocabulary.languages and row.language not in vocabulary.languages:
        yield "warning", "language", f"rows are in a language that {vocabulary.name} does not know", row.language
    decoded = vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(row.text)).strip()
    for char in sorted(set(row.text) - set(decoded)) if decoded != row.text else ():
        what = f"characters that the tokenizer of {vocabulary.name} does not know"
        yield "error", "characters", what, _named(char)
    if vocabulary.characters is not None:
        what = f"characters that the encoder of {vocabulary.name} has no row for; it learns the text without them"
        for char in sorted({char for char in text if ord(char) >= vocabulary.characters}):
            yield "warning", "characters", what, _named(char)
    if 0 < seconds < len(text) * vocabulary.frame_s <= MOST_LETTERS_PER_S * seconds * vocabulary.frame_s:
        yield "warning", "text", f"texts have more letters than {vocabulary.name} has frames of sound", row.id


def _named(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X})"


def _sound(row: Utterance, copies: dict[Path, Path]) -> Hashable:
    """What two rows with the same sound have in common."""
    return copies.get(row.audio, row.audio), row.start, row.end


def _repetitions(rows: dict[int, Utterance], copies: dict[Path, Path]) -> Iterator[tuple[int, Problem]]:
    """Rows with the id, or with the sound, of another."""
    seen: set[Hashable] = set()
    parts: dict[Path, list[tuple[float, float, int]]] = defaultdict(list)
    for number, row in rows.items():
        if row.id in seen:
            yield number, ("warning", "ids", "rows have the id of another", row.id)
        if (sound := _sound(row, copies)) in seen:
            yield number, ("warning", "sound", "rows have the sound of another", row.id)
        elif row.end is not None:
            parts[copies.get(row.audio, row.audio)].append((row.start, row.end, number))
        seen |= {row.id, sound}
    for own in parts.values():
        latest = 0.0
        for start, end, number in sorted(own):
            if start < latest - OVERLAP_S:
                yield number, ("warning", "sound", "rows overlap another of their recording", rows[number].id)
            latest = max(latest, end)


def _copies(files: Iterable[Path]) -> dict[Path, Path]:
    """Files with the bytes of another -> that other; only files of the same size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in sorted(files):
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    copies: dict[Path, Path] = {}
    for own in by_size.values():
        first: dict[str, Path] = {}
        for file in own if len(own) > 1 else ():
            digest = hashlib.sha256()
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
            copies[file] = first.setdefault(digest.hexdigest(), file)
    return copies


def _leaks(rows: dict[int, Utterance], copies: dict[Path, Path]) -> Iterator[tuple[int, Problem]]:
    """What stands on both sides of the line between learning and being tested."""
    keys: tuple[tuple[Level, str, str, Callable[[Utterance], Hashable]], ...] = (
        ("error", "leak", "rows have sound that other splits have too", lambda row: _sound(row, copies)),
        ("warning", "speakers", "rows have a speaker who is in other splits too", lambda row: row.speaker),
        ("warning", "texts", "rows have a text that other splits have too", lambda row: row.text.casefold()),
    )
    for level, kind, what, key in keys:
        splits: dict[Hashable, set[str]] = defaultdict(set)
        for row in rows.values():
            splits[key(row)].add(row.split or "train")
        for number, row in rows.items():
            if key(row) and len(splits[key(row)]) > 1:
                yield number, (level, kind, what, row.speaker if kind == "speakers" else row.id)


def vocabulary_of(model: str) -> ModelVocabulary:
    """The vocabulary of a bundled model, a folder or a hub id; raises `CheckpointError` where there is none."""
    from redline import untrusted
    from redline.checkpoints.ar import is_ar
    from redline.checkpoints.config_keys import read_nar_config
    from redline.checkpoints.folder import resolve

    folder = resolve(model)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    if is_ar(folder):
        return ModelVocabulary(model, tokenizer, (), None, 0.0)
    config = read_nar_config(untrusted.read_json(folder / "config.json"))
    frame_s = config.encoder.subsampling / FRAME_RATE
    return ModelVocabulary(model, tokenizer, config.languages, config.encoder.output_dim, frame_s)


def recording_length(audio: Path) -> float:
    """Seconds of a recording by its head, as training will read it; raises `DataError` for what it cannot read."""
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    try:
        return float(Recording.from_file(audio, recording_id="x").duration)
    except (OSError, AudioLoadingError) as error:
        raise DataError(f"{audio}: not a recording that can be read") from error
