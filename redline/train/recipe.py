"""A recipe: everything that makes a model except the data, read from one TOML file."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from redline.decoding.ctc_beam import BeamOptions
from redline.errors import ConfigError
from redline.models.config import EncoderConfig, LMConfig, NarConfig, ProjectorConfig
from redline.tokenizer import Tokenizer
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import AugmentOptions, BatchOptions, Letters
from redline.train.data.bpe import END, PAD
from redline.train.data.corrupt import CorruptionOptions
from redline.train.loop.optim import TrainingOptions
from redline.train.objectives.encoder import EncoderLossOptions
from redline.train.objectives.lm import TextOptions
from redline.train.objectives.nar import EditOptions
from redline.train.objectives.ngram import NgramOptions
from redline.train.recombine import RecombineOptions
from redline.train.splice import SpliceOptions
from redline.train.states import StateOptions

T = TypeVar("T")
RECIPES = Path(__file__).parent / "recipes"
LAYERS = (2, 4, 6, -1)


@dataclass(frozen=True)
class Recipe:
    """The sections of a recipe file; every one may be left out."""

    language: str | tuple[str, ...] = "en"
    """One language or several; utterances of others are not looked at."""
    letters: Letters = "a-z"
    """What texts are made of: `a-z` for English, `all` for the letters, accents and digits of every language."""
    start: str = ""
    """A checkpoint to go on from: a bundled name, a folder or a hub id; its tokenizer and shape are taken too.

    `vocab_size`, `encoder_layer_indices` and the sections `encoder`, `projector` and `language_model` may be left out
    then; what they say must be what the checkpoint has.
    """
    encoder_from: str = ""
    """A checkpoint whose encoder this one begins with, for another tokenizer or other languages; the token head is new.
    """
    vocab_size: int | None = None
    """None is 768, or what `start` has."""
    encoder_layer_indices: tuple[int, ...] | None = None
    """None is (2, 4, 6, -1), or what `start` has."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    projector: Mapping[str, Any] = field(default_factory=dict)
    language_model: Mapping[str, Any] = field(default_factory=dict)
    augment: AugmentOptions = AugmentOptions()
    spec_augment: SpecAugmentOptions = SpecAugmentOptions()
    encoder_batches: BatchOptions = BatchOptions()
    recombine: RecombineOptions = RecombineOptions()
    encoder_loss: EncoderLossOptions = EncoderLossOptions()
    encoder_training: TrainingOptions = TrainingOptions()
    draft_lm: NgramOptions = NgramOptions(order=0)
    draft_search: BeamOptions = BeamOptions()
    text: TextOptions = TextOptions()
    corruption: CorruptionOptions = CorruptionOptions()
    lm_training: TrainingOptions = TrainingOptions()
    edit: EditOptions = EditOptions()
    states: StateOptions = StateOptions()
    state_augment: SpecAugmentOptions = SpecAugmentOptions(time_warp_frames=0)
    splice: SpliceOptions = SpliceOptions()
    editor_batches: BatchOptions = BatchOptions(curriculum=(), augment_from_epoch=0)
    editor_training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        if not self.languages:
            raise ConfigError("language is an empty list; name at least one, such as 'en'")
        if self.letters not in ("a-z", "all"):
            raise ConfigError(f"letters is {self.letters!r}; allowed are 'a-z' and 'all'")
        if self.letters == "a-z" and (other := [name for name in self.languages if not name.startswith("en")]):
            raise ConfigError(
                f'language is {", ".join(other)}: letters "a-z" would spoil its texts; set letters = "all"'
            )
        if self.start and self.encoder_from:
            raise ConfigError("start and encoder_from are both set; start already brings its encoder")
        if not self.start and not self.encoder_training.steps:
            raise ConfigError("[encoder_training] steps is 0: name a checkpoint with an encoder as start, or train one")

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that are learned."""
        return (self.language,) if isinstance(self.language, str) else self.language

    @classmethod
    def read(cls, name: str | Path) -> Recipe:
        """Read a bundled recipe by name, or a TOML file; raises `ConfigError` naming an unknown key."""
        values, where = read_values(name)
        return cls.from_dict(values, where)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Build a recipe from plain data."""
        return filled(cls(), values, where)

    def config(self, tokenizer: Tokenizer) -> NarConfig:
        """The model of the recipe's own sections, sized to its tokenizer; with `start`, the checkpoint's counts."""
        end, pad = tokenizer.id_of(END), tokenizer.id_of(PAD)
        assert end is not None and pad is not None
        rows = tokenizer.vocab_size
        encoder = section(
            EncoderConfig(), {**self.encoder, "bpe_output_dim": rows, "blank_token_id": end}, "recipe [encoder]"
        )
        text = section(
            LMConfig(),
            {**self.language_model, "vocab_size": rows, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": end},
            "recipe [language_model]",
        )
        joined = {"encoder_dim": encoder.hidden_dim, "llm_dim": text.hidden_size}
        layers = self.encoder_layer_indices or LAYERS
        joined["num_encoder_layers"] = len(layers)
        projector = section(ProjectorConfig(), {**self.projector, **joined}, "recipe [projector]")
        return NarConfig(
            encoder=encoder,
            projector=projector,
            text=text,
            encoder_layer_indices=layers,
            blank_token_id=end,
            languages=self.languages,
        )


def read_values(name: str | Path) -> tuple[dict[str, Any], str]:
    """What a bundled recipe or a TOML file says, and where it is; raises `ConfigError` when there is none."""
    path = RECIPES / f"{name}.toml" if (RECIPES / f"{name}.toml").exists() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise ConfigError(f"{name}: no such recipe; give a .toml file or one of: {known}")
    return _toml(path), str(path)


def filled(default: T, values: Mapping[str, Any], where: str) -> T:
    """A recipe with what a file says in place of its defaults; raises `ConfigError` for an unknown key."""
    known = [item.name for item in fields(default)]  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {known}")
        current = getattr(default, key)
        section_wanted = isinstance(current, dict) or hasattr(current, "__dataclass_fields__")
        if section_wanted and not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} is {value!r}; it is a section, [{key}]")
        if isinstance(current, dict):
            chosen[key] = dict(value)
        elif hasattr(current, "__dataclass_fields__"):
            chosen[key] = section(current, value, f"{where} [{key}]")
        else:
            check_value(f"{where}: {key}", value, current)
            chosen[key] = tuple(value) if isinstance(value, list) else value
    return replace(default, **chosen)  # type: ignore[type-var]


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error
    return values


def section(default: T, values: Mapping[str, Any], where: str) -> T:
    """A dataclass with some of its fields replaced; unknown names are refused."""
    known = {item.name for item in fields(default)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{where}: unknown {unknown}; known are {sorted(known)}")
    for key, value in values.items():
        check_value(f"{where} {key}", value, getattr(default, key))
    return replace(default, **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})  # type: ignore[type-var]


def check_value(name: str, value: Any, default: Any) -> None:
    """Raise `ConfigError` for a value of another kind than the default has, or a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; numbers of a recipe are finite")
    kinds: dict[type, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        str: ((str, list, tuple), "a text"),
        tuple: ((list, tuple, str), "a list"),
    }
    allowed, said = kinds.get(type(default), ((object,), ""))
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool) and said):
        raise ConfigError(f"{name} is {value!r}; it is {said}, such as {default!r}")
