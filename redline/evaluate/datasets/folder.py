"""A folder of recordings, each with a text of the same name beside it."""

from __future__ import annotations

from pathlib import Path

from redline import files
from redline.errors import DataError
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions, no_splits
from redline.manifest import Utterance

TEXT_SUFFIXES = (".txt", ".lab")


def read_folder(name: str, options: DatasetOptions) -> Dataset | None:
    """Every recording under a folder that has a text beside it; the folder's name is the source."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    no_splits(name, options)
    every = files.files_under(folder)
    texts = {file.with_suffix(""): file for suffix in TEXT_SUFFIXES for file in every if file.suffix == suffix}
    others = [file for file in every if file.is_file() and file.suffix not in TEXT_SUFFIXES]
    pairs = [(file, texts[file.with_suffix("")]) for file in others if file.with_suffix("") in texts][: options.limit]
    if not pairs:
        raise DataError(f"{folder}: no recording has a text beside it; a.wav needs a.txt with what is said in it")
    utterances = [
        Utterance(file.stem, file, text, 0.0, options.language or "en", source=folder.name)
        for file, beside in pairs
        if (text := beside.read_text(encoding="utf-8", errors="replace").strip())
    ]
    return Dataset(folder.name, utterances, len(pairs) - len(utterances))
