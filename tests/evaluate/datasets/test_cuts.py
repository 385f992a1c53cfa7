"""Lhotse cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from redline.errors import DataError
from redline.evaluate.datasets.dataset import DatasetOptions
from redline.evaluate.datasets.registry import read_dataset


def test_lhotse_cuts_are_a_data_set(tmp_path: Path) -> None:
    from lhotse import CutSet, Recording, SupervisionSegment

    soundfile.write(tmp_path / "a.wav", np.zeros(48_000, dtype=np.float32), 16_000)
    cut = Recording.from_file(tmp_path / "a.wav").to_cut()
    cut.supervisions.append(
        SupervisionSegment("s", cut.recording_id, 0, 3, text="hello there", language="en", speaker="x")
    )
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([cut.truncate(offset=1.0, duration=1.5), cut.drop_supervisions().with_id("mute")]).to_file(path)
    dataset = read_dataset(str(path), DatasetOptions())
    (row,) = dataset.utterances
    assert (row.text, row.speaker, row.start, row.end) == ("hello there", "x", 1.0, 2.5)
    assert dataset.without_text == 1
    with pytest.raises(DataError, match="none of 0 rows in language de has a text"):
        read_dataset(str(path), DatasetOptions(language="German"))
    (tmp_path / "bad.jsonl.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as lhotse cuts"):
        read_dataset(str(tmp_path / "bad.jsonl.gz"), DatasetOptions())
