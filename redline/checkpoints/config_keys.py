"""Reading `config.json`: every key is used, harmless, or refused by name.

A key that is ignored by mistake gives wrong text without a word. So what a configuration asks for and is not built here
is an error that names the key and its value; so is a key that nobody knows, unless its value asks for nothing (null,
false, "", an empty list or object). The keys are those of the published Granite Speech configurations, of transformers'
classes for them, and our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from redline import untrusted
from redline.errors import ConfigError
from redline.models.config import (
    AR_LANGUAGES,
    SPEECH_KINDS,
    ArConfig,
    EncoderConfig,
    LMConfig,
    NarConfig,
    ProjectorConfig,
    QFormerConfig,
    ascending_layers,
    known,
)
from redline.models.config_rules import ValueRule, count, flag, items, name, number, only, part, rules_of, shown

Values = Mapping[str, Any]
SYNONYMS = {
    "num_heads": ("num_attention_heads", "num_key_value_heads"),
    "num_layers": ("num_hidden_layers",),
    "block_size": ("window_size",),
    "layernorm_eps": ("layer_norm_eps",),
    "attn_bias": ("attention_bias",),
    "hidden_size": ("encoder_hidden_size",),
    "bpe_pooling_window": ("pooling_window",),
}
"""Keys of NAR parts, and what drafts of the native port call them; where several are there, they must say the same."""


def _granite(value: Any) -> str | None:
    """The language model's kind: others have tensors of the same names and calculate differently."""
    sound = isinstance(value, str) and (value == "granite" or value.startswith("granite_speech"))
    return None if sound else "'granite' and 'granite_speech...'"


def _with_synonyms(rules: dict[str, ValueRule]) -> dict[str, ValueRule]:
    return rules | {other: rules[key] for key, others in SYNONYMS.items() if key in rules for other in others}


TOP_KEYS: dict[str, ValueRule] = {
    **dict.fromkeys(("encoder_config", "projector_config", "text_config"), part),
    **dict.fromkeys(("window_size", "downsample_rate"), count(4096)),
    "model_type": name,
    "tie_word_embeddings": flag,
}
ENCODER_KEYS = _with_synonyms(rules_of(EncoderConfig)) | {
    "cat_hidden_layers": items(count(256, 0), most=64),
    "vocabulary_size": count(1 << 22),
    "attn_type": only("block"),
}
NAR_PROJECTOR_KEYS = _with_synonyms(rules_of(ProjectorConfig)) | {
    "intermediate_size": count(1 << 20),
    "hidden_act": only("silu"),
    "encoder_layer_indices": rules_of(NarConfig)["encoder_layer_indices"],
}
QFORMER_KEYS = rules_of(QFormerConfig) | {"position_embedding_type": only("absolute")}
TEXT_KEYS = rules_of(LMConfig) | {
    "model_type": _granite,
    "original_max_position_embeddings": count(1 << 24),
    "rope_parameters": part,  # what is in these is judged where rotations are made
    "rope_scaling": part,
    "hidden_act": only("silu"),
    "attention_bias": only(False),
    "mlp_bias": only(False),
    "position_embedding_type": only("rope"),
    "partial_rotary_factor": only(1, 1.0),
    "layer_types": items(only("attention", "full_attention"), most=256),
    "num_local_experts": only(0),
    "num_experts_per_tok": only(0),
}
NAR_KEYS = TOP_KEYS | rules_of(NarConfig)
AR_KEYS = TOP_KEYS | rules_of(ArConfig) | {"audio_token_id": rules_of(ArConfig)["audio_token_index"]}
ADAPTER_KEYS: dict[str, ValueRule] = {
    "peft_type": only("LORA"),
    "lora_alpha": number(1e6),
    "r": count(1 << 16),
    "bias": only("none"),
    "use_rslora": flag,
}
PREPROCESSOR_KEYS: dict[str, ValueRule] = {
    **dict.fromkeys(("sampling_rate", "sample_rate"), only(16_000)),
    **dict.fromkeys(("n_mels", "feature_size"), only(80)),
    **dict.fromkeys(("projector_window_size", "projector_downsample_rate"), count(4096)),
    "n_fft": only(512),
    "win_length": only(400),
    "hop_length": only(160),
    "frame_stacking": only(2),
    "padding_value": only(0, 0.0),
    "melspec_kwargs": part,
}

# What may stand in any part and changes no text: names, since the tensors tell which model it is; precisions, which
# whoever loads chooses; what only training needs; how transformers keeps or runs a model; labels of classifiers.
HARMLESS = {
    "_name_or_path", "architectures", "auto_map", "model_type", "type", "projector_type", "feature_extractor_type",
    "processor_class", "tokenizer_class", "dtype", "torch_dtype", "use_bfloat16", "transformers_version",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "use_cache", "return_dict",
    "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "torchscript", "is_decoder",
    "pretraining_tp", "padding_side", "return_attention_mask", "initializer_range", "attention_dropout",
    "attention_probs_dropout_prob", "loss_lambda", "ce_loss_lambda", "encoder_ctc_loss_lambda", "tf_legacy_loss",
    "activation_dropout", "id2label", "label2id", "problem_type", "finetuning_task", "has_lora_adapter",
}  # fmt: skip
HARMLESS_IN = {
    # Characters of the encoder's head are code points; an editor has no placeholder of audio.
    "config.json": {"ctc_tokenizer", "audio_token_id", "audio_token_index"},
    # Of a text input that is not there.
    "projector_config": {"vocab_size", "max_position_embeddings", "pad_token_id"},
    # Where adapters are, their tensors tell; how they were begun and trained no longer matters.
    "adapter_config.json": {
        "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout",
        "init_lora_weights", "megatron_core", "qalora_group_size",
    },
}  # fmt: skip
GENERATION_DEFAULTS = {
    "diversity_penalty": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "no_repeat_ngram_size": 0,
    "length_penalty": 1, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1,
    "temperature": 1, "top_p": 1, "typical_p": 1,
    "max_length": 20, "top_k": 50,
}  # fmt: skip
"""How old versions of transformers wrote tokens, by default; another value asks for what is not done here."""


def check_keys(values: Values, used: Mapping[str, ValueRule], where: str) -> None:
    """Judge every key of one part; raises `ConfigError` with the key, its value and what is allowed."""
    harmless = HARMLESS | HARMLESS_IN.get(where, set())
    for key, value in values.items():
        if key in used:
            if value is not None and (allowed := used[key](value)):
                raise ConfigError(f"{where}: {key} is {shown(value)}; allowed are {allowed}")
        elif key not in harmless and not _asks_nothing(key, value):
            plain = key.isidentifier() and len(key) <= 80
            raise ConfigError(
                f"{where}: {key if plain else shown(key)} is {shown(value)}, which is not supported; a model that was "
                "made with it would write wrong text. Take the key out only if the model does not depend on it"
            )


def _used(values: Values, used: Mapping[str, ValueRule], where: str) -> dict[str, Any]:
    check_keys(values, used, where)
    return {key: value for key, value in values.items() if key in used and value is not None}


def _asks_nothing(key: str, value: Any) -> bool:
    empty = value is None or value is False or (isinstance(value, (str, list, tuple, Mapping)) and not value)
    return empty or (not isinstance(value, bool) and value == GENERATION_DEFAULTS.get(key))


def agree(synonyms: Values) -> None:
    """Refuse keys of one meaning with different values."""
    there = {key: value for key, value in synonyms.items() if value is not None}
    if any(value != next(iter(there.values())) for value in there.values()):
        raise ConfigError(f"{' but '.join(f'{key} is {shown(value)}' for key, value in there.items())}; they are one")


def _parts(
    values: Values, used: Mapping[str, ValueRule], projector: Mapping[str, ValueRule]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a `config.json` says, and its encoder, projector and language model."""
    judged = [_used(values, used, "config.json")]
    for where, rules in (("encoder_config", ENCODER_KEYS), ("projector_config", projector), ("text_config", TEXT_KEYS)):
        if where not in judged[0]:
            raise ConfigError(f"config.json has no {where}; the model needs encoder, projector and text configs")
        judged.append(_used(values[where], rules, where))
    top, encoder, projector_values, text = judged
    if "num_layers" in encoder:
        encoder.setdefault("self_conditioning_layer", encoder["num_layers"] // 2)
    if "hidden_dim" in encoder and "num_heads" in encoder:
        encoder.setdefault("dim_head", encoder["hidden_dim"] // encoder["num_heads"])
    return top, encoder, projector_values, text


def read_nar_config(values: Values, native: bool = False) -> NarConfig:
    """The config of a NAR model in any of the published layouts; raises `ConfigError`.

    The `native` port leaves values to be derived and has a front end of its own. Of several `eos_token_id` the first is
    the blank, where none is named.
    """
    top, encoder, projector, text = _parts(values, NAR_KEYS, NAR_PROJECTOR_KEYS)
    agree({"window_size of config.json": top.get("window_size"), "block_size": projector.get("block_size")})
    for key in ("downsample_rate", "encoder_layer_indices"):
        agree({f"{key} of config.json": top.get(key), f"{key} of projector_config": projector.get(key)})
    for stated in (encoder, projector):
        for key, others in SYNONYMS.items():
            same = {name: stated[name] for name in (key, *others) if name in stated}
            agree(same)
            if same:
                stated[key] = next(iter(same.values()))
    lm = LMConfig.from_dict(text)
    blank = top.get("blank_token_id", lm.eos_token_id)
    layers = projector.get("encoder_layer_indices", NarConfig.encoder_layer_indices)
    if "cat_hidden_layers" in encoder:
        layers = [*ascending_layers(encoder["cat_hidden_layers"]), -1]
    layers = top.get("encoder_layer_indices", layers)
    conformer = known(EncoderConfig, encoder | {"bpe_output_dim": lm.vocab_size, "blank_token_id": blank})
    derived = {"encoder_dim": conformer.hidden_dim, "llm_dim": lm.hidden_size, "num_encoder_layers": len(layers)}
    if "intermediate_size" in projector and "hidden_size" in projector:
        derived["mlp_ratio"] = projector["intermediate_size"] // projector["hidden_size"]
    joined = {
        "encoder": conformer,
        "projector": known(ProjectorConfig, derived | projector),
        "text": lm,
        "encoder_layer_indices": layers,
        "blank_token_id": blank,
    }
    return known(NarConfig, ({"frame_rule": "native", "min_edit_sequence_length": 1} if native else {}) | top | joined)


def read_ar_config(values: Values, tied: bool | None = None) -> ArConfig:
    """The config of an AR or Plus model; `tied` says whether the weights have no `lm_head` of their own.

    Raises `ConfigError`.
    """
    top, encoder, projector, text = _parts(values, AR_KEYS, QFORMER_KEYS)
    kind = top.get("model_type")
    if kind not in SPEECH_KINDS:
        raise ConfigError(f"model_type is {kind!r}; allowed are {', '.join(SPEECH_KINDS)}")
    agree({key: top.get(key) for key in ("audio_token_index", "audio_token_id")})
    if "audio_token_id" in top:
        top["audio_token_index"] = top["audio_token_id"]
    lm = LMConfig.from_dict(text)
    if tied is None:
        tied = bool(top.get("tie_word_embeddings", lm.tie_word_embeddings))
    conformer = known(EncoderConfig, {"pred_dropout": 0.0} | encoder)
    joined = {
        "kind": kind,
        "encoder": replace(conformer, bpe_output_dim=encoder.get("bpe_output_dim")),
        "projector": known(QFormerConfig, projector),
        "text": replace(lm, tie_word_embeddings=tied),
        "export_layers": encoder.get("cat_hidden_layers") or (),
    }
    return known(ArConfig, {"languages": AR_LANGUAGES[kind]} | top | joined)


def check_preprocessor(folder: Path, used: Mapping[str, ValueRule] = PREPROCESSOR_KEYS, **sizes: int) -> None:
    """Whether a checkpoint's `preprocessor_config.json` asks for the features that are made here.

    `sizes` are those of the projector, which it may state, too. Raises `ConfigError`.
    """
    path = folder / "preprocessor_config.json"
    values = untrusted.read_json(path) if untrusted.is_there(path) else {}
    check_keys(values, used, path.name)
    check_keys(values.get("melspec_kwargs") or {}, used, path.name)
    for key, needed in sizes.items():
        agree({f"projector_{key}": values.get(f"projector_{key}"), key: needed})
