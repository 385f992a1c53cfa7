"""A recipe of an AR or Plus model: everything that makes it except the data, read from one TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redline.decoding.ctc_beam import BeamOptions
from redline.errors import ConfigError
from redline.models.config import SPEECH_KINDS, ArConfig, ArKind, EncoderConfig, LMConfig, QFormerConfig
from redline.prompts import AUDIO
from redline.tokenizer import Tokenizer
from redline.train.conversation import ConversationOptions
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import AugmentOptions, Letters
from redline.train.data.bpe import END, PAD
from redline.train.data.tasks import TaskOptions
from redline.train.loop.optim import TrainingOptions
from redline.train.objectives.ar import AnswerOptions
from redline.train.objectives.lm import TextOptions
from redline.train.objectives.ngram import NgramOptions
from redline.train.objectives.speaker_embedding import VoiceTrainingOptions
from redline.train.recipe import filled, section
from redline.train.splice import SpliceOptions
from redline.train.states import StateOptions


@dataclass(frozen=True)
class SpeechRecipe:
    """The sections of a recipe file; every one but `kind` and `encoder_from` may be left out."""

    kind: ArKind = "granite_speech_plus"
    language: str | tuple[str, ...] = "en"
    letters: Letters = "a-z"
    encoder_from: str = "tiny"
    """A NAR checkpoint whose encoder, tokenizer and draft this model has; its encoder stays as it is."""
    language_model_from_base: bool = False
    """Whether the language model begins with that of `encoder_from`, whose shape it then has; new tokens are added."""
    export_layers: tuple[int, ...] = ()
    trusts_draft: bool = False
    """Whether the encoder's draft is the text, words are aligned and speakers told by voice."""
    longest_clip_s: Mapping[str, float] = field(default_factory=dict)
    """The longest clips to give it, for "plain", "words" and "speakers"; longer recordings are cut at pauses."""
    window_size: int = 15
    downsample_rate: int = 5
    projector: Mapping[str, Any] = field(default_factory=dict)
    language_model: Mapping[str, Any] = field(default_factory=dict)
    augment: AugmentOptions = AugmentOptions()
    states: StateOptions = StateOptions(renderings=1)
    state_augment: SpecAugmentOptions = SpecAugmentOptions(time_warp_frames=0)
    splice: SpliceOptions = SpliceOptions()
    tasks: TaskOptions = TaskOptions()
    conversations: ConversationOptions = ConversationOptions()
    draft_lm: NgramOptions = NgramOptions(order=0)
    """n-grams of tokens that read along while the draft is written; they need --text."""
    draft_search: BeamOptions = BeamOptions()
    text: TextOptions = TextOptions(objective="causal")
    lm_training: TrainingOptions = TrainingOptions(steps=0)
    answers: AnswerOptions = AnswerOptions()
    answer_training: TrainingOptions = TrainingOptions()
    voices: VoiceTrainingOptions = VoiceTrainingOptions()
    voice_training: TrainingOptions = TrainingOptions(steps=0)
    """The head that tells voices apart; without it the language model alone says who speaks."""

    def __post_init__(self) -> None:
        if self.kind not in SPEECH_KINDS:
            raise ConfigError(f"kind is {self.kind!r}; allowed are {', '.join(SPEECH_KINDS)}")
        if self.text.objective != "causal":
            raise ConfigError("[text] objective must be 'causal': the language model writes from left to right")
        if self.states.renderings < 1:
            raise ConfigError("[states] renderings is 0; the encoder is frozen, so what it hears is kept: 1 or more")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> SpeechRecipe:
        """Build a recipe from plain data; raises `ConfigError` for an unknown key."""
        return filled(cls(), values, where)

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.language,) if isinstance(self.language, str) else self.language

    def config(self, encoder: EncoderConfig, tokenizer: Tokenizer) -> ArConfig:
        """The model of the recipe's sections around an encoder, sized to its tokenizer."""
        end, pad, audio = (tokenizer.id_of(token) for token in (END, PAD, AUDIO))
        assert end is not None and pad is not None and audio is not None
        ids = {"vocab_size": tokenizer.vocab_size, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": end}
        width = encoder.hidden_dim * (len(self.export_layers) + 1)
        return ArConfig(
            kind=self.kind,
            encoder=replace(encoder, bpe_output_dim=None),
            projector=section(QFormerConfig(), {**self.projector, "encoder_hidden_size": width}, "recipe [projector]"),
            text=section(LMConfig(), {**self.language_model, **ids}, "recipe [language_model]"),
            export_layers=self.export_layers,
            audio_token_index=audio,
            window_size=self.window_size,
            downsample_rate=self.downsample_rate,
            languages=self.languages,
            trusts_draft=self.trusts_draft,
            longest_clip_s=self.longest_clip_s,
        )
