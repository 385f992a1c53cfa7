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
from redline.types import JsonRow, Turn, Word, listed


@dataclass(frozen=True)
class Utterance(JsonRow):
    """What is said in a recording or, with `start` and `end`, in a part of it; times are seconds.

    The times of `turns` and `words` count from `start`, as those of a recognizer's answer do: a manifest of parts may
    be cut out of its recordings without touching them.
    """

    id: str
    audio: Path
    text: str
    duration: float  # 0 where the manifest does not tell
    language: str = ""
    speaker: str = ""
    source: str = ""
    split: str = ""
    start: float = 0.0
    end: float | None = None
    keywords: tuple[str, ...] = ()  # words that must be recognized, each once; a text is a list with commas
    turns: tuple[Turn, ...] = ()  # where the manifest tells who says what; names count within this utterance only
    words: tuple[Word, ...] = ()  # where the manifest tells when each word is said
    task: str = ""  # what a model that answers prompts is taught with it; empty: whatever the other fields allow
    target_text: str = ""  # a translation of the text
    target_language: str = ""
    shard: str = ""  # URL#FIRST+SIZE of the recording in a tar file (`redline shards`); `audio` is then its name there

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", tuple(dict.fromkeys(map(str.strip, listed(self.keywords)))))

    def to_dict(self) -> dict[str, Any]:
        """The utterance as a row of a manifest, its recording named from the root."""
        row = super().to_dict() | {"audio": str(self.audio)}
        if not self.start and self.end is None:
            del row["start"]  # with it, the duration would tell an end
        return row


def read_manifest(path: Path, *, split: str | None = None, language: str | None = None) -> list[Utterance]:
    """Every utterance of a manifest, or those of a split and a language; those without text are among them.

    Recordings are named relative to the manifest. Raises `DataError` naming a bad line, or what there is when nothing
    matches.
    """
    rows: list[Utterance] = []
    for _, row in numbered_rows(path):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    language = code(language)
    chosen = [row for row in rows if split in (None, row.split) and language in (None, row.language)]
    if not chosen and (split is not None or language is not None):
        splits = ", ".join(sorted({row.split or "none" for row in rows})) or "none"
        languages = ", ".join(sorted({row.language or "none" for row in rows})) or "none"
        raise DataError(
            f"{path}: none of {len(rows)} rows has split {split or 'any'} and language {language or 'any'}; "
            f"it has splits {splits} and languages {languages}"
        )
    return chosen


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
    return utterance_of(f"{path}:{number}", json_row(f"{path}:{number}", line), path.parent)


def json_row(where: str, line: str) -> Any:
    """A line of a manifest as JSON; raises `DataError` naming where it is."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a manifest has one JSON object a line") from error


def utterance_of(where: str, row: Any, folder: Path | None) -> Utterance:
    """A row of a manifest, its recording relative to a folder; without one it is left as it is, for addresses."""
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        raise DataError(f"{where}: no 'audio'; each line needs at least audio and text")
    if (odd := _not_finite(row)) is not None:
        raise DataError(f"{where}: {odd}; numbers of a manifest are finite")
    for key in ("text", "target_text"):
        if not isinstance(row.get(key) or "", str):
            raise DataError(f"{where}: {key} is {json.dumps(row[key])[:80]}; it is a text in quotes")
    try:
        languages = {key: code(row.get(key)) or "" for key in ("language", "target_language")}
    except UnsupportedTaskError as error:
        raise DataError(f"{where}: {error}") from error
    start, end, duration = _times(where, row)
    return Utterance(
        id=str(row.get("id") or f"{row['audio']}@{start:.3f}"),
        audio=Path(row["audio"]) if folder is None else (folder / row["audio"]).resolve(),
        text=str(row.get("text") or "").strip(),
        duration=duration,
        **{key: str(row.get(key) or "") for key in ("speaker", "source", "split", "task", "shard")},
        **languages,
        start=start,
        end=end,
        keywords=_keywords(where, row.get("keywords")),
        turns=tuple(Turn(each["speaker"], *times, each["text"]) for each, times in _timed(where, row, "turns")),
        words=tuple(Word(*times, each["text"]) for each, times in _timed(where, row, "words")),
        target_text=str(row.get("target_text") or "").strip(),
    )


def _keywords(where: str, keywords: Any) -> tuple[str, ...]:
    """The keywords of a row: a list of texts, or of numbers that can only be meant as texts, or a text with commas."""
    if isinstance(keywords, str) or keywords is None:
        return listed(keywords or ())
    if not isinstance(keywords, list) or not all(type(each) in (str, int, float) for each in keywords):
        seen = json.dumps(keywords, ensure_ascii=False)[:200]
        raise DataError(
            f'{where}: keywords is {seen}; give a list of texts, such as ["cortado"], or a text with commas'
        )
    return listed(map(str, keywords))


def _times(where: str, row: Mapping[str, Any]) -> tuple[float, float | None, float]:
    """Start, end and duration of a row in seconds; with `start` but no `end`, the duration tells the end."""
    try:
        start, duration = (float(row.get(key) or 0.0) for key in ("start", "duration"))
        end = None if row.get("end") is None else float(row["end"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: start, end and duration are seconds ({error})") from error
    for key, value in (("start", start), ("duration", duration)):
        if value < 0:
            raise DataError(f"{where}: {key} is {value:g}; seconds count from 0")
    if end is None and row.get("start") is not None and duration > 0:
        end = start + duration
    if end is not None and end <= start:
        raise DataError(f"{where}: end is {end:g}, which is not after start, {start:g}")
    return start, end, duration if end is None else end - start


def _not_finite(value: Any, name: str = "") -> str | None:
    """The name and value of a number in a row that is none: JSON of Python's has NaN and Infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {json.dumps(value)}"
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{name}.{key}" if name else str(key), each) for key, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{name}[{at}]", each) for at, each in enumerate(value))
    return next((odd for key, each in inner if (odd := _not_finite(each, key)) is not None), None)


def _timed(where: str, row: Mapping[str, Any], key: str) -> Iterator[tuple[Any, tuple[float, float]]]:
    """The turns or words of a row, each with its start and end."""
    keys = ("speaker", "text") if key == "turns" else ("text",)
    entries = row.get(key) or []
    for each in entries if isinstance(entries, list) else [entries]:
        try:
            start, end = float(each["start"]), float(each["end"])
            usable = 0 <= start <= end and all(each[name].strip() for name in keys)
        except (TypeError, KeyError, ValueError, AttributeError):
            usable = False
        if not usable:
            seen = json.dumps(each, ensure_ascii=False)[:200]
            raise DataError(
                f"{where}: {key} has {seen}; {key} is a list of objects, each with start and end in seconds "
                f"(0 <= start <= end) and with {' and '.join(keys)}, not empty"
            )
        yield each, (start, end)
