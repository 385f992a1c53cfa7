"""Layouts of AR and Plus: both namings, adapters, sizes of the published models, the draft head's file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import ar
from redline.checkpoints.layouts import AR_LAYOUT, LM_HEAD
from redline.errors import CheckpointError, ConfigError
from redline.features import FRAME_SAMPLES, num_frames, pad
from redline.models.ar import ArModel
from redline.models.config import ArConfig
from redline.models.conformer import ConformerEncoder
from tests.model_configs import plus_config
from tests.models.ar_referee import clips, prompts, referee


@pytest.mark.parametrize("prefix", ["", "model."])
def test_both_namings_load(tmp_path: Path, prefix: str) -> None:
    theirs = referee("granite_speech")
    theirs.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    bare = {
        name.removeprefix("model.")
        .replace("lm_head", "language_model.lm_head")
        .replace("language_model.language_model", "language_model"): tensor
        for name, tensor in tensors.items()
    }
    assert any(name.startswith("encoder.") for name in bare)
    if prefix:
        bare = {
            f"model.{name}".replace("model.language_model.lm_head", "lm_head").replace(
                "model.language_model.model.", "model.language_model."
            ): tensor
            for name, tensor in bare.items()
        }
    save_file(bare, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    ours = ar.load_ar(tmp_path / "saved").model
    config = ours.config
    assert not config.text.tie_word_embeddings
    torch.testing.assert_close(ours.language_model.lm_head.weight, theirs.lm_head.weight)


def test_what_is_saved_here_is_read_by_the_referee_and_back(tmp_path: Path, pair: tuple[Any, ArModel]) -> None:
    theirs, ours = pair
    (tmp_path / "tokenizer.json").write_text("{}")
    ar.save_ar(tmp_path / "model", ours, tmp_path / "tokenizer.json", chat_template="{{ 1 }}")
    again = type(theirs).from_pretrained(tmp_path / "model")
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)
    assert ar.load_ar(tmp_path / "model").model.config == ours.config
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == "{{ 1 }}"


@pytest.mark.parametrize(("cat_hidden_layers", "frequency"), [([0, 2], 1), ([1, 3], 2), ([3, 0, 2], 1)])
@torch.no_grad()
def test_other_exports_and_sparser_cross_attention_equal_the_referees(
    tmp_path: Path, cat_hidden_layers: list[int], frequency: int
) -> None:
    theirs = referee("granite_speech_plus", cat_hidden_layers=cat_hidden_layers, cross_attention_frequency=frequency)
    theirs.save_pretrained(tmp_path)
    ours = ar.load_ar(tmp_path).model
    x, lengths = pad([clips()[3]])
    wanted = theirs.model.get_audio_features(x, return_dict=True).pooler_output
    torch.testing.assert_close(ours.embed_audio(ours.encode(x, lengths))[0], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", ["in a file of their own", "among the weights", "in both"])
@torch.no_grad()
def test_adapters_are_merged_once_wherever_they_are(tmp_path: Path, place: str) -> None:
    import peft

    theirs = referee("granite_speech")
    theirs.save_pretrained(tmp_path)
    # The scale is alpha / rank; both matrices are filled, because B begins as zero and would prove nothing.
    adapted = peft.get_peft_model(
        theirs, peft.LoraConfig(r=4, lora_alpha=6, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.3)
    adapted.save_pretrained(str(tmp_path))
    weights, adapters = (load_file(tmp_path / name) for name in ("model.safetensors", "adapter_model.safetensors"))
    if place == "among the weights":
        (tmp_path / "adapter_model.safetensors").unlink()
        save_file(weights | adapters, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if place == "in both":  # as `save_pretrained` of a model with an adapter writes them, names included
        both = {re.sub(r"(language_model.*\.[qv]_proj)\.", r"\1.base_layer.", name): x for name, x in weights.items()}
        for name, tensor in adapters.items():
            name = name.replace("base_model.model.model.language_model.", "language_model.model.")
            both[re.sub(r"lora_([AB])\.", r"lora_\1.default.", name)] = tensor
        assert len(both) == len(weights) + len(adapters)
        save_file(both, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = ar.load_ar(tmp_path).model
    x, lengths = pad([clips()[4]])
    asked = prompts(ours)[4]
    count = ours.projector.num_tokens(len(x[0]))
    output = adapted(input_ids=torch.tensor([asked]), input_features=x, input_features_mask=torch.ones(1, count) > 0)
    wanted = output.logits / ours.config.text.logits_scaling
    torch.testing.assert_close(ours(x, lengths, [asked])[0], wanted, atol=1e-4, rtol=1e-4)
    if place == "in both":
        halved = {name: tensor.bfloat16() for name, tensor in adapters.items()}  # a copy of less precision is a copy
        save_file(halved, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
        again = ar.load_ar(tmp_path).model.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in ours.state_dict().items())
        for other in (lambda tensor: tensor * 1.5, lambda tensor: tensor[:1]):
            changed = dict(adapters)
            name = sorted(changed)[-1]
            changed[name] = other(changed[name]).contiguous()
            save_file(changed, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
            with pytest.raises(CheckpointError, match=r"v_proj\.lora_B\.weight is in the weights and in .*they differ"):
                ar.load_ar(tmp_path)
        save_file(adapters, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="that tells their scale"):
        ar.load_ar(tmp_path)


@pytest.mark.parametrize(("config", "tensors", "projector"), [(ArConfig(), 938, 35.7), (plus_config(), 937, 39.9)])
def test_full_size_models_have_the_published_tensors(config: ArConfig, tensors: int, projector: float) -> None:
    with torch.device("meta"):
        state = ArModel(config).state_dict()
    counters = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    assert (len(state) - len(counters), len(counters)) == (tensors, 16)
    size = sum(tensor.numel() for name, tensor in state.items() if name.startswith("projector."))
    assert size / 1e6 == pytest.approx(projector, abs=0.06)
    shapes = {
        "projector.query": (1, 3, 1024),
        "projector.qformer.layernorm.weight": (1024,),
        "projector.qformer.encoder.layer.1.attention.attention.query.weight": (1024, 1024),
        "projector.qformer.encoder.layer.1.crossattention.attention.key.weight": (
            1024,
            config.projector.encoder_hidden_size,
        ),
        "projector.qformer.encoder.layer.0.crossattention.output.LayerNorm.bias": (1024,),
        "projector.qformer.encoder.layer.0.intermediate_query.dense.weight": (4096, 1024),
        "projector.qformer.encoder.layer.0.output_query.dense.weight": (1024, 4096),
        "projector.linear.weight": (2048, 1024),
        "language_model.model.embed_tokens.weight": (100_353, 2048),
        "encoder.layers.15.attn.rel_pos_emb.weight": (1025, 128),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert ("language_model.lm_head.weight" in state) is not config.text.tie_word_embeddings


@pytest.mark.parametrize("config", [ArConfig(), plus_config()], ids=["2b", "2b-plus"])
def test_full_size_models_have_the_referees_names_and_shapes(config: ArConfig) -> None:
    import transformers

    kind = "GraniteSpeechPlus" if config.kind == "granite_speech_plus" else "GraniteSpeech"
    values = config.to_dict()
    encoder = {key: value for key, value in values["encoder_config"].items() if key != "model_type"}
    referee_config = getattr(transformers, f"{kind}Config")(
        encoder_config=encoder,
        projector_config=values["projector_config"],
        text_config=values["text_config"],
        audio_token_index=config.audio_token_index,
        tie_word_embeddings=config.text.tie_word_embeddings,
    )
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(referee_config).state_dict()
        ours = ArModel(config).state_dict()
    renamed = AR_LAYOUT.rename(theirs, Path("referee"))
    if config.text.tie_word_embeddings:
        renamed.pop(LM_HEAD)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_audio_tokens_of_the_published_sizes_equal_the_referees() -> None:
    import transformers

    extractor = object.__new__(transformers.GraniteSpeechFeatureExtractor)
    extractor.melspec_kwargs = {"hop_length": 160}
    extractor.projector_window_size, extractor.projector_downsample_rate = 15, 5
    with torch.device("meta"):
        projector = ArModel(ArConfig()).projector
    samples = [*range(257, 6000, 37), *range(15 * FRAME_SAMPLES - 200, 15 * FRAME_SAMPLES + 400, 40), 160_000, 160_159]
    counted = [projector.num_tokens(num_frames(count, "ar")) for count in samples]
    assert counted == extractor._get_num_audio_features(samples)


@torch.no_grad()
def test_the_draft_head_reads_pooled_frames_and_has_its_blank_last(tmp_path: Path, pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    (tmp_path / "tokenizer.json").write_text("{}")
    folder = ar.save_ar(tmp_path / "model", ours, tmp_path / "tokenizer.json")
    head = {"weight": torch.randn(96, 32), "bias": torch.randn(96)}
    save_file(head, folder / "out_llm.safetensors")
    loaded = ar.load_ar(folder).model
    assert loaded.draft_head is not None
    encoded = loaded.encode(*pad(clips()))
    logits, lengths = loaded.draft_head(encoded)
    assert lengths.tolist() == [1, 4, 4, 11, 17]
    alone = loaded.draft_head(loaded.encode(*pad([clips()[3]])))[0]
    torch.testing.assert_close(logits[3, :11], alone[0], atol=1e-5, rtol=1e-5)
    weights = 1 - encoded.mid_logits.softmax(-1)[3, 4:8, :1]
    pooled = (weights * encoded.hidden[3, 4:8]).sum(0) / weights.sum()
    wanted = pooled @ head["weight"].T + head["bias"]  # the blank's row first
    torch.testing.assert_close(logits[3, 1], wanted.roll(-1), atol=1e-5, rtol=1e-5)
    assert loaded.draft_head.blank == 95
    saved = load_file(ar.save_ar(tmp_path / "again", loaded, tmp_path / "tokenizer.json") / "out_llm.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in head.items())
    save_file({"weight": torch.randn(98, 32), "bias": torch.randn(98)}, folder / "out_llm.safetensors")
    with pytest.raises(CheckpointError, match="98 rows; allowed are the blank and up to 96 tokens"):
        ar.load_ar(folder)


def test_a_checkpoint_that_does_not_fit_is_told(tmp_path: Path) -> None:
    theirs = referee("granite_speech_plus")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder_config"]["cat_hidden_layers"] = [1, 2]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="encoder_hidden_size is 64; 3 encoder layers of width 32 make 96"):
        ar.load_ar(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not an AR or Plus checkpoint"):
        ar.load_ar(tmp_path)


def test_the_encoder_is_one_for_all_models() -> None:
    """The AR encoder has the names and shapes of the NAR encoder, which adds its token head."""
    with torch.device("meta"):
        names = ConformerEncoder(ArConfig().encoder).state_dict().keys()
    assert len(names) == 518 + 16
    assert not any(name.startswith("out_bpe") for name in names)
