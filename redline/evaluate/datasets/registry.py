"""What can be scored: a manifest, a folder of recordings with texts, lhotse cuts, a set of the hub, the leaderboard.

To add a kind of data set: a file with a function that reads it, and its name in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from redline import languages
from redline.errors import DataError
from redline.evaluate.datasets.cuts import read_cuts
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions
from redline.evaluate.datasets.folder import read_folder
from redline.evaluate.datasets.hub import read_hub
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


READERS: tuple[Callable[[str, DatasetOptions], Dataset | None], ...] = (read_hub, read_folder, read_cuts, read_rows)
"""Each reads what a name stands for, or gives None where it is of another kind; the first that can is taken."""


def read_dataset(name: str, options: DatasetOptions) -> Dataset:
    """The data set of a name; raises `DataError` when nothing can be read, nothing matches, or nothing has a text."""
    options = replace(options, language=languages.code(options.language))
    dataset = next(dataset for reader in READERS if (dataset := reader(name, options)) is not None)
    if not dataset.utterances:
        spoken = f" in language {options.language}" if options.language else ""
        raise DataError(f"{name}: none of {dataset.without_text} rows{spoken} has a text, so there is nothing to score")
    return dataset
