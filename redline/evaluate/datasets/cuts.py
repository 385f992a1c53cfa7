"""Lhotse cuts as a data set."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from redline import languages
from redline.errors import DataError
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions
from redline.manifest import Utterance

CUTS_SUFFIX = ".jsonl.gz"


def read_cuts(name: str, options: DatasetOptions) -> Dataset | None:
    """The cuts of a lhotse file whose recordings are files; the text is that of their supervisions."""
    path = Path(name)
    if not path.name.endswith(CUTS_SUFFIX):
        return None
    try:
        from lhotse import load_manifest_lazy
    except ImportError as error:
        reason = f"{path}: lhotse cuts need lhotse, which is not installed: pip install 'redline[train]'"
        raise DataError(reason) from error
    try:
        rows = [_utterance(cut, path) for cut in islice(load_manifest_lazy(path), options.limit)]
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path}: cannot be read as lhotse cuts ({error})") from error
    rows = [row for row in rows if options.language in (None, row.language)]
    with_text = [row for row in rows if row.text]
    if not with_text:
        raise DataError(f"{path}: no cut has text" + (f" in language {options.language}" if options.language else ""))
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
