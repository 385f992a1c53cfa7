"""Nothing in a checkpoint hangs, fills the memory or ends in a traceback: it is loaded, or refused with the reason."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from redline import tensor_file, untrusted
from redline.checkpoints import ar, heads, nar
from redline.checkpoints.draft_lm import DRAFT_LM, FORMAT
from redline.diarize import embedder
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import AudioError, CheckpointError, ConfigError, RedlineError
from redline.load import load_model
from redline.testing import recognize_clips
from redline.tokenizer import Tokenizer
from redline.transcriber import Model
from redline.types import SAMPLE_RATE, Task, Waveform
from tests import hostile

MANY = 500
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("sound")
    made = hostile.editing(base / "editing"), hostile.answering(base / "answering")
    for folder in made:
        load_model(folder, device="cpu")
    return made


@pytest.fixture
def editing(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[0], tmp_path / "editing"))


@pytest.fixture
def answering(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[1], tmp_path / "answering"))


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Whatever waits for ever fails instead."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def reconfigure(folder: Path, part: str | None, key: str, value: Any, file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    (values[part] if part else values)[key] = value
    (folder / file).write_text(json.dumps(values))


def tone(seconds: float = 0.5) -> Waveform:
    return Waveform((0.1 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 9)).astype(np.float32))


def test_five_hundred_spoiled_checkpoints_are_refused_or_loaded(sound: tuple[Path, Path], tmp_path: Path) -> None:
    refused = loaded = 0
    for seed in range(MANY):
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
    assert refused > MANY / 2 and loaded > MANY / 20


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
        nar.load(editing)


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
        nar.load(editing)


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["encoder.out.bias", "language_model.model.embed_tokens.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(
    editing: Path, bad: float, dtype: torch.dtype, name: str
) -> None:
    tensors = {
        key: one.to(dtype) if one.is_floating_point() else one for key, one in load_file(editing / WEIGHTS).items()
    }
    tensors[name].view(-1)[-1] = bad
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{name} has {'NaN' if math.isnan(bad) else 'infinity'} in it"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("file", ["out_forms.safetensors", "out_language.safetensors", "out_llm.safetensors"])
def test_heads_that_are_no_numbers_are_refused_by_name(editing: Path, answering: Path, file: str) -> None:
    folder = answering if file == "out_llm.safetensors" else editing
    from safetensors import safe_open

    with safe_open(folder / file, framework="pt") as opened:
        about = opened.metadata()
    tensors = load_file(folder / file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, folder / file, metadata=about)
    with pytest.raises(CheckpointError, match=rf"{name} has NaN in it"):
        load_model(folder, device="cpu")


def test_finite_is_exact_where_sums_overflow() -> None:
    assert tensor_file.finite(torch.full((9,), 3e38)) and tensor_file.finite(torch.tensor([3e38, -3e38, 3e38]))
    assert not tensor_file.finite(torch.tensor([math.inf, -math.inf])) and tensor_file.finite(torch.zeros(0))


def test_weights_beyond_the_range_that_was_asked_for_are_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.out.bias"][0] = 1e30
    save_file(tensors, editing / WEIGHTS)
    load_model(editing, device="cpu", dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"encoder\.out\.bias is beyond the range of torch\.float16"):
        nar.load(editing, dtype=torch.float16)


def test_a_variance_below_zero_is_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.layers.0.conv.batch_norm.running_var"][0] = -1.0
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"running_var is below 0"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(editing: Path, dtype: torch.dtype) -> None:
    tensors = load_file(editing / WEIGHTS)
    tensors["encoder.out.bias"] = tensors["encoder.out.bias"].to(dtype)
    save_file(tensors, editing / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"encoder\.out\.bias.* numbers of type"):
        load_model(editing, device="cpu")


def rewrite_header(path: Path, change: Any) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = change(raw[8 : 8 + length].decode())
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + raw[8 + length :])


def test_a_tensor_that_a_header_names_twice_is_refused(editing: Path) -> None:
    def twice(text: str) -> str:
        entry = json.dumps({"encoder.out.bias": json.loads(text)["encoder.out.bias"]})[1:-1]
        return text.rstrip()[:-1] + ", " + entry + "}"

    rewrite_header(editing / WEIGHTS, twice)
    with pytest.raises(CheckpointError, match=r"the key 'encoder\.out\.bias' is there twice"):
        load_model(editing, device="cpu")


def test_a_tensor_in_two_shards_is_refused(editing: Path) -> None:
    tensors = load_file(editing / WEIGHTS)
    (editing / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[8:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, editing / shard)
    index = {name: shard for shard, members in shards.items() for name in members}
    (editing / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"is both in a\.safetensors and in b\.safetensors"):
        load_model(editing, device="cpu")
    save_file({name: tensors[name] for name in names[:8]}, editing / "a.safetensors")
    load_model(editing, device="cpu")
    index[names[20]] = "a.safetensors"
    (editing / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"is not in it, though model\.safetensors\.index\.json says so"):
        load_model(editing, device="cpu")


def test_a_header_longer_than_any_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 33))
        file.truncate((1 << 33) + 8)  # a file with a hole takes no room
    with pytest.raises(CheckpointError, match="a header of 8589934592 bytes; at most"):
        tensor_file.read_header(path)


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
    made = Tokenizer(core)
    for vocab_size in (27, 28, 32, 64, 128, 512):
        if vocab_size in (27, 32, 64, 128, 512):
            made.check(vocab_size, [("eos_token_id", 0)])
        else:
            with pytest.raises(CheckpointError, match="knows 27 of the model's 28 tokens"):
                made.check(vocab_size, [("eos_token_id", 0)])
    made.check(28, [("eos_token_id", 0), ("audio_token_index", 27)], 27)  # the placeholder has a row and no text


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
    ("name", "change", "message"),
    [
        ("tokens.1", lambda t: t + 40, "ids beyond the vocabulary"),
        ("tokens.1", lambda t: t.flip(0), "not in order"),
        ("tokens.2", lambda t: t.float(), "tokens.2"),
        ("probs.1", lambda t: t[:-1], "probs.1"),
        ("heads.2", lambda t: t * 0, "heads.2"),
        ("heads.1", lambda t: t | 255, "heads.1"),
        ("parents.1", lambda t: t * 0, "backoffs.1"),
        ("range", lambda t: t.flip(0) * -1, "range"),
    ],
)
def test_n_grams_that_contradict_themselves_are_refused(editing: Path, name: str, change: Any, message: str) -> None:
    path = editing / DRAFT_LM
    tensors, about = tensor_file.load(path)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, path, metadata=about)
    with pytest.raises(CheckpointError, match=message):
        load_model(editing, device="cpu")


@pytest.mark.parametrize(
    "about", [{"order": "0"}, {"order": "9" * 20}, {"boundary": "-1"}, {"width": str(10**9)}, {"lm_weight": "nan"}, {}]
)
def test_n_grams_with_numbers_that_cannot_be_are_refused(editing: Path, about: dict[str, str]) -> None:
    tensors, said = tensor_file.load(editing / DRAFT_LM)
    save_file(tensors, editing / DRAFT_LM, metadata=said | about if about else {"format": FORMAT})
    with pytest.raises(CheckpointError, match=r"draft_lm\.safetensors"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("shape", [(), (3,), (54, 31), (0, 32), (54, 32, 1), (10**5, 32)])
@pytest.mark.parametrize("file", ["out_forms.safetensors", "out_language.safetensors", "out_llm.safetensors"])
def test_heads_of_another_shape_are_refused(editing: Path, answering: Path, file: str, shape: tuple[int, ...]) -> None:
    folder = answering if file == "out_llm.safetensors" else editing
    tensors, about = tensor_file.load(folder / file)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name] = torch.zeros(shape)
    save_file(tensors, folder / file, metadata=about)
    with pytest.raises(CheckpointError, match=rf"{file}: (does not fit|holds|\d+ rows)"):
        load_model(folder, device="cpu")


def test_a_head_of_a_million_languages_takes_no_memory(editing: Path) -> None:
    tensors, about = tensor_file.load(editing / heads.LANGUAGE_HEAD)
    rows = " ".join(map(str, range(200_000)))
    save_file(tensors, editing / heads.LANGUAGE_HEAD, metadata=about | {"rows": rows})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(editing, device="cpu")


@pytest.mark.parametrize("change", ["int64", "scale", "rows", "missing"])
def test_a_head_for_voices_that_is_spoiled_is_refused(answering: Path, change: str) -> None:
    path = answering / embedder.SPEAKER_HEAD
    embedder.save_embedder(SpeakerEmbedder(8), path)
    tensors, about = tensor_file.load(path)
    if change == "int64":
        tensors["linear.weight"] = tensors["linear.weight"].long()
    elif change == "scale":
        tensors["linear.weight.scale"] = torch.ones(3)
    elif change == "missing":
        del tensors["centre"]
    save_file(tensors, path, metadata=about | ({"rows": "4000"} if change == "rows" else {}))
    with pytest.raises(CheckpointError, match=r"does not fit"):
        load_model(answering, device="cpu")


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
    def heard(model: Model) -> str:
        return recognize_clips(model.recognizer, [tone(1.0)], Task(prompt="say something"))[0].text

    plain = load_model(answering, device="cpu", drafts="none")
    text = heard(plain)
    (first, *_) = plain.recognizer.tokenizer.encode(text)  # type: ignore[attr-defined]
    tokens = json.loads((answering / "tokenizer.json").read_text())
    name = next(token for token, id in tokens["model"]["vocab"].items() if id == first)
    tokens["added_tokens"].append({**tokens["added_tokens"][0], "id": first, "content": name})
    (answering / "tokenizer.json").write_text(json.dumps(tokens))
    reconfigure(answering, "text_config", "eos_token_id", [0, first])
    assert len(heard(load_model(answering, device="cpu", drafts="none"))) < len(text)


def test_a_long_value_is_cut_in_the_error(editing: Path) -> None:
    reconfigure(editing, None, "unheard_of", [[]] * 100_000)
    with pytest.raises(ConfigError, match="unheard_of is") as refusal:
        load_model(editing, device="cpu")
    assert len(str(refusal.value)) < 500
    reconfigure(editing, None, "unheard_of", [[]] * 500_000)
    with pytest.raises(CheckpointError, match="bytes; at most 1048576 are read"):
        load_model(editing, device="cpu")
