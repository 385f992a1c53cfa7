"""Nothing in a checkpoint hangs, fills the memory or ends in a traceback: it is loaded, or refused with the reason."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from redline import tensor_file, untrusted
from redline.checkpoints import ar, nar
from redline.errors import AudioError, CheckpointError, ConfigError, RedlineError
from redline.load import load_model
from redline.tokenizer import Tokenizer
from redline.transcriber import Model
from redline.types import SAMPLE_RATE, Task, Waveform
from tests import hostile
from tests.builders import recognize_clips

FEW, MANY = 120, 500
WEIGHTS = "model.safetensors"


def reconfigure(folder: Path, part: str | None, key: str, value: Any, file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    (values[part] if part else values)[key] = value
    (folder / file).write_text(json.dumps(values))


def tone(seconds: float = 0.5) -> Waveform:
    return Waveform((0.1 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 9)).astype(np.float32))


@pytest.mark.parametrize("seeds", [range(FEW), pytest.param(range(FEW, MANY), marks=pytest.mark.laws)], ids=str)
def test_spoiled_checkpoints_are_refused_or_loaded(sound: tuple[Path, Path], tmp_path: Path, seeds: range) -> None:
    refused = loaded = 0
    for seed in seeds:
        chance = random.Random(seed)
        folder = Path(shutil.copytree(sound[seed % 2], tmp_path / "spoiled"))
        name = hostile.spoil(folder, chance)
        try:
            model = load_model(folder, device="cpu")
            loaded += 1
            if name != "config.json":  # what was loaded can be used
                recognize_clips(model.recognizer, [tone()], Task())
        except RedlineError as error:
            refused += 1
            assert 20 < len(str(error)) < 2000, str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {name}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert refused > len(seeds) / 2 and loaded > len(seeds) / 20


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("encoder_config", "num_layers", 10**6),
        ("encoder_config", "num_layers", 200),
        ("text_config", "num_hidden_layers", 10**6),
        ("text_config", "num_hidden_layers", 250),
        ("projector_config", "num_layers", 10**6),
        (None, "min_edit_sequence_length", 10**8),
        ("text_config", "vocab_size", 2**31),
        ("encoder_config", "hidden_dim", 60_000),
        ("encoder_config", "max_pos_emb", 10**9),
    ],
)
def test_a_config_promises_no_more_than_the_weights_hold(
    editing: Path, monkeypatch: pytest.MonkeyPatch, part: str | None, key: str, value: int
) -> None:
    """Nothing is read, and no model of that size is made, before the headers are compared."""
    reconfigure(editing, part, key, value)
    monkeypatch.setattr(tensor_file, "read_tensors", lambda *_: pytest.fail("tensors were read"))
    with pytest.raises(RedlineError):
        nar.load_nar(editing)


def test_a_model_is_not_built_before_its_layers_are_counted(answering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reconfigure(answering, "text_config", "num_hidden_layers", 250)
    monkeypatch.setattr(ar, "ArModel", lambda _: pytest.fail("a model was built"))
    with pytest.raises(ConfigError, match=r"promises 250 layers language_model\.model\.layers\.\*, the weights have 1"):
        ar.load_ar(answering)


@pytest.mark.parametrize("text", [hostile.DEEP, '{"a":' * 5000 + "1" + "}" * 5000, '{"a": ' + hostile.DEEP + "}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_deep_nesting_is_refused(editing: Path, name: str, text: str) -> None:
    (editing / name).write_text(text)
    with pytest.raises(CheckpointError, match="nested more than 32 deep"):
        load_model(editing, device="cpu")


def test_brackets_in_texts_are_no_nesting() -> None:
    assert (
        untrusted.parse_json_object(json.dumps({"a": '[[\\"' * 100, "b": "\\" * 99 + '"' * 7}), "here")["a"]
        == '[[\\"' * 100
    )


def test_a_key_that_is_there_twice_is_refused(editing: Path) -> None:
    text = (editing / "config.json").read_text()
    (editing / "config.json").write_text('{"blank_token_id": 3, ' + text.lstrip()[1:])
    with pytest.raises(CheckpointError, match="the key 'blank_token_id' is there twice"):
        nar.load_nar(editing)


EVERY_FILE = [
    "config.json", WEIGHTS, "tokenizer.json", "preprocessor_config.json", "tokenizer_config.json",
    "chat_template.jinja", "chat_template.json", "processor_config.json", "draft_lm.safetensors",
    "out_llm.safetensors", "out_voices.safetensors", "adapter_model.safetensors", "model.safetensors.index.json",
]  # fmt: skip


@pytest.mark.parametrize("name", EVERY_FILE)
def test_what_is_no_regular_file_is_refused_unopened(answering: Path, name: str) -> None:
    if name.endswith("index.json"):
        (answering / WEIGHTS).unlink()
    if "template" in name or name == "processor_config.json":
        (answering / "chat_template.jinja").unlink()
    path = answering / name
    outside = answering.parent / "outside"
    outside.write_text("{}")
    for make, what in (
        (lambda: os.mkfifo(path), "a FIFO"),
        (lambda: path.symlink_to("/dev/zero"), "a device"),
        (lambda: path.symlink_to(outside), "a link out of the folder"),
        (lambda: path.symlink_to(answering / "nothing"), "cannot be read"),
        (lambda: path.symlink_to(path), "cannot be read"),
        (lambda: path.mkdir(), "a folder"),
    ):
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(CheckpointError, match=what):
            load_model(answering, device="cpu")


@pytest.mark.parametrize("shared", [False, True], ids=["blobs of the repository", "blobs of the whole cache"])
def test_a_hub_snapshot_loads_whose_files_are_links(editing: Path, tmp_path: Path, shared: bool) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (tmp_path / "hub" / "blobs" / "ab").mkdir(parents=True)
    for path in editing.iterdir():
        blob = repository / "blobs" / path.name
        path.rename(tmp_path / "hub" / "blobs" / "ab" / path.name if shared else blob)
        if shared:
            blob.symlink_to(Path("../../blobs/ab") / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert load_model(snapshot, device="cpu").transcribe(tone()) is not None
    (snapshot / "config.json").unlink()
    (tmp_path / "secret").write_text("{}")
    (snapshot / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="a link out of the folder"):
        load_model(snapshot, device="cpu")


def test_a_folder_that_is_a_link_loads(editing: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(editing)
    assert load_model(tmp_path / "link", device="cpu").languages == load_model(editing, device="cpu").languages


@pytest.mark.parametrize("kind", ["bigger", "smaller", "other control tokens"])
def test_a_tokenizer_of_another_model_is_refused(editing: Path, kind: str) -> None:
    path = editing / "tokenizer.json"
    core = tokenizers.Tokenizer.from_file(str(path))
    if kind == "bigger":
        core.add_tokens(["zz"])
    else:
        values = json.loads(core.to_str())
        if kind == "smaller":
            kept = dict(list(values["model"]["vocab"].items())[:30])
            values["model"]["vocab"] = kept
            values["model"]["merges"] = [pair for pair in values["model"]["merges"] if "".join(pair) in kept]
        else:
            values["added_tokens"] = []
        core = tokenizers.Tokenizer.from_str(json.dumps(values))
    core.save(str(path))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: foreign to the model"):
        load_model(editing, device="cpu")


def test_rows_that_fill_up_a_vocabulary_are_no_tokens() -> None:
    alphabet = {chr(97 + number): number + 1 for number in range(26)} | {"<e>": 0}
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=alphabet, merges=[]))
    core.add_special_tokens(["<e>"])
    tokenizer = Tokenizer(core)
    for vocab_size in (27, 28, 32, 64, 128, 512):
        if vocab_size in (27, 32, 64, 128, 512):
            tokenizer.check(vocab_size, [("eos_token_id", 0)])
        else:
            with pytest.raises(CheckpointError, match="knows 27 of the model's 28 tokens"):
                tokenizer.check(vocab_size, [("eos_token_id", 0)])
    tokenizer.check(28, [("eos_token_id", 0), ("audio_token_index", 27)], 27)  # the placeholder has a row and no text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
         "may take for ever"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"},
                                                             "content": "aa"}] * 40}}, "41 parts"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "aaa"}}, "something longer"),
        ({"decoder": {"type": "Exotic"}}, "type 'Exotic'"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_could_take_for_ever_is_refused(editing: Path, change: dict[str, Any], message: str) -> None:
    values = json.loads((editing / "tokenizer.json").read_text())
    (editing / "tokenizer.json").write_text(json.dumps(values | change))
    with pytest.raises(CheckpointError, match=message):
        load_model(editing, device="cpu")


def test_a_tokenizer_that_draws_lots_is_refused(editing: Path) -> None:
    reconfigure(editing, "model", "dropout", 0.5, "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"dropout 0\.5"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, math.nan], np.float32), "1 samples that are NaN or infinite"),
        (np.full(9000, math.inf, np.float32), "9000 samples that are NaN or infinite"),
        (np.full(9000, 1e30, np.float32), "a sample of 1e"),
        (np.zeros(9000), "samples are float64 of shape"),
        (np.zeros(9000, np.int16), "samples are int16"),
        (np.zeros((9000, 2), np.float32), r"of shape \(9000, 2\)"),
        (np.ma.masked_array(np.zeros(9000, np.float32)), "masked"),
        ([0.0] * 9000, "samples are a list"),
    ],
)
def test_a_waveform_that_is_none_is_refused_and_harms_only_itself(
    sound: tuple[Path, Path], samples: Any, message: str
) -> None:
    bad = Waveform(samples, "mine")
    for folder in sound:
        model = load_model(folder, device="cpu")
        for run in (model.transcribe, lambda wave, m=model: list(m.stream(wave))):
            with pytest.raises(AudioError, match=f"mine: .*{message}"):
                run(bad)
        with pytest.raises(AudioError, match=message):
            recognize_clips(model.recognizer, [tone(), bad], Task())
        before, error, after = model.transcribe_each([tone(), bad, tone()])
        assert isinstance(error, AudioError) and before == after and not isinstance(before, RedlineError)


def test_a_list_of_end_tokens_ends_a_text_at_any(answering: Path) -> None:
    def text_of(model: Model) -> str:
        return recognize_clips(model.recognizer, [tone(1.0)], Task(prompt="say something"))[0].text

    plain = load_model(answering, device="cpu", drafts="none")
    text = text_of(plain)
    (first, *_) = plain.recognizer.tokenizer.encode(text)  # type: ignore[attr-defined]
    tokens = json.loads((answering / "tokenizer.json").read_text())
    name = next(token for token, id in tokens["model"]["vocab"].items() if id == first)
    tokens["added_tokens"].append({**tokens["added_tokens"][0], "id": first, "content": name})
    (answering / "tokenizer.json").write_text(json.dumps(tokens))
    reconfigure(answering, "text_config", "eos_token_id", [0, first])
    assert len(text_of(load_model(answering, device="cpu", drafts="none"))) < len(text)


def test_a_long_value_is_cut_in_the_error(editing: Path) -> None:
    reconfigure(editing, None, "unheard_of", [[]] * 100_000)
    with pytest.raises(ConfigError, match="unheard_of is") as refusal:
        load_model(editing, device="cpu")
    assert len(str(refusal.value)) < 500
    reconfigure(editing, None, "unheard_of", [[]] * 500_000)
    with pytest.raises(CheckpointError, match="bytes; at most 1048576 are read"):
        load_model(editing, device="cpu")
