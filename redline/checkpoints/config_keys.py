"""Every key that a `config.json` may have: used, with what is allowed; harmless, with the reason; or refused by name.

A key that is ignored by mistake gives wrong text without a word. So what a configuration asks for and is not built here
is an error that names the key and its value. A key that nobody knows is refused too, unless its value asks for nothing
(null, false, "", an empty list or object). The keys are those of the published Granite Speech configurations, of
transformers' classes for them, and our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redline.errors import ConfigError
from redline.models.config_rules import Rule, count, either, flag, items, name, number, only, part, shown


def seconds_by_task(value: Any) -> str | None:
    """`longest_clip_s`."""
    rule, tasks = number(1e6, 1, above=False), ("plain", "words", "speakers")
    sound = isinstance(value, Mapping) and all(key in tasks and rule(one) is None for key, one in value.items())
    return None if sound else f"1 to 1e6 seconds for {', '.join(tasks)}"


def granite(value: Any) -> str | None:
    """The language model's kind: others have tensors of the same names and calculate differently."""
    known = isinstance(value, str) and (value == "granite" or value.startswith("granite_speech"))
    return None if known else "'granite' and 'granite_speech...'"


WIDTH, LAYERS, HEADS, VOCABULARY = count(65_536), count(256), count(1024), count(1 << 22)
ID, SHARE, EPS, FACTOR = count((1 << 22) - 1, 0), number(1.0, above=False), number(1.0), number(1e6)
PLACES = items(count(256, -257), most=64)

ENCODER: dict[str, Rule] = {
    "input_dim": only(160),
    "num_layers": LAYERS,
    "hidden_dim": WIDTH,
    "feedforward_mult": count(64),
    "num_heads": HEADS,
    "dim_head": count(4096),
    "output_dim": count(65_536, 2),
    "context_size": count(16_384),
    "max_pos_emb": count(16_384),
    "dropout": SHARE,
    "pred_dropout": SHARE,
    "conv_kernel_size": count(1023),
    "conv_expansion_factor": count(64),
    "self_conditioning_layer": LAYERS,
    "bpe_output_dim": VOCABULARY,
    "bpe_pooling_window": count(1024),
    "blank_token_id": ID,
    "subsample_layers": items(count(256), most=8),
    "cat_hidden_layers": items(count(256, 0), most=64),
    "pooling_window": count(1024),
    "vocabulary_size": VOCABULARY,
    "attn_type": only("block"),
}
NAR_PROJECTOR: dict[str, Rule] = {
    "encoder_dim": WIDTH,
    "llm_dim": WIDTH,
    "downsample_rate": count(4096),
    "num_encoder_layers": count(64),
    "hidden_size": WIDTH,
    "num_heads": HEADS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_layers": LAYERS,
    "num_hidden_layers": LAYERS,
    "dropout_prob": SHARE,
    "block_size": count(4096),
    "window_size": count(4096),
    "mlp_ratio": count(64),
    "intermediate_size": count(1 << 20),
    "layernorm_eps": EPS,
    "layer_norm_eps": EPS,
    "attn_bias": flag,
    "attention_bias": flag,
    "mlp_bias": flag,
    "hidden_act": only("silu"),
    "encoder_hidden_size": WIDTH,
    "encoder_layer_indices": PLACES,
}
QFORMER: dict[str, Rule] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": count(1 << 20),
    "encoder_hidden_size": count(1 << 22),
    "layer_norm_eps": EPS,
    "hidden_dropout_prob": SHARE,
    "hidden_act": only("gelu"),
    "cross_attention_frequency": LAYERS,
    "use_qformer_text_input": only(False),
    "position_embedding_type": only("absolute"),
}
TEXT: dict[str, Rule] = {
    "model_type": granite,
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": count(1 << 20),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": count(4096),
    "max_position_embeddings": count(1 << 24),
    "rms_norm_eps": EPS,
    "attention_multiplier": FACTOR,
    "embedding_multiplier": FACTOR,
    "residual_multiplier": FACTOR,
    "logits_scaling": FACTOR,
    "rope_theta": number(1e12),
    "original_max_position_embeddings": count(1 << 24),
    # What is in these is read and judged where rotations are made.
    "rope_parameters": part,
    "rope_scaling": part,
    "pad_token_id": count((1 << 22) - 1, -1),
    "bos_token_id": count((1 << 22) - 1, -1),
    "eos_token_id": either(ID, items(ID, most=64, least=1)),
    "tie_word_embeddings": flag,
    "hidden_act": only("silu"),
    "attention_bias": only(False),
    "mlp_bias": only(False),
    "position_embedding_type": only("rope"),
    "partial_rotary_factor": only(1, 1.0),
    "layer_types": items(only("attention", "full_attention"), most=256),
    "num_local_experts": only(0),
    "num_experts_per_tok": only(0),
}
NAR: dict[str, Rule] = {
    "encoder_config": part,
    "projector_config": part,
    "text_config": part,
    "model_type": name,
    "encoder_layer_indices": PLACES,
    "scale_projected_embeddings": flag,
    "blank_token_id": ID,
    "min_edit_sequence_length": count(256, 0),
    "frame_rule": only("nar", "native"),
    "languages": items(name, most=1000, least=1),
    "tie_word_embeddings": flag,
    "window_size": count(4096),
    "downsample_rate": count(4096),
}
SPEECH: dict[str, Rule] = {
    "encoder_config": part,
    "projector_config": part,
    "text_config": part,
    "model_type": name,
    "audio_token_index": ID,
    "audio_token_id": ID,
    "window_size": count(4096),
    "downsample_rate": count(4096),
    "tie_word_embeddings": flag,
    "languages": items(name, most=1000, least=1),
    "trusts_draft": flag,
    "longest_clip_s": seconds_by_task,
}
ADAPTER: dict[str, Rule] = {
    "peft_type": only("LORA"),
    "lora_alpha": number(1e6),
    "r": count(1 << 16),
    "bias": only("none"),
    "use_rslora": flag,
}
PREPROCESSOR: dict[str, Rule] = {
    "sampling_rate": only(16_000),
    "sample_rate": only(16_000),
    "n_fft": only(512),
    "win_length": only(400),
    "hop_length": only(160),
    "n_mels": only(80),
    "feature_size": only(80),
    "frame_stacking": only(2),
    "padding_value": only(0, 0.0),
    "melspec_kwargs": part,
    "projector_window_size": count(4096),
    "projector_downsample_rate": count(4096),
}

NAR_SYNONYMS = (
    {"num_heads", "num_attention_heads", "num_key_value_heads"},
    {"num_layers", "num_hidden_layers"},
    {"block_size", "window_size"},
    {"layernorm_eps", "layer_norm_eps"},
    {"attn_bias", "attention_bias"},
    {"bpe_pooling_window", "pooling_window"},
    {"hidden_size", "encoder_hidden_size"},
)
"""Keys of a part that mean one thing, by revision; where two are there, they must say the same."""

_NAME = "a name; which model it is, the tensors tell"
_PRECISION = "the precision is read from the tensors and chosen by whoever loads them"
_TRAINING = "only training needs it"
_KEPT = "how transformers keeps or runs the model, not what it calculates"
_LABELS = "labels of classifiers"
HARMLESS = {
    "_name_or_path": _NAME,
    "architectures": _NAME,
    "auto_map": "code is never run",
    "model_type": _NAME,
    "type": _NAME,
    "projector_type": _NAME,
    "feature_extractor_type": _NAME,
    "processor_class": _NAME,
    "tokenizer_class": _NAME,
    "dtype": _PRECISION,
    "torch_dtype": _PRECISION,
    "use_bfloat16": _PRECISION,
    "transformers_version": _KEPT,
    "attn_implementation": _KEPT,
    "_attn_implementation": _KEPT,
    "_attn_implementation_autoset": _KEPT,
    "use_cache": _KEPT,
    "return_dict": _KEPT,
    "output_attentions": _KEPT,
    "output_hidden_states": _KEPT,
    "chunk_size_feed_forward": _KEPT,
    "torchscript": _KEPT,
    "is_decoder": _KEPT,
    "pretraining_tp": _KEPT,
    "padding_side": _KEPT,
    "return_attention_mask": _KEPT,
    "initializer_range": _TRAINING,
    "attention_dropout": _TRAINING,
    "attention_probs_dropout_prob": _TRAINING,
    "loss_lambda": _TRAINING,
    "ce_loss_lambda": _TRAINING,
    "encoder_ctc_loss_lambda": _TRAINING,
    "tf_legacy_loss": _TRAINING,
    "id2label": _LABELS,
    "label2id": _LABELS,
    "problem_type": _LABELS,
    "finetuning_task": _LABELS,
    "has_lora_adapter": "adapters are found by their tensors",
}
"""What may stand in any part, and why it changes no text."""
HARMLESS_IN: dict[str, dict[str, str]] = {
    "config.json": {
        "ctc_tokenizer": "characters of the encoder's head, which are code points",
        "audio_token_id": "an editor has no placeholder of audio",
        "audio_token_index": "an editor has no placeholder of audio",
    },
    "adapter_config.json": dict.fromkeys(
        (
            "task_type",
            "auto_mapping",
            "peft_version",
            "base_model_name_or_path",
            "revision",
            "inference_mode",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "lora_dropout",
            "init_lora_weights",
            "megatron_core",
            "qalora_group_size",
        ),
        "where adapters are, their tensors tell; how they were begun and trained no longer matters",
    ),
    "projector_config": {
        "vocab_size": "of a text input that is not there",
        "max_position_embeddings": "of a text input that is not there",
        "pad_token_id": "of a text input that is not there",
    },
}
DEFAULTS: dict[str, Any] = {
    "bad_words_ids": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}
"""How old versions of transformers wrote tokens, by default; another value asks for what is not done here."""


def check(values: Mapping[str, Any], used: Mapping[str, Rule], where: str) -> None:
    """Judge every key of one part; raises `ConfigError` with the key, its value and what is allowed."""
    harmless = HARMLESS | HARMLESS_IN.get(where, {})
    for key, value in values.items():
        if key in used:
            allowed = None if value is None else used[key](value)
            if allowed:
                raise ConfigError(f"{where}: {key} is {shown(value)}; allowed are {allowed}")
        elif key in DEFAULTS and type(value) is type(DEFAULTS[key]) and value == DEFAULTS[key]:
            continue
        elif key not in harmless and not (value is None or value is False or _has_no_items(value)):
            plain = key.isidentifier() and len(key) <= 80
            raise ConfigError(
                f"{where}: {key if plain else shown(key)} is {shown(value)}, which is not supported; a model that was "
                "made with it would write wrong text. Take the key out only if the model does not depend on it"
            )


def _has_no_items(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, Mapping)) and len(value) == 0


def _parts(values: Mapping[str, Any], used: Mapping[str, Rule], projector: Mapping[str, Rule]) -> None:
    check(values, used, "config.json")
    for where, rules in (("encoder_config", ENCODER), ("projector_config", projector), ("text_config", TEXT)):
        if isinstance(values.get(where), Mapping):
            check(values[where], rules, where)


def check_nar(values: Mapping[str, Any]) -> None:
    """Judge the `config.json` of a NAR model, in any of the published layouts; raises `ConfigError`."""
    _parts(values, NAR, NAR_PROJECTOR)
    encoder, projector = (values.get(part) or {} for part in ("encoder_config", "projector_config"))
    _agree({"window_size of config.json": values.get("window_size"), "block_size": projector.get("block_size")})
    for names in NAR_SYNONYMS:
        _agree({key: one.get(key) for one in (encoder, projector) for key in names if len(names & one.keys()) > 1})
    for key in ("downsample_rate", "encoder_layer_indices"):
        _agree({f"{key} of config.json": values.get(key), f"{key} of projector_config": projector.get(key)})


def check_speech(values: Mapping[str, Any]) -> None:
    """Judge the `config.json` of an AR or Plus model; raises `ConfigError`."""
    _parts(values, SPEECH, QFORMER)
    _agree({key: values.get(key) for key in ("audio_token_index", "audio_token_id")})


def check_adapter(values: Mapping[str, Any]) -> None:
    """Judge an `adapter_config.json`; raises `ConfigError` for what is not plain LoRA."""
    check(values, ADAPTER, "adapter_config.json")


def check_preprocessor(values: Mapping[str, Any], window_size: int | None, downsample_rate: int | None) -> None:
    """Judge a `preprocessor_config.json` against the features that are made here; raises `ConfigError`."""
    check(values, PREPROCESSOR, "preprocessor_config.json")
    check(values.get("melspec_kwargs") or {}, PREPROCESSOR, "preprocessor_config.json")
    if window_size is not None:
        _agree({"projector_window_size": values.get("projector_window_size"), "window_size": window_size})
        said = values.get("projector_downsample_rate")
        _agree({"projector_downsample_rate": said, "downsample_rate": downsample_rate})


def _agree(said: Mapping[str, Any]) -> None:
    """Refuse keys that mean one thing and say two."""
    there = {key: value for key, value in said.items() if value is not None}
    if any(value != next(iter(there.values())) for value in there.values()):
        raise ConfigError(f"{' but '.join(f'{key} is {shown(value)}' for key, value in there.items())}; they are one")
