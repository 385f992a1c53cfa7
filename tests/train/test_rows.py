"""No row's sound ever meets the text of another; what is wrong with recordings is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from redline.manifest import Utterance
from redline.train.data.feature_cache import AugmentOptions, build_feature_cache, feature_caches, measured
from redline.train.data.rows import training_rows, unique_ids


def tone(path: Path, seconds: float, hertz: float) -> Path:
    path = path.with_suffix(".wav")
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000), 16_000)
    return path


def test_a_rows_sound_never_meets_the_text_of_another_with_its_id(tmp_path: Path) -> None:
    low, high = tone(tmp_path / "low.wav", 0.5, 200), tone(tmp_path / "high.wav", 0.5, 2000)
    rows = [Utterance("x", low, "LOW", 0.5), Utterance("x", high, "HIGH", 0.5), Utterance("x#2", low, "ALSO LOW", 0.5)]
    apart = unique_ids(rows)
    assert len({row.id for row in apart}) == 3 and apart[0].id == "x"
    view = build_feature_cache(apart, 0, AugmentOptions(), tmp_path / "views")
    first, second, third = (view[row.id] for row in apart)
    assert torch.equal(first, third) and not torch.equal(first, second)
    # The same rows, cut elsewhere or with another recording in the file, are not what was measured before.
    moved = [replace(row, start=0.2, end=0.5) for row in apart]
    assert len(build_feature_cache(moved, 0, AugmentOptions(), tmp_path / "views")[apart[0].id]) < len(first)
    tone(low, 0.5, 900)
    assert not torch.equal(build_feature_cache(apart, 0, AugmentOptions(), tmp_path / "views")[apart[0].id], first)


def test_the_length_of_a_row_is_that_of_its_sound(tmp_path: Path) -> None:
    rows = [
        Utterance("a", tone(tmp_path / "a.wav", 1.0, 300), "A", 10.0),
        Utterance("b", tone(tmp_path / "b.wav", 1.0, 300), "B", 0.1),
    ]
    view = build_feature_cache(rows, 0, AugmentOptions(), tmp_path / "views")
    assert len(view["a"]) == len(view["b"]) == 50, "all of the recording is heard, whatever the row claims"
    lines: list[str] = []
    assert [row.duration for row in measured(rows, view, lines.append)] == [1.0, 1.0]
    assert "2 rows claim another duration" in lines[0] and "a: 10 s claimed, 1.0 s heard" in lines[0]


def test_a_missing_recording_is_told_once_and_many_are_counted(tmp_path: Path) -> None:
    there = [Utterance("there", tone(tmp_path / "a.wav", 1.0, 300), "A", 1.0)]
    rows = there + [Utterance(f"no{n}", tmp_path / f"no{n}.wav", "A", 1.0) for n in range(14)]
    lines: list[str] = []
    feature_caches(rows, there, AugmentOptions(views=3), tmp_path / "views", lines.append)
    assert len([line for line in lines if "no such file" in line]) == 10 and len(set(lines)) == len(lines)
    assert "4 more recordings" in lines[-1]


def test_rows_read_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "b.wav", "text": "A", "start": 2, "duration": 3, "keywords": "cortado, flat white"}\n')
    (row,) = training_rows(path)
    assert (row.start, row.end, row.duration) == (2, 5, 3) and row.keywords == ("cortado", "flat white")
