"""Checkpoints: every known layout loads to the same model, everything else is refused, save and load are inverse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redline.checkpoints import nar
from redline.decoding.slots import slot_batch
from redline.errors import CheckpointError, ConfigError
from redline.features import batch_features
from redline.models.config import MAX_SCORED_VOCAB
from redline.models.nar import NarModel
from redline.recognizer import NarRecognizer
from redline.tokenizer import Tokenizer
from redline.types import Task, Waveform
from tests.builders import recognize_clips

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LATER = GOLDEN / "nar-tiny"
FIRST = GOLDEN / "nar-tiny-first-revision"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors) or tensors, folder / WEIGHTS)


def reconfigure(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def slot_logits(model: NarModel) -> Tensor:
    wave = load_file(LATER / "expected.safetensors")["wave.2"]
    with torch.no_grad():
        encoded = model.encode(*batch_features([wave]))
        audio = model.embed_audio(encoded.exports, encoded.lengths)
        hidden = model.read(*audio, *slot_batch([[3, 4, 5, 6]], model.config.blank_token_id))
        return model.language_model.logits(hidden)


def same(a: NarModel, b: NarModel) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def to_native_names(tensors: dict[str, Tensor], later: bool = False) -> dict[str, Tensor]:
    """The renaming of the native port, written down the other way round; its later draft renames more."""
    renamed = {}
    for name, tensor in tensors.items():
        if re.search(r"^projector\..*(layer_norms\.\d|_norm)\.", name):
            continue
        name = name.replace("language_model.model.", "model.language_model.")
        name = name.replace("encoder.out_bpe.", "model.out_bpe.")
        name = re.sub(r"^(encoder|projector)\.", r"model.\1.", name)
        if later:
            for old, new in LATER_NATIVE.items():
                name = name.replace(old, new)
            renamed[name] = tensor
            continue
        name = name.replace("projector.window_positions", "projector.qformer.window_positions")
        name = name.replace("projector.out_linear", "projector.linear")
        for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f"cross_attention.{short}_proj", f"cross_attention.{long}")
        renamed[name.replace("cross_attention.o_proj", "o_proj")] = tensor
    renamed["lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    return renamed


LATER_NATIVE = {
    "projector.layer_projector": "projector.proj",
    "projector.out_linear": "projector.qformer.linear",
    "projector.query": "projector.qformer.queries",
    "projector.window_positions": "projector.qformer.pos_emb",
    ".cross_attention.": ".cross_attn.",
}


def to_native_config(values: dict[str, Any], later: bool = False) -> None:
    projector, encoder = values["projector_config"], values["encoder_config"]
    if later:
        encoder["vocabulary_size"] = encoder.pop("bpe_output_dim")
        encoder["pooling_window"] = encoder.pop("bpe_pooling_window")
        projector["num_hidden_layers"] = projector.pop("num_layers")
        projector["window_size"] = projector.pop("block_size")
        projector["layer_norm_eps"] = projector.pop("layernorm_eps")
        projector["attention_bias"] = projector.pop("attn_bias")
        for key in ("encoder_dim", "num_encoder_layers", "dropout_prob"):
            del projector[key]
    projector["num_attention_heads"] = projector.pop("num_heads")
    projector["intermediate_size"] = projector.pop("mlp_ratio") * projector["hidden_size"]
    for key in ("llm_dim", "mlp_bias"):
        del projector[key]
    encoder["cat_hidden_layers"] = values.pop("encoder_layer_indices")[:-1]
    for key in ("blank_token_id", "pred_dropout", "dim_head", "self_conditioning_layer"):
        del encoder[key]
    for key in ("min_edit_sequence_length", "scale_projected_embeddings"):
        del values[key]


def test_both_revisions_are_the_same_model() -> None:
    later, later_config, _ = nar.load_nar(LATER)
    first, first_config, _ = nar.load_nar(FIRST)
    assert later_config == first_config
    blank = later_config.blank_token_id
    assert len(first.encoder.out_bpe.weight) == later_config.text.vocab_size
    assert torch.equal(first.encoder.out_bpe.weight[blank], load_file(FIRST / WEIGHTS)["encoder.out_bpe.weight"][0])
    assert same(later, first)


@pytest.mark.parametrize("later", [False, True], ids=["refs/pr/6", "later draft"])
def test_native_port_loads_to_identical_logits(folder: Path, later: bool) -> None:
    def identity_norms(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if re.search(r"^projector\..*(layer_norms\.\d|_norm)\.", name):
                tensors[name].fill_(1.0 if name.endswith("weight") else 0.0)

    rewrite(folder, identity_norms)
    published, config, _ = nar.load_nar(folder)
    rewrite(folder, lambda tensors: to_native_names(tensors, later))
    reconfigure(folder, lambda values: to_native_config(values, later))
    native, native_config, _ = nar.load_nar(folder)
    assert native_config == replace(config, frame_rule="native", min_edit_sequence_length=1)
    assert same(native, published)
    assert torch.equal(slot_logits(native), slot_logits(published))


def test_the_native_port_has_its_own_front_end_and_no_least_number_of_slots(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, to_native_names)
    reconfigure(folder, to_native_config)
    model = nar.load_nar(folder)[0]
    wave = load_file(LATER / "expected.safetensors")["wave.1"]  # one sample less than 50 whole frames
    recognizer = NarRecognizer(model, Tokenizer.from_file(LATER / "tokenizer.json"), name="native")
    lengths: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, given: lengths.append(given[1]))
    recognize_clips(recognizer, [Waveform(wave.numpy())], Task())
    assert (len(wave), lengths[0].tolist()) == (15_999, [50])
    assert model.config.min_edit_sequence_length == 1
    # Written again in the published layout, it is still asked as the port is.
    saved = nar.save_nar(tmp_path / "saved", model, LATER / "tokenizer.json")
    assert nar.load_nar(saved)[1] == model.config and model.config.frame_rule == "native"


def test_a_least_number_of_slots_that_the_config_states_holds_in_every_layout(folder: Path) -> None:
    rewrite(folder, to_native_names)
    reconfigure(folder, to_native_config)
    reconfigure(folder, lambda values: values.update(min_edit_sequence_length=8))
    assert nar.load_nar(folder)[1].min_edit_sequence_length == 8


def test_layers_are_put_together_upwards_where_transformers_does_and_as_listed_where_the_published_code_does(
    folder: Path,
) -> None:
    rewrite(folder, to_native_names)
    reconfigure(folder, to_native_config)
    in_order = nar.load_nar(folder)[1]
    reconfigure(folder, lambda values: values["encoder_config"]["cat_hidden_layers"].reverse())
    assert nar.load_nar(folder)[1] == in_order and in_order.encoder_layer_indices == (1, 2, 3, -1)
    reconfigure(folder, lambda values: values["encoder_config"].update(cat_hidden_layers=[1, 1, 2]))
    with pytest.raises(ConfigError, match=r"cat_hidden_layers is \[1, 1, 2\]; allowed is a list of different"):
        nar.load_nar(folder)
    shutil.copyfile(LATER / WEIGHTS, folder / WEIGHTS)
    shutil.copyfile(LATER / "config.json", folder / "config.json")
    reconfigure(folder, lambda values: values.update(encoder_layer_indices=[3, 2, 1, -1]))
    assert nar.load_nar(folder)[1].encoder_layer_indices == (3, 2, 1, -1)
    reconfigure(folder, lambda values: values.update(encoder_layer_indices=[3, 2, 9, -1]))
    with pytest.raises(ConfigError, match=r"encoder_layer_indices is \[3, 2, 9, -1\]; allowed are lists of"):
        nar.load_nar(folder)


def test_published_mix_of_types_loads_and_batch_counters_may_be_absent(folder: Path) -> None:
    rewrite(folder, lambda t: {n: x.bfloat16() for n, x in t.items() if not n.endswith("num_batches_tracked")})
    model, _, _ = nar.load_nar(folder)
    floats = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert floats == {torch.float32}
    assert int(model.state_dict()["encoder.layers.0.conv.batch_norm.num_batches_tracked"]) == 0
    assert slot_logits(model).isfinite().all()
    half, _, _ = nar.load_nar(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_loaded_model_is_ready_to_use() -> None:
    model, _, folder = nar.load_nar(str(LATER))
    assert not model.training and folder == LATER
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_load_inverts_save(tmp_path: Path, dtype: torch.dtype) -> None:
    model, config, _ = nar.load_nar(FIRST, dtype=dtype)
    target = nar.save_nar(tmp_path / "a" / "saved", model, FIRST / "tokenizer.json", dtype=dtype)
    again, again_config, _ = nar.load_nar(target, dtype=dtype)
    assert again_config == config
    assert same(again, model)
    files = {"config.json", WEIGHTS, "tokenizer.json", "preprocessor_config.json"}
    assert {path.name for path in target.iterdir()} == files
    assert (target / "tokenizer.json").read_bytes() == (FIRST / "tokenizer.json").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["saved"]
    assert {x.dtype for x in load_file(target / WEIGHTS).values() if x.is_floating_point()} == {dtype}
    assert load_file(target / WEIGHTS).keys() == load_file(LATER / WEIGHTS).keys()


def test_others_may_read_a_checkpoint_as_any_other_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a")
    wanted = (tmp_path / "plain").stat().st_mode
    model, _, _ = nar.load_nar(folder)
    saved = nar.save_nar(tmp_path / "saved", model, LATER / "tokenizer.json")
    assert {file.stat().st_mode for file in saved.iterdir()} == {wanted}


def test_save_replaces_a_checkpoint_only_when_asked_and_nothing_else_ever(folder: Path, tmp_path: Path) -> None:
    model, _, _ = nar.load_nar(LATER)
    with pytest.raises(CheckpointError, match="already there"):
        nar.save_nar(folder, model, LATER / "tokenizer.json")
    with torch.no_grad():
        model.projector.query.zero_()
    nar.save_nar(folder, model, LATER / "tokenizer.json", overwrite=True)
    assert same(nar.load_nar(folder)[0], model)
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="only a checkpoint is ever replaced"):
        nar.save_nar(other, model, LATER / "tokenizer.json", overwrite=True)
    assert (other / "thesis.txt").exists()


def test_a_failed_save_leaves_nothing_and_harms_nothing(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    model, _, _ = nar.load_nar(LATER)
    with pytest.raises(FileNotFoundError):
        nar.save_nar(folder, model, folder / "no-such-tokenizer.json", overwrite=True)
    with torch.no_grad():
        model.projector.query.fill_(1e30)
    with pytest.raises(CheckpointError, match=r"not finite as torch\.float16: projector\.query"):
        nar.save_nar(folder, model, LATER / "tokenizer.json", dtype=torch.float16, overwrite=True)
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: {key: x for key, x in t.items() if key != name})


def add(name: str, like: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: {**t, name: t[like] + 1})


def reshape(name: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda t: {**t, name: torch.zeros(shape)})


def only(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(b"\x80\x04.")

    return change


def index(weight_map: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return change


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def autoregressive(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {n: x for n, x in tensors.items() if not n.startswith("projector.") and "out_bpe" not in n}
        return {**kept, "projector.qformer.layernorm.weight": torch.ones(4), "projector.query": torch.ones(1, 3, 4)}

    rewrite(folder, change)


EMBEDDINGS = "language_model.model.embed_tokens.weight"


def adapter(folder: Path) -> None:
    save_file({"a.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (drop("encoder.out.bias"), "1 missing: encoder.out.bias"),
    "missing projector norm": (drop("projector.out_norm.bias"), "1 missing: projector.out_norm.bias"),
    "unexpected tensor": (add("encoder.extra", "encoder.out.bias"), "1 unexpected: encoder.extra"),
    "wrong shape": (reshape("encoder.out.bias", (3,)), r"encoder.out.bias \[3\] instead of \[40\]"),
    "wrong BPE rows": (reshape("encoder.out_bpe.weight", (98, 48)), "98 rows; known are 96 .* and 97"),
    "two layouts at once": (add("llm.model.norm.weight", "language_model.model.norm.weight"), "layouts are mixed"),
    "untied head": (add("language_model.lm_head.weight", EMBEDDINGS), "ties the word embeddings"),
    "autoregressive model": (autoregressive, "not a NAR checkpoint: no encoder.out_bpe.weight"),
    "adapter beside the weights": (adapter, "adapter_model.safetensors beside the weights of a NAR model"),
    "torch pickle": (only("pytorch_model.bin"), "only pickle weights .pytorch_model.bin."),
    "lightning pickle": (only("last.ckpt"), "only pickle weights .last.ckpt."),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no weights; model.safetensors is needed"),
    "cut file": (cut, "not a whole safetensors file"),
    "index out of the folder": (index({"a": "../outside.safetensors"}), "only .safetensors files beside it"),
    "index with an absolute path": (index({"a": "/tmp/outside.safetensors"}), "only .safetensors files beside it"),
    "index with a pickle": (index({"a": "pytorch_model.bin"}), "only .safetensors files beside it"),
    "index without a map": (index(None), "no weight_map"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), "an object is needed"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_anything_else_is_refused(folder: Path, case: str) -> None:
    spoil, message = REFUSALS[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        nar.load_nar(folder)


def test_a_config_without_a_part_is_refused(folder: Path) -> None:
    reconfigure(folder, lambda values: values.pop("projector_config"))
    with pytest.raises(ConfigError, match="no projector_config"):
        nar.load_nar(folder)


def test_names_in_a_config_decide_nothing(folder: Path) -> None:
    reconfigure(
        folder,
        lambda values: values.update(
            model_type="granite_speech", architectures=["NLENARDecoder"], auto_map={"AutoModel": "evil.Model"}
        ),
    )
    (folder / "evil.py").write_text("raise SystemExit('code from a checkpoint was run')")
    assert same(nar.load_nar(folder)[0], nar.load_nar(LATER)[0])


def test_how_greedy_drafts_are_edited_is_kept_and_only_small_vocabularies_are_heard(tmp_path: Path) -> None:
    model, config, _ = nar.load_nar(LATER)
    assert not {"keep_bias", "sound_weight"} & config.to_dict().keys()
    model.config = replace(config, keep_bias=-3.0, sound_weight=1.2)
    folder = nar.save_nar(tmp_path / "told", model, LATER / "tokenizer.json")
    assert nar.load_nar(folder)[1] == model.config
    large = replace(config.text, vocab_size=MAX_SCORED_VOCAB + 1)
    encoder = replace(config.encoder, bpe_output_dim=MAX_SCORED_VOCAB + 1)
    replace(config, text=large, encoder=encoder)
    with pytest.raises(ConfigError, match="sound_weight needs a vocabulary of at most 8192"):
        replace(config, text=large, encoder=encoder, sound_weight=0.1)
