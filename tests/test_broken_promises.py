"""Checkpoints whose parts are each sound and together would write wrong text, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from redline import load_model
from redline.checkpoints import ar
from redline.checkpoints.layouts import EMBEDDINGS, LM_HEAD
from redline.cli.main import app
from redline.decoding import tags
from redline.decoding.repetition import RepetitionOptions, repetition_start, repetitions
from redline.errors import CheckpointError, ConfigError, RecognitionError
from redline.types import Task, Waveform
from tests import hostile
from tests.builders import recognize_clips

MAKERS: dict[str, Callable[[Path], Path]] = {"editing": hostile.editing, "answering": hostile.answering}


def change_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def enlarge_weights(path: Path, chosen: str) -> None:
    """As far as numbers go."""
    tensors = load_file(path)
    names = [name for name in tensors if chosen in name and tensors[name].is_floating_point()]
    assert names
    for name in names:
        tensors[name] = tensors[name] / tensors[name].abs().max().clamp(min=1e-3) * 3e38
    save_file(tensors, path)


def tone() -> Waveform:
    return Waveform((0.1 * np.sin(np.arange(16_000) / 9)).astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "file", "chosen"),
    [
        ("editing", "model.safetensors", "encoder."),
        ("editing", "model.safetensors", "language_model."),
        ("answering", "model.safetensors", "encoder."),
        ("answering", "model.safetensors", "language_model."),
        ("answering", "out_llm.safetensors", "weight"),
    ],
)
def test_a_model_that_leaves_the_numbers_writes_no_text(tmp_path: Path, kind: str, file: str, chosen: str) -> None:
    folder = MAKERS[kind](tmp_path / "model")
    enlarge_weights(folder / file, chosen)
    model = load_model(folder, device="cpu")
    with pytest.raises(RecognitionError, match=r"beyond the numbers of \w*float\d+"):
        recognize_clips(model.recognizer, [tone()], Task())


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordLevel", "unk_token": "[UNK]"}},
        {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}},
    ],
    ids=["no token for what is unknown", "a decoder that panics"],
)
def test_a_tokenizer_that_fails_on_a_text_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = hostile.editing(tmp_path / "model")
    path = folder / "tokenizer.json"
    if "model" in change:
        change = {"model": change["model"] | {"vocab": json.loads(path.read_text())["model"]["vocab"]}}
    change_json(path, **change)
    with pytest.raises(CheckpointError, match="tokenizer cannot be used"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(("own", "more"), [(0, [0, 2]), (None, 0), ([0], 2), (0, None)])
def test_a_text_also_ends_where_the_generation_config_says(tmp_path: Path, own: Any, more: Any) -> None:
    folder = hostile.answering(tmp_path / "model")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_json(folder / "config.json", text_config=text | {"eos_token_id": own})
    change_json(folder / "generation_config.json", eos_token_id=more, temperature=0.7)
    ends = ar.load_ar(folder).model.config.text.eos_token_ids
    wanted = [end for ids in (own, more) if ids is not None for end in (ids if isinstance(ids, list) else [ids])]
    assert ends == tuple(dict.fromkeys(wanted))
    change_json(folder / "generation_config.json", eos_token_id=10**6)
    with pytest.raises(ConfigError, match="eos_token_id"):
        ar.load_ar(folder)


@pytest.mark.parametrize("settings", [{}, {"lora_alpha": None}, {"lora_alpha": 6, "r": 3}])
def test_an_adapter_whose_scale_is_not_certain_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = hostile.answering(tmp_path / "model")
    name = "language_model.model.layers.0.self_attn.q_proj"
    rows, columns = load_file(folder / "model.safetensors")[f"{name}.weight"].shape
    pair = {f"{name}.lora_A.weight": torch.ones(2, columns), f"{name}.lora_B.weight": torch.ones(rows, 2)}
    save_file(pair, folder / "adapter_model.safetensors")
    change_json(folder / "adapter_config.json", peft_type="LORA", lora_alpha=6, r=2)
    ar.load_ar(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | settings))
    with pytest.raises(CheckpointError, match="lora_alpha"):
        ar.load_ar(folder)


def test_embeddings_that_are_tied_and_differ_are_refused(tmp_path: Path) -> None:
    folder = hostile.answering(tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[LM_HEAD] = tensors[EMBEDDINGS] + 1
    save_file(tensors, path)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_json(folder / "config.json", tie_word_embeddings=True, text_config=text | {"tie_word_embeddings": True})
    with pytest.raises(CheckpointError, match="ties the word embeddings"):
        ar.load_ar(folder)


def test_turns_that_are_said_as_often_are_no_loop() -> None:
    turns = "[Speaker 1]: yes [Speaker 2]: no "
    ids, evidence = [ord(letter) for letter in turns * 6], "yes no " * 6

    def oracle(unit: Any) -> int:
        return repetitions(tags.strip_cyclic("".join(map(chr, unit))), evidence)

    options = RepetitionOptions(max_n=len(turns))
    assert repetition_start(ids, options) is not None
    assert repetition_start(ids, options, oracle) is None
    assert repetition_start(ids * 3, options, oracle) is not None


@pytest.mark.parametrize(
    ("key", "value"), [("languages", ["\x1b[2Jen"]), ("model_type", "\x1b]0;x\x07"), ("languages", ["\ud800"])]
)
def test_info_prints_nothing_that_a_terminal_would_obey(tmp_path: Path, key: str, value: Any) -> None:
    folder = hostile.editing(tmp_path / "model")
    change_json(folder / "config.json", **{key: value})
    result = CliRunner().invoke(app, ["info", "--model", str(folder)], color=True)
    assert result.exit_code == 0 and result.output.replace("\n", "").isprintable()


def test_clips_shorter_than_any_window_are_refused(tmp_path: Path) -> None:
    folder = hostile.answering(tmp_path / "model")
    change_json(folder / "config.json", longest_clip_s={"plain": 1e-6})
    with pytest.raises(ConfigError, match="longest_clip_s"):
        load_model(folder, device="cpu")
