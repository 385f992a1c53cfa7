"""The run of a NAR recipe: tokenizer, editor, export; it goes on from a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import find_draft_lm
from redline.checkpoints.folder import resolve
from redline.decoding.ngram import NgramLM
from redline.errors import ConfigError, DataError
from redline.features import Rule
from redline.models.config import NarConfig
from redline.models.nar import NarModel
from redline.train.data.batches import BatchSource
from redline.train.loop.distributed import Say, first_process_first, is_first_process
from redline.train.loop.stage import EpochSource
from redline.train.objectives.nar import EditorObjective, EditorStage
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, Run, StageFunction, dtype_of


class NarRun(Run):
    """One run of a NAR recipe."""

    rule: Rule = "nar"
    taught = "editor"
    recipe: NarRecipe

    def __init__(self, recipe: NarRecipe, materials: Materials, say: Say, device: str | None = None) -> None:
        """Raises `ConfigError` for a recipe without a checkpoint."""
        if not recipe.init_from:
            raise ConfigError(
                "init_from is empty: name a checkpoint with an encoder, or an extension that trains one, such as "
                'extension = "redline_recipes.tiny.extension"'
            )
        super().__init__(recipe, materials, say, device)
        with first_process_first():
            self.init_from = resolve(recipe.init_from)
        self.precision = dtype_of(self.init_from)

    def stages(self) -> Mapping[str, StageFunction]:
        return {"tokenizer": self.make_tokenizer, "editor": self.train_editor, "export": self.export}

    def make_tokenizer(self) -> None:
        """That of the checkpoint."""
        if not self.tokenizer_path.exists() and is_first_process():
            shutil.copyfile(self.init_from / "tokenizer.json", self.tokenizer_path)

    def model(self) -> NarModel:
        """The model as training begins, with the weights of the checkpoint."""
        recipe = self.recipe
        if (self.init_from / "tokenizer.json").read_bytes() != self.tokenizer_path.read_bytes():
            raise DataError(
                f"{self.tokenizer_path} is not the tokenizer of {recipe.init_from}, which the recipe goes on "
                "from; choose another --out"
            )
        model, config, _ = nar.load_nar(self.init_from)
        check_shape(recipe, config)
        model.config = replace(config, languages=recipe.languages)
        if model.language_head is not None and model.language_head.languages != recipe.languages:
            model.language_head = None  # its rows mean other languages
        return model

    def draft_lm(self) -> NgramLM | None:
        """The n-gram LM of the drafts: that of the checkpoint, where there is one."""
        return find_draft_lm(self.init_from, "own", self.tokenizer().vocab_size)

    def objective(self) -> EditorObjective:
        tokenizer = self.tokenizer()
        torch.manual_seed(self.recipe.editor_training.seed)
        return EditorObjective(self.model(), tokenizer, self.recipe.edit, self.draft_lm())

    def source(self, model: NarModel) -> EpochSource:
        options, spec_augment = self.recipe.editor_batches, self.recipe.spec_augment
        return BatchSource(self.train_set, self.views[0], options, spec_augment, self.say)

    def train_editor(self) -> None:
        objective = self.objective()
        stage = EditorStage(objective, self.source(objective.model), self.dev_set, self.views[1])
        self.fit("editor", stage, self.recipe.editor_training)

    def save(self, objective: EditorObjective) -> None:
        path, editor, tokenizer = self.out / "model", objective.model, self.tokenizer_path
        dtype, int8 = self.precision, self.recipe.int8
        nar.save_nar(path, editor, tokenizer, self.draft_lm(), dtype=dtype, int8=int8, overwrite=True)
        self.record(path, self.recipe.init_from)


def check_shape(recipe: NarRecipe, config: NarConfig) -> None:
    """Refuse a recipe that states another shape than the checkpoint it starts from; raises `ConfigError`."""
    shape = asdict(config) | {"language_model": asdict(config.text), "vocab_size": config.text.vocab_size}
    stated = {key: (getattr(recipe, key), shape[key]) for key in ("vocab_size", "encoder_layer_indices")}
    for name in ("encoder", "projector", "language_model"):
        stated |= {f"[{name}] {key}": (value, shape[name].get(key)) for key, value in getattr(recipe, name).items()}
    for key, (value, own) in stated.items():
        if value is not None and (tuple(value) if isinstance(value, list) else value) != own:
            raise ConfigError(
                f"recipe {key} is {value!r}, but the model that it starts from, {recipe.init_from}, has {own!r}; "
                "leave the key out, or start from another model"
            )
