"""Lhotse cuts as a data set."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from redline import files, languages
from redline.errors import DataError, packages_of
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions, no_splits
from redline.manifest import Utterance

CUTS_SUFFIX = ".jsonl.gz"


def read_cuts(name: str, options: DatasetOptions) -> Dataset | None:
    """The cuts of a lhotse file whose recordings are files; the text is that of their supervisions."""
    path = Path(name)
    if not path.name.endswith(CUTS_SUFFIX):
        return None
    no_splits(name, options)
    with packages_of("train", f"{path}: reading cuts"):
        from lhotse import load_manifest_lazy
    try:
        every = (_utterance(cut, path) for cut in load_manifest_lazy(path))
        rows = list(islice((row for row in every if options.language in (None, row.language)), options.limit))
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path}: cannot be read as lhotse cuts ({files.advice(error)})") from error
    with_text = [row for row in rows if row.text]
    return Dataset(path.name, with_text, len(rows) - len(with_text))


def _utterance(cut: Any, path: Path) -> Utterance:
    text = " ".join(part.text.strip() for part in cut.supervisions if part.text)
    spoken = languages.code(next((part.language for part in cut.supervisions if part.language), None)) or "en"
    speaker = next((part.speaker for part in cut.supervisions if part.speaker), None) or ""
    file = next((source.source for source in cut.recording.sources if source.type == "file"), None)
    if text and file is None:
        raise DataError(f"{path}: cut {cut.id} is not from a file; save the recordings as files first")
    end = cut.start + cut.duration
    return Utterance(
        cut.id, Path(file or path), text, cut.duration, spoken, speaker, path.name, start=cut.start, end=end
    )
