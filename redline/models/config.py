"""Configurations of the models. A field's annotation says what a `config.json` may hold under its name.

The defaults are those of the published models; `redline.checkpoints.config_keys` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from redline.features import FRAME_RATE
from redline.models import rope
from redline.models.config_rules import check, count, either, flag, items, name, number, only, require

_C = TypeVar("_C")
Width = Annotated[int, count(65_536)]
Inner = Annotated[int, count(1 << 20)]
LayerCount = Annotated[int, count(256)]
HeadCount = Annotated[int, count(1024)]
Window = Annotated[int, count(4096)]
Multiple = Annotated[int, count(64)]
Vocabulary = Annotated[int, count(1 << 22)]
TokenId = Annotated[int, count((1 << 22) - 1, 0)]
OptionalTokenId = Annotated[int, count((1 << 22) - 1, -1)]
Share = Annotated[float, number(1.0, above=False)]
Epsilon = Annotated[float, number(1.0)]
Factor = Annotated[float, number(1e6)]
Flag = Annotated[bool, flag]
Languages = Annotated[tuple[str, ...], items(name, most=1000, least=1)]
BlockNumbers = Annotated[tuple[int, ...], items(count(256, -257), most=64)]
MAX_SCORED_VOCAB = 8192
"""Tokens of a vocabulary of which an editor may be told how likely each is heard in each slot (`sound_weight`)."""
CLIP_KINDS = ("plain", "words", "speakers")


def known(config: type[_C], values: Mapping[str, Any]) -> _C:
    """A config dataclass of those values that it has fields for; null is the default."""
    names = {item.name for item in fields(config)}  # type: ignore[arg-type]
    kept = {key: value for key, value in values.items() if key in names and value is not None}
    return config(**{key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})


def ascending_layers(layers: Any) -> tuple[int, ...]:
    """`cat_hidden_layers` in the order in which their states are put together: upwards, whatever that of the list."""
    whole = isinstance(layers, (list, tuple)) and all(type(layer) is int for layer in layers)
    require(
        whole and len(set(layers)) == len(layers),
        f"cat_hidden_layers is {layers!r}; allowed is a list of different layer numbers",
    )
    return tuple(sorted(layers))


def _require_multiple(config: object, whole: str, part: str) -> None:
    a, b = getattr(config, whole), getattr(config, part)
    require(a % b == 0, f"{whole} {a} is not a multiple of {part} {b}")


def _seconds_by_kind(value: Any) -> str | None:
    rule = number(1e6, 1, above=False)
    sound = isinstance(value, Mapping) and all(key in CLIP_KINDS and rule(s) is None for key, s in value.items())
    return None if sound else "seconds from 1 for plain, words and speakers"


@dataclass(frozen=True)
class EncoderConfig:
    """The Conformer CTC encoder; the defaults are the published 2B-NAR encoder."""

    input_dim: Annotated[int, only(160)] = 160
    num_layers: LayerCount = 16
    hidden_dim: Width = 1024
    feedforward_mult: Multiple = 4
    num_heads: HeadCount = 8
    dim_head: Window = 128
    output_dim: Annotated[int, count(65_536, 2)] = 348
    """Rows of the character head; row 0 is the blank."""
    context_size: Annotated[int, count(16_384)] = 200
    """Frames in one attention block, counted at 50 frames a second."""
    max_pos_emb: Annotated[int, count(16_384)] = 512
    dropout: Share = 0.1
    pred_dropout: Share = 0.25
    conv_kernel_size: Annotated[int, count(1023)] = 15
    conv_expansion_factor: Multiple = 2
    self_conditioning_layer: LayerCount = 8
    """The block (counted from 1) after which the character posteriors are fed back."""
    bpe_output_dim: Annotated[int | None, count(1 << 22)] = 100_352
    bpe_pooling_window: Annotated[int, count(1024)] = 4
    blank_token_id: TokenId = 100_257
    subsample_layers: Annotated[tuple[int, ...], items(count(256), most=8)] = ()
    """Blocks (counted from 1) that halve the frame rate; empty is the published encoder at 50 frames a second."""
    tau_ctc: Annotated[float, number(100.0, above=False)] = 0.7
    """A draft is certain when the entropy of every frame of the token head, in nats, is below this."""
    turbo: ClassVar[bool] = False
    """Subsampling as in 5.0 TurboCTC: attention blocks hold `context_size` frames at every rate, and a last odd frame
    is dropped where the rate is halved. Otherwise blocks last as long at every rate and the frame stands alone."""

    def __post_init__(self) -> None:
        middle, halvings, context = self.self_conditioning_layer, len(self.subsample_layers), self.context_size
        require(self.conv_kernel_size % 2 == 1, f"conv_kernel_size is {self.conv_kernel_size}; it must be odd")
        require(1 <= middle <= self.num_layers, f"self_conditioning_layer is {middle} of {self.num_layers} blocks")
        require(
            len(set(self.subsample_layers) & set(range(1, middle + 1))) == halvings,
            f"subsample_layers is {self.subsample_layers}; allowed are blocks 1 to {middle}, each once, so that both "
            "character heads run at one rate",
        )
        whole = self.turbo or context % (1 << halvings) == 0
        require(whole, f"context_size {context} cannot be halved {halvings} times")
        require(context <= self.max_pos_emb, f"context_size {context} is beyond max_pos_emb {self.max_pos_emb}")

    @property
    def subsampling(self) -> int:
        """Input frames (20 ms) per encoder output frame."""
        return 1 << len(self.subsample_layers)

    @property
    def frame_s(self) -> float:
        """Seconds per encoder output frame."""
        return self.subsampling / FRAME_RATE


@dataclass(frozen=True)
class ProjectorConfig:
    """The NLE projector."""

    encoder_dim: Width = 1024
    llm_dim: Width = 2048
    downsample_rate: Window = 5
    num_encoder_layers: Multiple = 4
    hidden_size: Width = 2048
    num_heads: HeadCount = 32
    num_layers: LayerCount = 2
    dropout_prob: Share = 0.1
    block_size: Window = 15
    mlp_ratio: Multiple = 2
    layernorm_eps: Epsilon = 1e-6
    attn_bias: Flag = True
    mlp_bias: Flag = True

    def __post_init__(self) -> None:
        _require_multiple(self, "block_size", "downsample_rate")
        _require_multiple(self, "hidden_size", "num_heads")


@dataclass(frozen=True)
class QFormerConfig:
    """The window Q-Former of the AR and Plus models (BLIP-2 layout); the defaults are those of 2B."""

    hidden_size: Width = 1024
    num_hidden_layers: LayerCount = 2
    num_attention_heads: HeadCount = 16
    intermediate_size: Inner = 4096
    encoder_hidden_size: Annotated[int, count(1 << 22)] = 1024
    """Width of the encoder states it reads: the encoder's, times the number of layers that are concatenated."""
    layer_norm_eps: Epsilon = 1e-12
    hidden_dropout_prob: Share = 0.1
    hidden_act: Annotated[str, only("gelu")] = "gelu"
    cross_attention_frequency: LayerCount = 1
    use_qformer_text_input: Annotated[bool, only(False)] = False

    def __post_init__(self) -> None:
        _require_multiple(self, "hidden_size", "num_attention_heads")


@dataclass(frozen=True)
class LMConfig:
    """The Granite language model; the defaults are those of the granite-4.0-1b lineage."""

    vocab_size: Vocabulary = 100_352
    hidden_size: Width = 2048
    intermediate_size: Inner = 4096
    num_hidden_layers: LayerCount = 40
    num_attention_heads: HeadCount = 16
    num_key_value_heads: HeadCount = 4
    head_dim: Window = 128
    max_position_embeddings: Annotated[int, count(1 << 24)] = 4096
    rms_norm_eps: Epsilon = 1e-5
    attention_multiplier: Factor = 0.0078125
    embedding_multiplier: Factor = 12.0
    residual_multiplier: Factor = 0.22
    logits_scaling: Factor = 8.0
    rope_theta: Annotated[float, number(1e12)] = 10_000.0
    yarn: rope.Yarn | None = None
    pad_token_id: OptionalTokenId = 100_256
    eos_token_id: Annotated[int, either(count((1 << 22) - 1, 0), items(count((1 << 22) - 1, 0), 64, 1))] = 100_257
    """The end of a text, which training writes."""
    other_eos_token_ids: tuple[int, ...] = ()
    """More tokens that end a text."""
    bos_token_id: OptionalTokenId = 100_257
    tie_word_embeddings: Flag = True

    def __post_init__(self) -> None:
        _require_multiple(self, "num_attention_heads", "num_key_value_heads")
        require(
            self.yarn is None or isinstance(self.yarn, rope.Yarn),
            f"yarn is {self.yarn!r}; rotary positions are stretched by rope_parameters in a config.json only",
        )
        require(self.head_dim % 2 == 0, f"head_dim is {self.head_dim}; it must be even, because positions turn pairs")
        check("eos_token_id", list(self.eos_token_ids), items(count(self.vocab_size - 1, 0), most=64))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        return self.eos_token_id, *self.other_eos_token_ids

    @property
    def positions(self) -> int:
        """The most positions it can tell apart: those of the config, or the original ones stretched by YaRN."""
        stated = self.max_position_embeddings
        if self.yarn is None:
            return stated
        # A config may state the stretched number, or still the original one.
        longer = stated > self.yarn.original_max_position_embeddings
        return min(stated, self.yarn.positions) if longer else self.yarn.positions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Read a Granite `text_config`; its rotary positions are read by `rope_from_dict`."""
        theta, yarn = rope.rope_from_dict(values, cls.rope_theta, cls.max_position_embeddings)
        given = {key: value for key, value in values.items() if value is not None} | {"rope_theta": theta, "yarn": yarn}
        if "hidden_size" in given and "num_attention_heads" in given:
            given.setdefault("head_dim", given["hidden_size"] // given["num_attention_heads"])
        if isinstance(given.get("eos_token_id"), (list, tuple)):
            given["eos_token_id"], *given["other_eos_token_ids"] = dict.fromkeys(given["eos_token_id"])
        return known(cls, given)

    def to_dict(self) -> dict[str, Any]:
        """The `text_config` of the published layouts."""
        values = asdict(self)
        del values["yarn"]
        if values.pop("other_eos_token_ids"):
            values["eos_token_id"] = list(self.eos_token_ids)
        values["rope_parameters"] = rope.rope_to_dict(values.pop("rope_theta"), self.yarn)
        fixed = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False}
        return {"model_type": "granite"} | values | fixed


@dataclass(frozen=True)
class NarConfig:
    """The whole 2B-NAR model: encoder, projector, bidirectional language model and how they are joined."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    text: LMConfig = field(default_factory=LMConfig)
    encoder_layer_indices: BlockNumbers = (4, 8, 12, -1)
    """Blocks whose output goes to the projector, counted from 1; -1 is the last."""
    scale_projected_embeddings: Flag = True
    """Divide the audio embeddings by the language model's embedding multiplier."""
    blank_token_id: TokenId = 100_257
    min_edit_sequence_length: Annotated[int, count(256, 0)] = 8
    keep_bias: Annotated[float, number(1e6, -1e6)] = 0.0
    sound_weight: Annotated[float, number(100.0, above=False)] = 0.0
    """How greedy drafts are edited, see `redline.decoding.ngram.DraftOptions`."""
    frame_rule: Annotated[Literal["nar", "native"], only("nar", "native")] = "nar"
    """Whose front end it has, the published models' or the native port's (see `redline.features.Rule`)."""
    languages: Languages = ("en", "fr", "de", "es", "pt")

    def __post_init__(self) -> None:
        layers, blocks = list(self.encoder_layer_indices), self.encoder.num_layers
        for part, key, needed in (
            ("projector", "num_encoder_layers", len(layers)),
            ("projector", "encoder_dim", self.encoder.hidden_dim),
            ("projector", "llm_dim", self.text.hidden_size),
            ("encoder", "bpe_output_dim", self.text.vocab_size),  # the draft is written in its tokens
        ):
            stated = getattr(getattr(self, part), key)
            require(stated == needed, f"{part} {key} is {stated}; encoder and language model make it {needed}")
        check("blank_token_id", self.blank_token_id, count(self.text.vocab_size - 1, 0))
        if self.text.vocab_size > MAX_SCORED_VOCAB:
            require(not self.sound_weight, f"sound_weight needs a vocabulary of at most {MAX_SCORED_VOCAB} tokens")
        check("encoder_layer_indices", layers, items(count(blocks, -blocks - 1), most=64))

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of the later published NAR layout."""
        values = asdict(self)
        parts = {f"{part}_config": values.pop(part) for part in ("encoder", "projector", "text")}
        for key, own in {"frame_rule": "nar", "keep_bias": 0.0, "sound_weight": 0.0}.items():
            if values[key] == own:  # the published layout has no such key
                del values[key]
        kind = {"model_type": "granite_speech_nar", "architectures": ["GraniteSpeechNarForASR"]}
        return kind | parts | {"text_config": self.text.to_dict()} | values


ArKind = Literal["granite_speech", "granite_speech_plus"]
SPEECH_KINDS: dict[ArKind, str] = {
    "granite_speech": "GraniteSpeechForConditionalGeneration",
    "granite_speech_plus": "GraniteSpeechPlusForConditionalGeneration",
}
AR_LANGUAGES: dict[ArKind, tuple[str, ...]] = {
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
    audio_token_index: TokenId = 100_352
    window_size: Window = 15
    """Encoder frames in a window of the projector."""
    downsample_rate: Window = 5
    """Frames per audio embedding: a window gives `window_size / downsample_rate` of them."""
    languages: Languages = AR_LANGUAGES["granite_speech"]
    longest_clip_s: Annotated[Mapping[str, float], _seconds_by_kind] = field(default_factory=dict)
    """The longest clips of its training, for "plain", "words" and "speakers"; for a kind left out, what fits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "export_layers", ascending_layers(self.export_layers))
        check("longest_clip_s", dict(self.longest_clip_s), _seconds_by_kind)
        _require_multiple(self, "window_size", "downsample_rate")
        check("cat_hidden_layers", list(self.export_layers), items(count(self.encoder.num_layers - 1, 0), most=64))
        width, layers, audio = self.encoder.hidden_dim, len(self.export_layers) + 1, self.audio_token_index
        stated, needed = self.projector.encoder_hidden_size, width * layers
        require(
            stated == needed,
            f"projector encoder_hidden_size is {stated}; {layers} encoder layers of width {width} make {needed}",
        )
        check("audio_token_index", audio, count(self.text.vocab_size - 1, 0))
        require(
            audio not in self.text.eos_token_ids,
            f"audio_token_index is {audio}, which is an eos_token_id too; audio ends no text",
        )

    @property
    def names_language(self) -> bool:
        """Whether it is asked as granite-speech-5.0-2b, which differs from 2B by its stretched positions alone."""
        return self.kind == "granite_speech" and self.text.yarn is not None

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of the published layout."""
        values = asdict(self)
        kind, layers = values.pop("kind"), values.pop("export_layers")
        longest = values.pop("longest_clip_s")
        encoder = {"model_type": f"{kind}_encoder"} | values.pop("encoder")
        return {
            "model_type": kind,
            "architectures": [SPEECH_KINDS[self.kind]],
            "encoder_config": encoder | ({"cat_hidden_layers": list(layers)} if layers else {}),
            "projector_config": {"model_type": "blip_2_qformer"} | values.pop("projector"),
            "text_config": self.text.to_dict(),
            "tie_word_embeddings": values.pop("text")["tie_word_embeddings"],
            "has_lora_adapter": False,
            **values,
            **({"longest_clip_s": longest} if longest else {}),
        }
