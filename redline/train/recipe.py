"""A recipe: everything that makes a model except the data, read from one TOML file."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from redline.errors import ConfigError
from redline.normalize import Letters
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import SpeechBatchOptions
from redline.train.data.feature_cache import AugmentOptions
from redline.train.loop.optim import TrainingOptions
from redline.train.objectives.nar import EditOptions

if TYPE_CHECKING:
    from redline.train.loop.distributed import Say
    from redline.train.run import Materials, Run

_T = TypeVar("_T")
RECIPES = Path(__file__).parents[2] / "redline_recipes"
"""The bundled recipes, beside the package."""
FORMER = {
    "start": "init_from",
    "recombine": "[aligned_mixing]",
    "states": "[encoder_cache]",
    "state_augment": "[cache_augment]",
    "splice": "[unit_selection]",
    "forms_weight": "[auxiliary] punctuation_weight",
    "scramble_rate": "[auxiliary] scramble_rate",
    "audio_ctc_weight": "[auxiliary] audio_ctc_weight",
    "encoder_training": "of the extension, and left out where no encoder is trained",
}
DROPPED = ("conversations", "consistency", "guide_weight", "guide_layers", "objective")
"""Keys of earlier recipes, and those of what was tried and not kept."""

KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, list, tuple), "a text"),
    tuple: ((list, tuple, str), "a list"),
}
"""What a value may be in place of a default of some kind, and how that is called."""


@dataclass(frozen=True)
class Recipe(ABC):
    """The keys and sections that every recipe file may have; all may be left out."""

    language: str | tuple[str, ...] = "en"  # one language or several; utterances of others are not looked at
    letters: Letters = "a-z"
    """What texts are made of: `a-z` for English, `all` for the letters, accents and digits of every language."""
    extension: str = ""  # a .py file beside the recipe or an installed module, see `load_extension`
    projector: Mapping[str, Any] = field(default_factory=dict)
    language_model: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False
    """Whether the exported weights take a byte a number, with a scale for each row; models compute as before."""
    augment: AugmentOptions = AugmentOptions()
    spec_augment: SpecAugmentOptions = SpecAugmentOptions()

    @abstractmethod
    def run(self, materials: Materials, say: Say, device: str | None = None) -> Run:
        """A run of such a recipe."""

    @property
    def languages(self) -> tuple[str, ...]:
        return (self.language,) if isinstance(self.language, str) else self.language

    def __post_init__(self) -> None:
        if not self.languages:
            raise ConfigError("language is an empty list; name at least one, such as 'en'")
        if self.letters not in ("a-z", "all"):
            raise ConfigError(f"letters is {self.letters!r}; allowed are 'a-z' and 'all'")
        if self.letters == "a-z" and (other := [name for name in self.languages if not name.startswith("en")]):
            raise ConfigError(
                f'language is {", ".join(other)}: letters "a-z" would spoil its texts; set letters = "all"'
            )


@dataclass(frozen=True)
class NarRecipe(Recipe):
    """A recipe of a model that edits."""

    init_from: str = ""
    """A checkpoint to go on from: a bundled name, a folder or a hub id; its tokenizer and shape are taken too.

    `vocab_size`, `encoder_layer_indices` and the sections `encoder`, `projector` and `language_model` may be left out
    then; what they say must be what the checkpoint has.
    """
    vocab_size: int | None = None
    encoder_layer_indices: tuple[int, ...] | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    edit: EditOptions = EditOptions()
    editor_batches: SpeechBatchOptions = SpeechBatchOptions()
    editor_training: TrainingOptions = TrainingOptions()

    def run(self, materials: Materials, say: Say, device: str | None = None) -> Run:
        from redline.train.nar import NarRun

        return NarRun(self, materials, say, device)


def read_recipe(name: str | Path) -> Recipe:
    """Read a bundled recipe by name, or a TOML file; raises `ConfigError` naming an unknown key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    bundled = {file.stem: file for file in RECIPES.rglob("*.toml")}
    path = bundled.get(str(name), Path(name))
    if not path.is_file():
        raise ConfigError(f"{name}: no such recipe; give a .toml file or one of: {', '.join(sorted(bundled))}")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error
    if str(values.get("extension")).endswith(".py"):
        values["extension"] = str(path.resolve().parent / Path(values["extension"]).name)
    return recipe_from_dict(values, str(path))


def recipe_from_dict(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe of plain data; raises `ConfigError` for an unknown key."""
    name = values.get("extension", "")
    check_value(f"{where}: extension", name, "")
    return filled(load_extension(name)(values) if name else NarRecipe(), values, where)


def filled(default: _T, values: Mapping[str, Any], where: str) -> _T:
    """A dataclass with plain data in place of its defaults, section by section; `ConfigError` for unknown keys."""
    known = sorted(item.name for item in fields(default))  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        if key in DROPPED and key not in known:
            raise ConfigError(f"{where}: {key} was tried and not kept (docs/experiments.md); leave it out")
        if key not in known:
            hint = f"is now {FORMER[key]}" if key in FORMER else f"is unknown; known are {', '.join(known)}"
            tiny = 'sections of the bundled small models need extension = "redline_recipes.tiny.extension"'
            raise ConfigError(f"{where}: {key} {hint}; {tiny}")
        current = getattr(default, key)
        is_section = hasattr(current, "__dataclass_fields__")
        if (is_section or isinstance(current, dict)) and not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} is {value!r}; it is a section, [{key}]")
        if is_section:
            value = filled(current, value, f"{where} [{key}]")
        elif not isinstance(current, dict):
            check_value(f"{where}: {key}", value, current)
        chosen[key] = tuple(value) if isinstance(value, list) else value
    return replace(default, **chosen)  # type: ignore[type-var]


def check_value(name: str, value: Any, default: Any) -> None:
    """Raise `ConfigError` for a value of another kind than the default has, or a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; numbers of a recipe are finite")
    if type(default) not in KINDS:
        return
    allowed, description = KINDS[type(default)]
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise ConfigError(f"{name} is {value!r}; it is {description}, such as {default!r}")


def load_extension(name: str) -> Callable[[Mapping[str, Any]], Recipe]:
    """The function `recipe(values)` of an extension, a .py file or a module; raises `ConfigError` where there is none.

    It returns the recipe that the keys and sections of a file fill, with its defaults: of a class derived from
    `NarRecipe`, whose `run` is of a class derived from `NarRun`. An extension is the user's own code: nothing of a
    checkpoint ever names one.
    """
    advice = "name a .py file beside the recipe, or a module"
    try:
        module = _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not name.startswith(error.name or name):
            raise  # a package that the extension needs
        raise ConfigError(f"recipe extension is {name!r}: there is no such file or module; {advice}") from error
    function: Callable[[Mapping[str, Any]], Recipe] | None = getattr(module, "recipe", None)
    if function is None:
        raise ConfigError(f"recipe extension is {name!r}: it has no function recipe(values); {advice}")
    return function


def _from_file(path: Path) -> ModuleType:
    name = f"redline_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
