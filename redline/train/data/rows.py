"""The rows of a manifest that teach, each with an id of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from redline.errors import DataError
from redline.manifest import Utterance, read_manifest
from redline.normalize import Letters, spoken


def training_rows(
    path: Path,
    *,
    split: str | None = None,
    language: Collection[str] | None = None,
    letters: Callable[[str], Letters] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Utterance]:
    """The utterances of a manifest that have text, each with an id of its own; `say` reports those that have not.

    With `letters`, of which the texts of a language are made, they are in spoken form. Raises `DataError` for one that
    does not tell its duration.
    """
    manifest = read_manifest(path)
    named = unique_ids(manifest)
    if doubled := [row.id for row, before in zip(named, manifest, strict=True) if row.id != before.id]:
        say(f"{len(doubled)} rows have the id of another and are told apart by a number, first {doubled[0]}")
    rows = [row for row in named if split in (None, row.split) and (language is None or row.language in language)]
    with_text = [row for row in rows if row.text]
    if empty := len(rows) - len(with_text):
        say(f"{empty} of {len(rows)} rows have no text and are left out")
    if timeless := [row for row in with_text if row.duration <= 0]:
        raise DataError(
            f"{path}: {len(timeless)} rows have no duration, first {timeless[0].id}; training needs it (seconds)"
        )
    if letters is None:
        return with_text
    spoken_rows = [row for row in (spoken_form(row, letters(row.language)) for row in with_text) if row.text]
    if empty := len(with_text) - len(spoken_rows):
        say(f"{empty} of {len(with_text)} rows have no words that are spoken (signs or digits only) and are left out")
    return spoken_rows


def unique_ids(rows: Sequence[Utterance]) -> list[Utterance]:
    """Utterances of which no two have the same id: features are kept by it, and must never meet another's text."""
    ids = {row.id for row in rows}
    used: set[str] = set()
    named = []
    for row in rows:
        name, number = row.id, 2
        while name in used or (name != row.id and name in ids):
            name, number = f"{row.id}#{number}", number + 1
        used.add(name)
        named.append(row if name == row.id else replace(row, id=name))
    return named


def spoken_form(row: Utterance, letters: Letters) -> Utterance:
    """An utterance with all its texts in spoken form; word times stay where they are of just these words."""
    text = spoken(row.text, letters)
    words = tuple(replace(word, text=spoken(word.text, letters)) for word in row.words)
    return replace(
        row,
        text=text,
        words=words if text == " ".join(word.text for word in words) else (),
        turns=tuple(replace(turn, text=spoken(turn.text, letters)) for turn in row.turns),
        keywords=tuple(filter(None, (spoken(word, letters) for word in row.keywords))),
    )
