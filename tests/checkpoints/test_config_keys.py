"""Configurations: every published one is read; whatever else one asks for is an error that names the key and value."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from redline.checkpoints import config_keys, nar
from redline.checkpoints.folder import bundled_names
from redline.errors import ConfigError, RedlineError
from redline.models import rope
from redline.models.config import ArConfig, LMConfig, NarConfig

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ASSETS = Path(nar.__file__).parents[1] / "assets"

ENCODER = {
    "context_size": 200, "conv_expansion_factor": 2, "conv_kernel_size": 15, "dim_head": 128, "dropout": 0.1,
    "feedforward_mult": 4, "hidden_dim": 1024, "input_dim": 160, "max_pos_emb": 512,
    "model_type": "granite_speech_encoder", "num_heads": 8, "num_layers": 16, "output_dim": 348,
    "torch_dtype": "bfloat16",
}  # fmt: skip
QFORMER = {
    "attention_probs_dropout_prob": 0.1, "cross_attention_frequency": 1, "encoder_hidden_size": 1024,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 4096, "layer_norm_eps": 1e-12, "max_position_embeddings": 2048,
    "model_type": "blip_2_qformer", "num_attention_heads": 16, "num_hidden_layers": 2, "pad_token_id": 0,
    "position_embedding_type": "absolute", "use_qformer_text_input": False, "vocab_size": 30522,
}  # fmt: skip
TEXT = {
    "attention_bias": False, "attention_dropout": 0.0, "attention_multiplier": 0.0078125, "bos_token_id": 100257,
    "dtype": "float32", "embedding_multiplier": 12, "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.1, "intermediate_size": 4096, "logits_scaling": 8.0, "max_position_embeddings": 4096,
    "mlp_bias": False, "model_type": "granite", "num_attention_heads": 16, "num_hidden_layers": 40,
    "num_key_value_heads": 4, "pad_token_id": 100256, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000, "rope_type": "default"}, "rope_scaling": None, "rope_theta": 10000.0,
    "use_cache": True, "vocab_size": 100353,
}  # fmt: skip
AR = {
    "architectures": ["GraniteSpeechForConditionalGeneration"], "audio_token_index": 100352, "downsample_rate": 5,
    "dtype": "bfloat16", "encoder_config": ENCODER, "has_lora_adapter": False, "initializer_range": 0.02,
    "model_type": "granite_speech", "projector_config": QFORMER, "text_config": TEXT, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.57.6", "window_size": 15,
}  # fmt: skip
PLUS = AR | {
    "model_type": "granite_speech_plus",
    "encoder_config": ENCODER | {"cat_hidden_layers": [3], "model_type": "granite_speech_plus_encoder"},
    "projector_config": QFORMER | {"encoder_hidden_size": 2048},
    "tie_word_embeddings": True,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 10000}
V2610 = PLUS | {"text_config": TEXT | {"rope_parameters": YARN, "max_position_embeddings": 16384}}
FIVE = AR | {"text_config": {**TEXT, "rope_parameters": None, "rope_scaling": YARN, "max_position_embeddings": 16384}}
NAR_TEXT = TEXT | {"vocab_size": 100352, "tie_word_embeddings": True}
FIRST = {
    "architectures": ["NLENARDecoder"], "attn_implementation": "flash_attention_2", "model_type": "nle",
    "auto_map": {"AutoModel": "modeling_nle.NLENARDecoder"}, "dtype": "bfloat16", "scale_projected_embeddings": True,
    "ctc_tokenizer": {"char2idx": {"a": 97}},
    "encoder_config": ENCODER | {"attn_type": "block", "loss_lambda": 0.2, "bpe_output_dim": 100353,
                                 "bpe_pooling_window": 4, "self_conditioning_layer": 8},
    "projector_config": {"type": "nle_projector", "block_size": 15, "downsample_rate": 5, "encoder_dim": 1024,
                         "hidden_size": 2048, "llm_dim": 2048, "mlp_ratio": 2, "num_layers": 2, "num_heads": 32,
                         "num_encoder_layers": 4, "attn_bias": True, "layernorm_eps": 1e-06,
                         "encoder_layer_indices": [4, 8, 12, -1]},
    "text_config": NAR_TEXT,
}  # fmt: skip
LATER = {
    "architectures": ["GraniteSpeechNarForASR"], "model_type": "granite_speech_nar", "blank_token_id": 100257,
    "ce_loss_lambda": 0.0, "encoder_ctc_loss_lambda": 0.0, "audio_token_id": None, "min_edit_sequence_length": 8,
    "encoder_layer_indices": [4, 8, 12, -1], "scale_projected_embeddings": True, "tie_word_embeddings": True,
    "encoder_config": ENCODER | {"bpe_output_dim": 100352, "blank_token_id": 100257, "pred_dropout": 0.25,
                                 "self_conditioning_layer": 8, "bpe_pooling_window": 4, "initializer_range": 0.02},
    "projector_config": {"block_size": 15, "downsample_rate": 5, "dropout_prob": 0.1, "encoder_dim": 1024,
                         "hidden_size": 2048, "llm_dim": 2048, "mlp_bias": True, "mlp_ratio": 2, "num_layers": 2,
                         "num_heads": 32, "num_encoder_layers": 4, "attn_bias": True, "layernorm_eps": 1e-06,
                         "model_type": "granite_speech_nar_projector"},
    "text_config": NAR_TEXT,
}  # fmt: skip
NATIVE = {
    "architectures": ["GraniteSpeechNarForCTC"], "model_type": "granite_speech_nar", "blank_token_id": 100257,
    "ce_loss_lambda": 0.0, "encoder_ctc_loss_lambda": 0.0, "downsample_rate": 5, "window_size": 15,
    "encoder_config": ENCODER | {"cat_hidden_layers": [4, 8, 12], "bpe_output_dim": 100352, "bpe_pooling_window": 4,
                                 "self_conditioning_layer": 8, "model_type": "granite_speech_nar_encoder"},
    "projector_config": {"attention_probs_dropout_prob": 0.0, "attn_bias": True, "block_size": 15,
                         "downsample_rate": 5, "dropout_prob": 0.1, "encoder_dim": 1024, "encoder_hidden_size": 2048,
                         "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 4096, "layernorm_eps": 1e-06,
                         "num_attention_heads": 32, "num_encoder_layers": 4, "num_layers": 2},
    "text_config": NAR_TEXT | {"model_type": "granite_speech_nar_text"},
    "tie_word_embeddings": True,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "2b": AR, "2b-plus": PLUS, "2b-plus v2610": V2610, "5.0-2b": FIVE, "nar first": FIRST, "nar later": LATER,
    "nar native": NATIVE, **{name: json.loads((ASSETS / name / "config.json").read_text()) for name in bundled_names()},
    **{path.name: json.loads((path / "config.json").read_text()) for path in sorted(GOLDEN.glob("nar-*"))},
}  # fmt: skip
WRONG = (
    "x", [], ["x"], {}, {"a": 1}, True, False, -1, 0, 1, 5, 10**8, 10**400, -0.5, 0.5, math.nan, math.inf, -math.inf,
    1e308, [[]], [-1], [10**9], [math.nan],
)  # fmt: skip


def read(values: dict[str, Any]) -> NarConfig | ArConfig:
    """What a loader makes of a `config.json`."""
    if values.get("model_type") in ("granite_speech", "granite_speech_plus"):
        return config_keys.read_ar_config(values)
    return config_keys.read_nar_config(values, native=values.get("architectures") == NATIVE["architectures"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_config_is_read(name: str) -> None:
    config = read(PUBLISHED[name])
    assert config.encoder.num_layers == PUBLISHED[name]["encoder_config"]["num_layers"]
    assert read(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("kind", ["GraniteSpeechConfig", "GraniteSpeechPlusConfig"])
def test_every_key_that_transformers_writes_is_known(kind: str) -> None:
    import transformers

    config = getattr(transformers, kind)(
        projector_config={"model_type": "blip_2_qformer", "encoder_hidden_size": 1024}, audio_token_index=5
    )
    whole = config_keys.read_ar_config(json.loads(config.to_json_string(use_diff=False)))
    assert whole == config_keys.read_ar_config(json.loads(config.to_json_string())), "what is left out is the default"
    assert whole.audio_token_index == 5 and whole.projector.encoder_hidden_size == 1024


def test_every_key_that_peft_writes_is_known(tmp_path: Path) -> None:
    import peft

    def check(values: dict[str, Any]) -> None:
        config_keys.check_keys(values, config_keys.ADAPTER_KEYS, "adapter_config.json")

    peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"]).save_pretrained(str(tmp_path))
    check(json.loads((tmp_path / "adapter_config.json").read_text()))
    for key, value in (("use_dora", True), ("rank_pattern", {"q": 2}), ("bias", "all"), ("lora_alpha", -1), ("r", 0)):
        with pytest.raises(ConfigError, match=f"{key} is"):
            check({"peft_type": "LORA", key: value})


def every_key(values: dict[str, Any]) -> Iterator[tuple[str | None, str]]:
    for key, value in values.items():
        yield None, key
        if key.endswith("_config") and isinstance(value, dict):
            yield from ((key, inner) for inner in value)


@pytest.mark.parametrize("name", ["2b", "2b-plus v2610", "5.0-2b", "nar first", "nar later", "nar native"])
def test_a_config_with_one_wrong_value_is_read_or_refused_by_name(name: str) -> None:
    published = PUBLISHED[name]
    rules = {
        None: config_keys.AR_KEYS if name[0] in "25" else config_keys.NAR_KEYS,
        "encoder_config": config_keys.ENCODER_KEYS,
        "projector_config": config_keys.QFORMER_KEYS if name[0] in "25" else config_keys.NAR_PROJECTOR_KEYS,
        "text_config": config_keys.TEXT_KEYS,
    }
    refused = 0
    for part, key in every_key(published):
        for wrong in WRONG:
            values = copy.deepcopy(published)
            (values[part] if part else values)[key] = wrong
            rule = rules[part].get(key)
            try:
                read(values)
                assert rule is None or rule(wrong) is None, f"{part} {key} {wrong!r}"
            except RedlineError as error:
                refused += 1
                if rule is not None and rule(wrong):
                    assert key in str(error) and "allowed are" in str(error), str(error)
                assert len(str(error)) < 1000
    assert refused > 500


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "attention_bias", True),
        ("text_config", "mlp_bias", True),
        ("text_config", "sliding_window", 512),
        ("text_config", "partial_rotary_factor", 0.5),
        ("text_config", "num_local_experts", 8),
        ("text_config", "mamba_d_state", 128),
        ("text_config", "layer_types", ["mamba", "attention"]),
        ("text_config", "position_embedding_type", "nope"),
        ("text_config", "model_type", "llama"),
        ("text_config", "repetition_penalty", 1.3),
        ("text_config", "suppress_tokens", [1]),
        ("text_config", "rope_scaling", {"rope_type": "longrope", "factor": 4.0}),
        ("text_config", "rms_norm_eps", math.nan),
        ("text_config", "residual_multiplier", -0.22),
        ("encoder_config", "hidden_act", "relu"),
        ("encoder_config", "attn_type", "full"),
        ("encoder_config", "input_dim", 80),
        ("projector_config", "hidden_act", "relu"),
        (None, "quantization_config", {"bits": 4}),
        (None, "model_type", ["granite_speech"]),
        (None, "a_key_of_tomorrow", 0.5),
    ],
)
@pytest.mark.parametrize("name", ["2b", "nar later"])
def test_what_a_config_asks_for_and_is_not_built_is_refused_by_key_and_value(
    name: str, part: str | None, key: str, value: Any
) -> None:
    values = copy.deepcopy(PUBLISHED[name])
    (values[part] if part else values)[key] = value
    seen = str(value).strip("[]{}'").split("'")[0].split(":")[0]
    with pytest.raises(ConfigError) as refusal:
        read(values)
    message = str(refusal.value)
    assert (key in message or "rope_type" in message) and (seen in message or "longrope" in message), message


def test_a_key_that_nobody_knows_is_harmless_where_it_asks_for_nothing() -> None:
    for nothing in (None, False, "", [], {}):
        assert read({**AR, "a_key_of_tomorrow": nothing}) == read(AR)


def test_keys_that_mean_one_thing_must_say_one_thing() -> None:
    for part, key, value in (
        ("projector_config", "encoder_hidden_size", 1024),
        ("projector_config", "num_heads", 16),
        ("projector_config", "window_size", 10),
    ):
        values = copy.deepcopy(NATIVE)
        values[part][key] = value
        with pytest.raises(ConfigError, match="they are one"):
            read(values)
    with pytest.raises(ConfigError, match="they are one"):
        read({**AR, "audio_token_id": 7})


def test_a_list_of_end_tokens_is_used() -> None:
    config = read({**AR, "text_config": TEXT | {"eos_token_id": [100257, 100265, 100257]}})
    assert config.text.eos_token_ids == (100257, 100265)
    assert LMConfig.from_dict(config.text.to_dict()) == config.text
    editing = read({**LATER, "blank_token_id": None, "text_config": NAR_TEXT | {"eos_token_id": [9, 7]}})
    assert isinstance(editing, NarConfig) and editing.blank_token_id == 9
    with pytest.raises(ConfigError, match="eos_token_id is"):
        read({**AR, "text_config": TEXT | {"eos_token_id": []}})
    with pytest.raises(ConfigError, match="which is an eos_token_id too"):
        read({**AR, "text_config": TEXT | {"eos_token_id": [1, 100352]}})


def test_features_that_are_not_made_here_are_refused(tmp_path: Path) -> None:
    sound = {"sampling_rate": 16000, "n_mels": 80, "melspec_kwargs": {"n_fft": 512}, "projector_window_size": 15,
             "projector_downsample_rate": 5, "processor_class": "GraniteSpeechProcessor", "feature_size": 80,
             "return_attention_mask": True, "padding_side": "right", "padding_value": 0.0}  # fmt: skip

    def check(values: dict[str, Any]) -> None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        config_keys.check_preprocessor(tmp_path, window_size=15, downsample_rate=5)

    check(sound)
    for key, value in (("sampling_rate", 8000), ("n_mels", 128), ("melspec_kwargs", {"hop_length": 80}),
                       ("projector_window_size", 10), ("dither", 0.1), ("melspec_kwargs", 3)):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(value)) if isinstance(value, dict) else key):
            check({**sound, key: value})


@pytest.mark.parametrize("name", ["2b-plus v2610", "5.0-2b"])
def test_positions_with_one_wrong_value_are_finite_or_refused(name: str) -> None:
    part = "rope_parameters" if name == "2b-plus v2610" else "rope_scaling"
    for key in ("type", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", *YARN):
        for wrong in (*WRONG, 1e-320, 1e300, 10**15):
            values = copy.deepcopy(PUBLISHED[name])
            values["text_config"][part][key] = wrong
            try:
                text = config_keys.read_ar_config(values).text
            except RedlineError as error:
                assert len(str(error)) < 1000
            else:
                turned = rope.rotation(torch.arange(9)[None], text.head_dim, text.rope_theta, text.yarn)
                assert all(part.isfinite().all() for part in turned), f"{key} {wrong!r}"
