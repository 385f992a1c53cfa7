"""The run of a NAR recipe: tokenizer, encoder, editor, export."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import find_draft_lm
from redline.checkpoints.folder import resolve
from redline.decoding.ngram import NgramLM
from redline.errors import ConfigError, DataError
from redline.features import Rule
from redline.models.heads import LanguageHead
from redline.models.nar import NarModel
from redline.train.data.batches import BatchSource
from redline.train.data.bpe import train_tokenizer
from redline.train.extension import Parts, StageFunction
from redline.train.init_from import check_shape, dtype_of
from redline.train.loop.distributed import Say, first_process_first, is_first_process
from redline.train.objectives.encoder import EncoderObjective, EncoderStage, transfer_encoder
from redline.train.objectives.nar import EditorObjective, EditorStage, merge_adapters
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, Run

VOCAB_SIZE = 768


class NarRun(Run):
    """One run of a NAR recipe."""

    rule: Rule = "nar"
    recipe: NarRecipe

    def __init__(self, recipe: NarRecipe, materials: Materials, say: Say, device: str | None = None) -> None:
        super().__init__(recipe, materials, say, device)
        self.init_from: Path | None = None
        if recipe.init_from:
            with first_process_first():
                self.init_from = resolve(recipe.init_from)

    def plain_stages(self) -> Mapping[str, StageFunction]:
        return {
            "tokenizer": self.make_tokenizer,
            "encoder": self.train_encoder,
            "editor": self.train_editor,
            "export": self.export,
        }

    def make_tokenizer(self, lines: Iterable[str] = ()) -> None:
        """Byte-level BPE of the transcripts and of further lines, or the tokenizer of the initial checkpoint."""
        if self.tokenizer_path.exists() or not is_first_process():
            return
        if self.init_from is not None:
            shutil.copyfile(self.init_from / "tokenizer.json", self.tokenizer_path)
            return
        texts = [*(row.text for row in self.train_set), *lines]
        train_tokenizer(texts, self.recipe.vocab_size or VOCAB_SIZE, self.tokenizer_path)
        self.say(f"tokenizer: {self.tokenizer().vocab_size} tokens")

    def model(self) -> NarModel:
        """The model as training begins: with random weights, or those of the checkpoint it is initialised from."""
        recipe = self.recipe
        if self.init_from is None:
            model = NarModel(recipe.config(self.tokenizer()))
        else:
            if (self.init_from / "tokenizer.json").read_bytes() != self.tokenizer_path.read_bytes():
                raise DataError(
                    f"{self.tokenizer_path} is not the tokenizer of {recipe.init_from}, which the recipe goes on "
                    "from; choose another --out"
                )
            model, config, _ = nar.load_nar(self.init_from)
            stated = {"encoder": recipe.encoder, "projector": recipe.projector, "language_model": recipe.language_model}
            top = {"vocab_size": recipe.vocab_size, "encoder_layer_indices": recipe.encoder_layer_indices}
            check_shape(recipe.init_from, config, stated, top)
            model.config = replace(config, languages=recipe.languages)
            if model.language_head is not None and model.language_head.languages != recipe.languages:
                model.language_head = None  # its rows mean other languages
        if len(recipe.languages) > 1 and model.language_head is None:
            model.language_head = LanguageHead(model.config.encoder.hidden_dim, recipe.languages)
        return model

    def plain_source(self, stage: str) -> BatchSource:
        """Batches of utterances for the encoder or the editor."""
        recipe = self.recipe
        options = recipe.encoder_batches if stage == "encoder" else recipe.editor_batches
        return self.report(BatchSource(self.train_set, self.views[0], options, recipe.spec_augment))

    def plain_objective(self, stage: str, model: NarModel) -> nn.Module:
        recipe, tokenizer = self.recipe, self.tokenizer()
        if stage == "encoder":
            return EncoderObjective(model.encoder, tokenizer, recipe.encoder_loss, model.language_head)
        if recipe.edit.lora_rank and self.init_from is None:
            raise ConfigError("adapters need a pretrained language model: set init_from, or lora_rank = 0")
        return EditorObjective(model, tokenizer, recipe.edit, self.draft_lm())

    def plain_parts(self) -> Parts:
        return Parts(self.draft_lm())

    def draft_lm(self) -> NgramLM | None:
        """The n-gram LM of the initial checkpoint, where there is one."""
        if self.init_from is None:
            return None
        return find_draft_lm(self.init_from, "own", self.tokenizer().vocab_size, self.device)

    def train_encoder(self) -> None:
        recipe = self.recipe
        if recipe.encoder_training.steps:
            torch.manual_seed(recipe.encoder_training.seed)
            model = self.model()
            if recipe.encoder_from:
                new = transfer_encoder(model.encoder, nar.load_nar(recipe.encoder_from)[0].encoder)
                self.say(f"encoder: begins with that of {recipe.encoder_from}; new are {', '.join(new)}")
            objective: Any = self.extension.objective(self, "encoder", model)
            source = self.extension.source(self, "encoder", model)
            stage = EncoderStage(objective, source, self.dev_set, self.views[1])
            self.fit("encoder", stage, recipe.encoder_training)

    def editor_objective(self) -> Any:
        """The editor as its training begins, with the encoder of the stage before."""
        torch.manual_seed(self.recipe.editor_training.seed)
        model = self.model()
        if self.recipe.encoder_training.steps:
            self.load("encoder", model)
        return self.extension.objective(self, "editor", model)

    def train_editor(self) -> None:
        objective = self.editor_objective()
        source = self.extension.source(self, "editor", objective.editor)
        stage = EditorStage(objective, source, self.dev_set, self.views[1])
        self.fit("editor", stage, self.recipe.editor_training)

    def export(self) -> None:
        """Write the averaged weights in the published layout, adapters merged."""
        if not is_first_process():
            return
        objective = self.editor_objective()
        self.load("editor", objective)
        model = objective.editor
        if self.recipe.edit.lora_rank:
            merge_adapters(model.language_model)
        draft_lm = self.extension.parts(self, model).draft_lm
        dtype = torch.float16 if self.init_from is None else dtype_of(self.init_from)
        target = nar.save_nar(self.out / "model", model, self.tokenizer_path, draft_lm, dtype=dtype, overwrite=True)
        self.record(target, self.recipe.init_from)
