"""The rows of a manifest as a data set."""

from __future__ import annotations

from pathlib import Path

from redline.errors import DataError
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions
from redline.manifest import read_manifest


def read_rows(name: str, options: DatasetOptions) -> Dataset:
    """The utterances of a manifest, of one split and one language where they are named."""
    path = Path(name)
    rows = read_manifest(path, split=options.split, language=options.language)
    if not rows:
        raise DataError(f"{path}: there is nothing in it; a manifest has one JSON object a line")
    with_text = [row for row in rows if row.text]
    title = path.name + (f", {options.split}" if options.split else "")
    return Dataset(path.name, with_text[: options.limit], len(rows) - len(with_text), title)
