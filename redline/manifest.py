"""Manifests: one JSON object a line, each an utterance with its recording and its text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline import files
from redline.errors import DataError, UnsupportedTaskError
from redline.languages import code
from redline.types import Turn, Word, listed


@dataclass(frozen=True)
class Utterance:
    """What is said in a recording or, with `start` and `end`, in a part of it; times are seconds.

    The times of `turns` and `words` count from `start`, as those of a recognizer's answer do: a manifest of parts may
    be cut out of its recordings without touching them.
    """

    id: str
    audio: Path
    text: str
    duration: float
    """0 where the manifest does not tell."""
    language: str = ""
    speaker: str = ""
    source: str = ""
    split: str = ""
    start: float = 0.0
    end: float | None = None
    keywords: tuple[str, ...] = ()
    """Words that must be heard; a text is a list with commas."""
    turns: tuple[Turn, ...] = ()
    """Who says what, where the manifest tells; names count within this utterance only."""
    words: tuple[Word, ...] = ()
    """When each word is said, where the manifest tells."""
    task: str = ""
    """What a model that answers prompts is taught with it; empty: whatever the other fields allow."""
    target_text: str = ""
    """A translation of the text."""
    target_language: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", listed(self.keywords))

    def to_dict(self) -> dict[str, Any]:
        """The utterance as a row of a manifest, its recording named from the root."""
        row: dict[str, Any] = {"id": self.id, "audio": str(self.audio), "text": self.text, "duration": self.duration}
        row |= {"language": self.language, "speaker": self.speaker, "source": self.source, "split": self.split}
        if self.end is not None:
            row |= {"start": self.start, "end": self.end}
        row |= {key: getattr(self, key) for key in ("task", "target_text", "target_language") if getattr(self, key)}
        if self.keywords:
            row["keywords"] = list(self.keywords)
        if self.turns:
            row["turns"] = [turn.to_dict() for turn in self.turns]
        if self.words:
            row["words"] = [{"start": word.start, "end": word.end, "text": word.text} for word in self.words]
        return row


def read_manifest(path: Path, *, split: str | None = None, language: str | None = None) -> list[Utterance]:
    """Every utterance of a manifest, or those of a split and a language; those without text are among them.

    Recordings are named relative to the manifest. Raises `DataError` naming a bad line, or what there is when nothing
    matches.
    """
    rows = []
    for _, row in numbered_rows(path):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    language = code(language)
    wanted = [
        row for row in rows if (split is None or row.split == split) and (language is None or row.language == language)
    ]
    if not wanted and (split is not None or language is not None):
        splits = ", ".join(sorted({row.split or "none" for row in rows})) or "none"
        languages = ", ".join(sorted({row.language or "none" for row in rows})) or "none"
        raise DataError(
            f"{path}: none of {len(rows)} rows has split {split or 'any'} and language {language or 'any'}; "
            f"it has splits {splits} and languages {languages}"
        )
    return wanted


def numbered_rows(path: Path) -> Iterator[tuple[int, Utterance | DataError]]:
    """Each line of a manifest by its number, from 1: its row, or what is wrong with it.

    Raises `DataError` for a file that is no text.
    """
    try:
        lines = files.read_utf8(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a manifest ({files.advice(error)}); give a file with one JSON a line"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, _row(path, number, line)
            except DataError as error:
                yield number, error


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines, making the folder where needed; returns the path.

    All of it appears at once or nothing; raises `DataError` where it cannot be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return files.write_text(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {files.advice(error)}") from error


def _row(path: Path, number: int, line: str) -> Utterance:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); a manifest has one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        raise DataError(f"{path}:{number}: no 'audio'; each line needs at least audio and text")
    if (found := _not_finite(row)) is not None:
        raise DataError(f"{path}:{number}: {found[0]} is {found[1]}; numbers of a manifest are finite")
    for key in ("text", "target_text"):
        if not isinstance(row.get(key) or "", str):
            raise DataError(f"{path}:{number}: {key} is {json.dumps(row[key])[:80]}; it is a text in quotes")
    start, end, duration = _times(path, number, row)
    return Utterance(
        id=str(row.get("id") or f"{row['audio']}@{start:.3f}"),
        audio=(path.parent / row["audio"]).resolve(),
        text=str(row.get("text") or "").strip(),
        duration=duration,
        language=_language(path, number, row.get("language")),
        speaker=str(row.get("speaker") or ""),
        source=str(row.get("source") or ""),
        split=str(row.get("split") or ""),
        start=start,
        end=end,
        keywords=_keywords(path, number, row.get("keywords")),
        turns=tuple(Turn(one["speaker"], *times, one["text"]) for one, times in _timed(path, number, row, "turns")),
        words=tuple(Word(*times, one["text"]) for one, times in _timed(path, number, row, "words")),
        task=str(row.get("task") or ""),
        target_text=str(row.get("target_text") or "").strip(),
        target_language=_language(path, number, row.get("target_language")),
    )


def _keywords(path: Path, number: int, found: Any) -> tuple[str, ...]:
    """The keywords of a row, a list or a text with commas."""
    if not (found is None or isinstance(found, str) or (isinstance(found, list) and all(map(_is_text, found)))):
        seen = json.dumps(found, ensure_ascii=False)[:200]
        raise DataError(
            f'{path}:{number}: keywords is {seen}; give a list of texts, such as ["cortado"], or a text with commas'
        )
    return listed(found if isinstance(found, str) else map(str, found or ()))


def _is_text(value: Any) -> bool:
    """Whether a value of JSON is a text, or a number that can only be meant as one."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _language(path: Path, number: int, named: Any) -> str:
    """The code of the language that a row names."""
    try:
        return code(named) or ""
    except UnsupportedTaskError as error:
        raise DataError(f"{path}:{number}: {error}") from error


def _times(path: Path, number: int, row: Mapping[str, Any]) -> tuple[float, float | None, float]:
    """Start, end and duration of a row in seconds; with `start` but no `end`, the duration tells the end."""
    try:
        start, end = float(row.get("start") or 0.0), row.get("end")
        end = None if end is None else float(end)
        duration = float(row.get("duration") or 0.0)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}:{number}: start, end and duration are seconds ({error})") from error
    for key, value in (("start", start), ("duration", duration)):
        if value < 0:
            raise DataError(f"{path}:{number}: {key} is {value:g}; seconds count from 0")
    if end is None and row.get("start") is not None and duration > 0:
        end = start + duration
    if end is not None and end <= start:
        raise DataError(f"{path}:{number}: end is {end:g}, which is not after start, {start:g}")
    return start, end, duration if end is None else end - start


def _not_finite(value: Any, name: str = "") -> tuple[str, str] | None:
    """The name and value of a number in a row that is none: JSON of Python's has NaN and Infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return name, "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{name}.{key}" if name else str(key), one) for key, one in value.items())
    elif isinstance(value, list):
        inner = ((f"{name}[{at}]", one) for at, one in enumerate(value))
    return next((found for key, one in inner if (found := _not_finite(one, key)) is not None), None)


def _timed(path: Path, number: int, row: Mapping[str, Any], key: str) -> Iterator[tuple[Any, tuple[float, float]]]:
    """The turns or words of a row, each with its start and end."""
    keys = ("speaker", "text") if key == "turns" else ("text",)
    found = row.get(key) or []
    for one in found if isinstance(found, list) else [found]:
        try:
            start, end = float(one["start"]), float(one["end"])
            usable = 0 <= start <= end < math.inf and all(one[name].strip() for name in keys)
        except (TypeError, KeyError, ValueError, AttributeError):
            usable = False
        if not usable:
            seen = json.dumps(one, ensure_ascii=False)[:200]
            raise DataError(
                f"{path}:{number}: {key} has {seen}; {key} is a list of objects, each with start and end in seconds "
                f"(0 <= start <= end) and with {' and '.join(keys)}, not empty"
            )
        yield one, (start, end)
