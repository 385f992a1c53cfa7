"""Configurations of the models, read from and written to `config.json` as data; `config_keys` judges every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from redline.checkpoints import config_keys
from redline.errors import ConfigError
from redline.models.lm_config import LMConfig, known, require

__all__ = [
    "SPEECH_KINDS",
    "ArConfig",
    "ArKind",
    "EncoderConfig",
    "LMConfig",
    "NarConfig",
    "ProjectorConfig",
    "QFormerConfig",
    "cat_layers",
]


def cat_layers(layers: Any) -> tuple[int, ...]:
    """`cat_hidden_layers` in the order in which their states are put together: upwards, whatever that of the list."""
    whole = isinstance(layers, (list, tuple)) and all(type(layer) is int for layer in layers)
    require(
        whole and len(set(layers)) == len(layers),
        f"cat_hidden_layers is {layers!r}; allowed is a list of different layer numbers",
    )
    return tuple(sorted(layers))


@dataclass(frozen=True)
class EncoderConfig:
    """The Conformer CTC encoder; the defaults are the published 2B-NAR encoder."""

    input_dim: int = 160
    num_layers: int = 16
    hidden_dim: int = 1024
    feedforward_mult: int = 4
    num_heads: int = 8
    dim_head: int = 128
    output_dim: int = 348
    """Rows of the character head; row 0 is the blank."""
    context_size: int = 200
    """Frames in one attention block, counted at 50 frames a second."""
    max_pos_emb: int = 512
    dropout: float = 0.1
    pred_dropout: float = 0.25
    conv_kernel_size: int = 15
    conv_expansion_factor: int = 2
    self_conditioning_layer: int = 8
    """The block (counted from 1) after which the character posteriors are fed back."""
    bpe_output_dim: int | None = 100_352
    bpe_pooling_window: int = 4
    blank_token_id: int = 100_257
    subsample_layers: tuple[int, ...] = ()
    """Blocks (counted from 1) that halve the frame rate; empty is the published encoder at 50 frames a second."""

    def __post_init__(self) -> None:
        require(self.conv_kernel_size % 2 == 1, f"conv_kernel_size is {self.conv_kernel_size}; it must be odd")
        require(
            1 <= self.self_conditioning_layer <= self.num_layers,
            f"self_conditioning_layer is {self.self_conditioning_layer}; allowed are 1 to {self.num_layers}",
        )
        require(
            all(1 <= layer <= self.self_conditioning_layer for layer in self.subsample_layers)
            and len(set(self.subsample_layers)) == len(self.subsample_layers),
            f"subsample_layers is {self.subsample_layers}; allowed are blocks 1 to {self.self_conditioning_layer}, "
            "each once, so that both character heads run at one rate",
        )
        require(
            self.context_size % (1 << len(self.subsample_layers)) == 0,
            f"context_size {self.context_size} cannot be halved {len(self.subsample_layers)} times",
        )
        require(
            self.context_size <= self.max_pos_emb,
            f"context_size {self.context_size} is beyond max_pos_emb {self.max_pos_emb}",
        )

    @property
    def subsampling(self) -> int:
        """Input frames (20 ms) per encoder output frame."""
        return 1 << len(self.subsample_layers)


@dataclass(frozen=True)
class ProjectorConfig:
    """The NLE projector; the defaults are the published ones."""

    encoder_dim: int = 1024
    llm_dim: int = 2048
    downsample_rate: int = 5
    num_encoder_layers: int = 4
    hidden_size: int = 2048
    num_heads: int = 32
    num_layers: int = 2
    dropout_prob: float = 0.1
    block_size: int = 15
    mlp_ratio: int = 2
    layernorm_eps: float = 1e-6
    attn_bias: bool = True
    mlp_bias: bool = True

    def __post_init__(self) -> None:
        require(
            self.block_size % self.downsample_rate == 0,
            f"block_size {self.block_size} is not a multiple of downsample_rate {self.downsample_rate}",
        )
        require(
            self.hidden_size % self.num_heads == 0,
            f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}",
        )


@dataclass(frozen=True)
class NarConfig:
    """The whole 2B-NAR model: encoder, projector, bidirectional language model and how they are joined."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    text: LMConfig = field(default_factory=LMConfig)
    encoder_layer_indices: tuple[int, ...] = (4, 8, 12, -1)
    """Blocks whose output goes to the projector, counted from 1; -1 is the last."""
    scale_projected_embeddings: bool = True
    """Divide the audio embeddings by the language model's embedding multiplier."""
    blank_token_id: int = 100_257
    min_edit_sequence_length: int = 8
    frame_rule: Literal["nar", "native"] = "nar"
    """Whose front end it has, the published models' or the native port's (see `redline.features.Rule`)."""
    languages: tuple[str, ...] = ("en", "fr", "de", "es", "pt")

    def __post_init__(self) -> None:
        require(
            len(self.encoder_layer_indices) == self.projector.num_encoder_layers,
            f"{len(self.encoder_layer_indices)} encoder_layer_indices but the projector takes "
            f"{self.projector.num_encoder_layers}",
        )
        require(
            self.projector.encoder_dim == self.encoder.hidden_dim,
            f"projector.encoder_dim {self.projector.encoder_dim} is not the encoder's width {self.encoder.hidden_dim}",
        )
        require(
            self.projector.llm_dim == self.text.hidden_size,
            f"projector.llm_dim {self.projector.llm_dim} is not the language model's width {self.text.hidden_size}",
        )
        most = self.encoder.num_layers
        require(
            all(-most - 1 <= layer <= most for layer in self.encoder_layer_indices),
            f"encoder_layer_indices is {list(self.encoder_layer_indices)}; the encoder has blocks 1 to {most}",
        )
        require(self.frame_rule in ("nar", "native"), f"frame_rule is {self.frame_rule!r}; allowed are nar and native")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NarConfig:
        """Read a published `config.json`; raises `ConfigError` for a part that is missing or a key that is not built.

        Of several `eos_token_id` the first is the blank, where none is named.
        """
        config_keys.check_nar(values)
        for part in ("encoder_config", "projector_config", "text_config"):
            if not isinstance(values.get(part), Mapping):
                raise ConfigError(f"config.json has no {part}; a NAR model needs encoder, projector and text configs")
        names = {item.name for item in fields(cls)} - {"encoder", "projector", "text"}
        top = {key: values[key] for key in names if values.get(key) is not None}
        for key in ("encoder_layer_indices", "languages"):
            if key in top:
                top[key] = tuple(top[key])
        return cls(
            encoder=known(EncoderConfig, values["encoder_config"]),
            projector=known(ProjectorConfig, values["projector_config"]),
            text=LMConfig.from_dict(values["text_config"]),
            **top,
        )

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of the later published NAR layout."""
        return {
            "model_type": "granite_speech_nar",
            "architectures": ["GraniteSpeechNarForASR"],
            "encoder_config": asdict(self.encoder),
            "projector_config": asdict(self.projector),
            "text_config": self.text.to_dict(),
            "encoder_layer_indices": list(self.encoder_layer_indices),
            "scale_projected_embeddings": self.scale_projected_embeddings,
            "blank_token_id": self.blank_token_id,
            "min_edit_sequence_length": self.min_edit_sequence_length,
            **({"frame_rule": self.frame_rule} if self.frame_rule != "nar" else {}),
            "languages": list(self.languages),
        }


@dataclass(frozen=True)
class QFormerConfig:
    """The window Q-Former of the AR and Plus models (BLIP-2 layout); the defaults are those of 2B."""

    hidden_size: int = 1024
    num_hidden_layers: int = 2
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    encoder_hidden_size: int = 1024
    """Width of the encoder states it reads: the encoder's, times the number of layers that are concatenated."""
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    hidden_act: str = "gelu"
    cross_attention_frequency: int = 1
    use_qformer_text_input: bool = False

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}",
        )
        require(self.hidden_act == "gelu", f"projector hidden_act is {self.hidden_act!r}; only 'gelu' is supported")
        require(
            self.cross_attention_frequency >= 1,
            f"cross_attention_frequency is {self.cross_attention_frequency}; allowed are 1 (every layer) and above",
        )
        require(not self.use_qformer_text_input, "use_qformer_text_input is set; the projector reads audio only")


ArKind = Literal["granite_speech", "granite_speech_plus"]
SPEECH_KINDS: dict[ArKind, str] = {
    "granite_speech": "GraniteSpeechForConditionalGeneration",
    "granite_speech_plus": "GraniteSpeechPlusForConditionalGeneration",
}
_SPOKEN: dict[ArKind, tuple[str, ...]] = {
    "granite_speech": ("en", "fr", "de", "es", "pt", "ja"),
    "granite_speech_plus": ("en", "fr", "de", "es", "pt"),
}


@dataclass(frozen=True)
class ArConfig:
    """The 2B and 2B-Plus models: encoder, window Q-Former and causal language model; the defaults are those of 2B."""

    kind: ArKind = "granite_speech"
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(bpe_output_dim=None, pred_dropout=0.0))
    projector: QFormerConfig = field(default_factory=QFormerConfig)
    text: LMConfig = field(default_factory=lambda: LMConfig(vocab_size=100_353, tie_word_embeddings=False))
    export_layers: tuple[int, ...] = ()
    """Blocks whose output is put before that of the last one, upwards, counted from 1; 0 is the input of the first."""
    audio_token_index: int = 100_352
    window_size: int = 15
    """Encoder frames in a window of the projector."""
    downsample_rate: int = 5
    """Frames per audio embedding: a window gives `window_size / downsample_rate` of them."""
    languages: tuple[str, ...] = _SPOKEN["granite_speech"]
    trusts_draft: bool = False
    """Whether the encoder's draft is the text, words are aligned and speakers told by voice, if it has the head for it.

    For models whose language model hears worse than their encoder.
    """
    longest_clip_s: Mapping[str, float] = field(default_factory=dict)
    """The longest clips it was taught, for "plain", "words" and "speakers"; where nothing is said, what fits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "export_layers", cat_layers(self.export_layers))
        require(
            set(self.longest_clip_s) <= {"plain", "words", "speakers"}
            and min(self.longest_clip_s.values(), default=1) >= 1,
            f"longest_clip_s is {dict(self.longest_clip_s)}; allowed are seconds from 1 for plain, words and speakers",
        )
        require(
            self.window_size % self.downsample_rate == 0,
            f"window_size {self.window_size} is not a multiple of downsample_rate {self.downsample_rate}",
        )
        require(
            all(0 <= layer < self.encoder.num_layers for layer in self.export_layers),
            f"cat_hidden_layers is {list(self.export_layers)}; allowed are 0 to {self.encoder.num_layers - 1}",
        )
        width = self.encoder.hidden_dim * (len(self.export_layers) + 1)
        require(
            self.projector.encoder_hidden_size == width,
            f"projector encoder_hidden_size is {self.projector.encoder_hidden_size}; {len(self.export_layers) + 1} "
            f"encoder layers of width {self.encoder.hidden_dim} make {width}",
        )
        require(
            0 <= self.audio_token_index < self.text.vocab_size,
            f"audio_token_index is {self.audio_token_index}; allowed are 0 to {self.text.vocab_size - 1}",
        )
        require(
            self.audio_token_index not in self.text.eos_token_ids,
            f"audio_token_index is {self.audio_token_index}, which is an eos_token_id too; audio ends no text",
        )

    @property
    def names_language(self) -> bool:
        """Whether it is asked as granite-speech-5.0-2b, which differs from 2B by its stretched positions alone."""
        return self.kind == "granite_speech" and self.text.yarn is not None

    @classmethod
    def plus(cls) -> ArConfig:
        """The published 2B-Plus model."""
        return cls(
            kind="granite_speech_plus",
            projector=QFormerConfig(encoder_hidden_size=2048),
            text=LMConfig(vocab_size=100_353),
            export_layers=(3,),
            languages=_SPOKEN["granite_speech_plus"],
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tied: bool | None = None) -> ArConfig:
        """Read a published `config.json`; `tied` says whether the weights have no `lm_head` of their own.

        Raises `ConfigError` for a part that is missing or a key that is not built.
        """
        config_keys.check_speech(values)
        kind = values.get("model_type")
        if kind not in SPEECH_KINDS:
            raise ConfigError(f"model_type is {kind!r}; allowed are {', '.join(SPEECH_KINDS)}")
        parts = [values.get(part) for part in ("encoder_config", "projector_config", "text_config")]
        if not all(isinstance(part, Mapping) for part in parts):
            raise ConfigError(
                "config.json lacks encoder_config, projector_config or text_config; this kind of model needs all three"
            )
        encoder, projector, text = ({k: v for k, v in part.items() if v is not None} for part in parts)  # type: ignore[union-attr]
        if "num_layers" in encoder:
            encoder.setdefault("self_conditioning_layer", encoder["num_layers"] // 2)
        if "dim_head" not in encoder and "hidden_dim" in encoder and "num_heads" in encoder:
            encoder["dim_head"] = encoder["hidden_dim"] // encoder["num_heads"]
        shape = known(EncoderConfig, {"pred_dropout": 0.0} | encoder)
        lm = LMConfig.from_dict(text)
        if tied is None:
            tied = bool(values.get("tie_word_embeddings", lm.tie_word_embeddings))
        names = ("audio_token_index", "window_size", "downsample_rate", "trusts_draft")
        top = {key: values[key] for key in names if values.get(key) is not None}
        if values.get("audio_token_id") is not None:
            top["audio_token_index"] = values["audio_token_id"]
        return cls(
            kind=kind,
            encoder=replace(shape, bpe_output_dim=encoder.get("bpe_output_dim")),
            projector=known(QFormerConfig, projector),
            text=replace(lm, tie_word_embeddings=tied),
            export_layers=encoder.get("cat_hidden_layers") or (),
            languages=tuple(values.get("languages") or _SPOKEN[kind]),
            longest_clip_s=dict(values.get("longest_clip_s") or {}),
            **top,
        )

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of the published layout."""
        encoder = asdict(self.encoder) | {"model_type": f"{self.kind}_encoder"}
        if self.export_layers:
            encoder["cat_hidden_layers"] = list(self.export_layers)
        return {
            "model_type": self.kind,
            "architectures": [SPEECH_KINDS[self.kind]],
            "encoder_config": encoder,
            "projector_config": {"model_type": "blip_2_qformer", **asdict(self.projector)},
            "text_config": self.text.to_dict(),
            "audio_token_index": self.audio_token_index,
            "window_size": self.window_size,
            "downsample_rate": self.downsample_rate,
            "has_lora_adapter": False,
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "languages": list(self.languages),
            **({"longest_clip_s": dict(self.longest_clip_s)} if self.longest_clip_s else {}),
            **({"trusts_draft": True} if self.trusts_draft else {}),
        }
