"""A training run: a recipe applied to data, stage by stage; each stage goes on where it stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redline.checkpoints.folder import headers
from redline.errors import ConfigError, DataError
from redline.features import Rule
from redline.manifest import Utterance
from redline.tokenizer import Tokenizer
from redline.train.data.feature_cache import FeatureCache, FeatureView, feature_caches
from redline.train.data.rows import training_rows
from redline.train.loop.checkpointing import STATE, load_average, make_folder
from redline.train.loop.distributed import Say, is_first_process, only_first, training_device, wait_for_all
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.run_record import RUN_RECORD, run_record, write_record
from redline.train.loop.sharding import sharding
from redline.train.loop.stage import EpochSource
from redline.train.objectives.nar import merge_adapters
from redline.train.recipe import Recipe

StageFunction = Callable[[], None]


@dataclass(frozen=True)
class Materials:
    """What a recipe is applied to, and where its results go."""

    data: Path
    out: Path
    text: Path | None = None
    noise: Path | None = None
    rooms: Path | None = None
    voices: Path | None = None  # a manifest of more readers for the speaker embedding head; their texts are not needed
    voice_weights: Path | None = None  # what the speaker embedding head begins with
    tensorboard: bool = False  # whether each log is also written for TensorBoard


class Run(ABC):
    """One run of a recipe: its data, its folder and its stages; derived for each kind of model."""

    rule: Rule  # the front end of its model
    taught: str  # its last stage that trains

    def __init__(self, recipe: Recipe, materials: Materials, say: Say, device: str | None = None) -> None:
        """`device` is by default the fastest; raises `DataError` for data without utterances to train on."""
        self.recipe, self.materials, self.say, self.out = recipe, materials, say, materials.out
        self.asked_device, self.device = device, training_device(device)
        self.train_set, self.dev_set = self._rows("train"), self._rows("dev")
        if silent := sorted(set(recipe.languages) - {row.language for row in self.train_set}):
            raise DataError(
                f"{materials.data}: no utterance to train on in {', '.join(silent)}, which the recipe names as a "
                "language; add some, or leave it out of the recipe"
            )
        hours = sum(row.duration for row in self.train_set) / 3600
        say(f"{len(self.train_set)} utterances, {hours:.2f} h to train on; {len(self.dev_set)} for dev")

    def _rows(self, split: str) -> list[Utterance]:
        data, languages = self.materials.data, self.recipe.languages
        letters = self.recipe.letters
        rows = training_rows(data, split=split, language=languages, letters=lambda language: letters, say=self.say)
        if not rows:
            raise DataError(
                f"{data}: no utterance with language {' or '.join(languages)} and split {split!r}; "
                'each line needs "split": "train" or "dev" (and "test" for what is never trained on)'
            )
        return rows

    def check_folders(self) -> None:  # noqa: B027
        """Raises `DataError` for a folder that the recipe names and that is missing, before hours of preparation."""

    @abstractmethod
    def stages(self) -> Mapping[str, StageFunction]:
        """The stages in their order."""

    @abstractmethod
    def objective(self) -> Any:
        """What the last stage learns by, as it begins."""

    @abstractmethod
    def source(self, model: Any) -> EpochSource:
        """Where the batches of the last stage come from."""

    @abstractmethod
    def save(self, objective: Any) -> None:
        """Write what was trained in the published layout."""

    @property
    def tokenizer_path(self) -> Path:
        return self.out / "tokenizer.json"

    def tokenizer(self) -> Tokenizer:
        """Raises `DataError` before the stage that makes it."""
        if not self.tokenizer_path.exists():
            raise DataError(f"{self.tokenizer_path} is missing: run the stage 'tokenizer' first")
        return Tokenizer.from_file(self.tokenizer_path)

    @cached_property
    def views(self) -> tuple[list[FeatureView], FeatureCache]:
        """The feature caches of the training set, and that of dev."""
        return self.features(self.train_set)

    def features(self, rows: Sequence[Utterance]) -> tuple[list[FeatureView], FeatureCache]:
        """The feature caches of some utterances, and that of dev."""
        noise, rooms = (str(folder) if folder else None for folder in (self.materials.noise, self.materials.rooms))
        options = replace(self.recipe.augment, noise_dir=noise, rir_dir=rooms)
        return feature_caches(rows, self.dev_set, options, self.out / "views", self.say, self.rule)

    def fit(self, name: str, stage: Any, options: TrainingOptions) -> None:
        """Train a stage to its last step, in the folder of its name."""
        options = replace(options, tensorboard=options.tensorboard or self.materials.tensorboard)
        fit(stage, options, self.out / name, self.say, self.asked_device)

    def load(self, name: str, module: nn.Module, only_training: str | None = None) -> None:
        """Put the averaged weights of a trained stage into a module; raises `DataError` where there are none.

        Weights whose names begin with `only_training` were there to learn by, and stay behind.
        """
        if not (self.out / name / STATE).exists():
            raise DataError(f"{self.out} has no trained {name} yet: run the stage {name!r} first")
        load_average(self.out / name, module, only_training)

    def export(self) -> None:
        """Write the model with averaged weights, adapters merged."""
        if is_first_process():
            objective = self.objective()
            self.load(self.taught, objective)
            if objective.options.lora_rank:
                merge_adapters(objective)
            self.save(objective)

    def record(self, model: Path, base: str) -> None:
        """Write beside an exported model what made it."""
        data = {"train": self.train_set, "dev": self.dev_set}
        write_record(model / RUN_RECORD, run_record("train", base, asdict(self.recipe), data))
        size = sum(file.stat().st_size for file in model.iterdir()) / 1e6
        self.say(f"export: {model} ({size:.1f} MB), ready for `redline transcribe --model {model}`")


def dtype_of(folder: Path) -> torch.dtype:
    """The precision in which a checkpoint is kept: that of its largest tensor."""
    return max((tensor for file in headers(folder).values() for tensor in file.values()), key=torch.Tensor.numel).dtype


def build(recipe: Recipe, materials: Materials, stages: Sequence[str], say: Say, device: str | None = None) -> None:
    """Run the named stages of a recipe, or all where none is named, in order.

    Raises `ConfigError` for a stage that does not exist.
    """
    run = recipe.run(materials, only_first(say), device)
    make_folder(materials.out)
    run.check_folders()
    known = run.stages()
    if unknown := set(stages) - set(known):
        raise ConfigError(f"no stage {sorted(unknown)}; stages of this recipe are {', '.join(known)}")
    chosen = {name: stage for name, stage in known.items() if name in stages or not stages}
    prefixes = tuple(name.rstrip("s") for name in chosen)  # answers -> answer_training
    for key, options in vars(recipe).items():
        if isinstance(options, TrainingOptions) and options.steps and key.startswith(prefixes):
            sharding(options)  # what cannot be split is refused before hours of preparation
    for stage in chosen.values():
        stage()
        wait_for_all()
