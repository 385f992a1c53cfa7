"""A folder of recordings with texts beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from redline.errors import DataError
from redline.evaluate.datasets.dataset import DatasetOptions
from redline.evaluate.datasets.registry import read_dataset


def test_a_folder_of_recordings_with_texts_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in (("a", "one two"), ("deep/b", "three"), ("c", " ")):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600, dtype=np.float32), 16_000)
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no recording of this name", encoding="utf-8")
    dataset = read_dataset(str(tmp_path), DatasetOptions())
    assert [(row.audio.name, row.text, row.source) for row in dataset.utterances] == [
        ("a.wav", "one two", tmp_path.name),
        ("b.wav", "three", tmp_path.name),
    ]
    assert dataset.without_text == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"a\.wav needs a\.txt"):
        read_dataset(str(tmp_path / "empty"), DatasetOptions())
