"""What can be scored: a manifest, a folder of recordings with texts beside them, or lhotse cuts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from redline.errors import DataError

TEXT_SUFFIXES = (".txt", ".lab")
CUT_SUFFIXES = (".jsonl.gz", ".cuts", ".cuts.jsonl")


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest that can be scored; `start` and `end` in seconds are a part of the file."""

    path: Path
    text: str
    language: str
    source: str
    duration: float
    start: float = 0.0
    end: float | None = None
    speaker: str = ""
    keywords: tuple[str, ...] = ()
    """Words that must be heard."""


def read(
    path: Path, *, split: str | None = None, language: str | None = None, limit: int | None = None
) -> tuple[list[Utterance], int]:
    """The utterances of a manifest, a folder or cuts, and how many have no text and are left out.

    Raises `DataError` when nothing can be read or nothing matches.
    """
    if path.is_dir():
        return read_folder(path, language=language, limit=limit)
    if path.name.endswith(CUT_SUFFIXES):
        return read_cuts(path, language=language, limit=limit)
    return read_manifest(path, split=split, language=language, limit=limit)


def read_folder(path: Path, *, language: str | None = None, limit: int | None = None) -> tuple[list[Utterance], int]:
    """Every recording under a folder that has a text of the same name beside it; the folder's name is the source."""
    texts = {file.with_suffix(""): file for suffix in TEXT_SUFFIXES for file in sorted(path.rglob(f"*{suffix}"))}
    others = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix not in TEXT_SUFFIXES]
    pairs = [(file, texts[file.with_suffix("")]) for file in others if file.with_suffix("") in texts]
    if not pairs:
        raise DataError(f"{path}: no recording has a text beside it; a.wav needs a.txt with what is said in it")
    utterances = []
    for file, text in pairs[:limit]:
        said = text.read_text(encoding="utf-8", errors="replace").strip()
        if said:
            utterances.append(Utterance(file, said, language or "en", path.name, 0.0))
    return utterances, len(pairs[:limit]) - len(utterances)


def read_cuts(path: Path, *, language: str | None = None, limit: int | None = None) -> tuple[list[Utterance], int]:
    """The cuts of a lhotse file whose recordings are files; what is said is the text of their supervisions."""
    try:
        from lhotse import load_manifest_lazy
    except ImportError as error:
        raise DataError(
            f"{path}: lhotse cuts need lhotse, which is not installed: pip install 'redline[train]'"
        ) from error
    utterances, without_text = [], 0
    try:
        for cut in islice(load_manifest_lazy(path), limit):
            text = " ".join(one.text.strip() for one in cut.supervisions if one.text)
            spoken = next((one.language for one in cut.supervisions if one.language), None) or "en"
            if language is not None and spoken != language:
                continue
            if not text:
                without_text += 1
                continue
            sources = [source.source for source in cut.recording.sources if source.type == "file"]
            if not sources:
                raise DataError(f"{path}: cut {cut.id} is not from a file; save the recordings as files first")
            speaker = next((one.speaker for one in cut.supervisions if one.speaker), None) or ""
            end = cut.start + cut.duration
            utterances.append(
                Utterance(Path(sources[0]), text, spoken, path.name, cut.duration, cut.start, end, speaker)
            )
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path}: cannot be read as lhotse cuts ({error})") from error
    if not utterances:
        raise DataError(f"{path}: no cut has text" + (f" in language {language}" if language else ""))
    return utterances, without_text


def read_manifest(
    path: Path, *, split: str | None = None, language: str | None = None, limit: int | None = None
) -> tuple[list[Utterance], int]:
    """The utterances of a split and language, and how many of them have no text and are left out.

    Raises `DataError` when the file cannot be read or nothing in it matches.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error}); give a file with one JSON a line") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    wanted = [
        row
        for row in rows
        if (split is None or row.get("split") == split) and (language is None or row.get("language") == language)
    ]
    if not wanted:
        splits = ", ".join(sorted({str(row.get("split")) for row in rows})) or "none"
        languages = ", ".join(sorted({str(row.get("language")) for row in rows})) or "none"
        raise DataError(
            f"{path}: none of {len(rows)} rows has split {split or 'any'} and language {language or 'any'}; "
            f"it has splits {splits} and languages {languages}"
        )
    with_text = [row for row in wanted if str(row.get("text") or "").strip()]
    utterances = [_utterance(path.parent, row) for row in with_text[:limit]]
    return utterances, len(wanted) - len(with_text)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); a manifest has one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        raise DataError(f"{path}:{number}: no 'audio'; each line needs at least audio and text")
    return row


def _utterance(folder: Path, row: dict[str, Any]) -> Utterance:
    start, end = float(row.get("start") or 0.0), row.get("end")
    return Utterance(
        path=folder / row["audio"],
        text=str(row["text"]),
        language=str(row.get("language") or "en"),
        source=str(row.get("source") or "unnamed"),
        duration=float(row.get("duration") or (end - start if end else 0.0)),
        start=start,
        end=None if end is None else float(end),
        speaker=str(row.get("speaker") or ""),
        keywords=tuple(map(str, row.get("keywords") or ())),
    )
