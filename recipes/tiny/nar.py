"""The runs of NAR recipes of small models: an encoder, n-grams and a language model of their own, cached states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from redline.checkpoints.nar import load_nar
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding.ngram import DraftOptions, NgramLM
from redline.errors import ConfigError, DataError
from redline.manifest import read_manifest
from redline.models.config import EncoderConfig, LMConfig, NarConfig, ProjectorConfig
from redline.models.heads import LanguageHead, PunctuationHead
from redline.models.nar import NarModel
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.data.batches import BatchSource
from redline.train.data.rows import unique_ids
from redline.train.loop.checkpointing import STATE
from redline.train.loop.distributed import Say, first_process_first, is_first_process
from redline.train.loop.stage import EpochSource
from redline.train.nar import NarRun
from redline.train.objectives.nar import EditorStage
from redline.train.recipe import NarRecipe, filled
from redline.train.run import Materials, Run, StageFunction
from redline_recipes.distillation.objective import ONLY_TRAINING, DistillationObjective
from redline_recipes.distillation.stage import distillation_objective, fit_maps
from redline_recipes.distillation.whisper import WEIGHTS
from redline_recipes.distillation.whisper_start import start_from_whisper
from redline_recipes.tiny.books import books_of, read_books, text_files, written
from redline_recipes.tiny.bpe import special_ids, train_tokenizer
from redline_recipes.tiny.editor import CachedEditorObjective, ListeningObjective
from redline_recipes.tiny.encoder import (
    EncoderObjective,
    EncoderStage,
    freeze_blocks,
    transfer_encoder,
    transfer_tokens,
)
from redline_recipes.tiny.language_model import LMObjective, LMStage
from redline_recipes.tiny.mel_augment import AugmentedSource, MelAugment, noise_powers
from redline_recipes.tiny.ngram import unread_text
from redline_recipes.tiny.resident_stage import resident_stage
from redline_recipes.tiny.sections import EditDecision, TinySections
from redline_recipes.tiny.stages import encoder_caches, load_ngrams, make_ngrams
from redline_recipes.tiny.unit_selection import Spoken, UnitSelectionOptions, UnitSelectionSource

VOCAB_SIZE = 768
ENCODER_LAYERS = (2, 4, 6, -1)


@dataclass(frozen=True)
class TinyNarRecipe(TinySections, NarRecipe):
    """A recipe of a small model that edits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from and self.encoder_from:
            raise ConfigError("init_from and encoder_from are both set; init_from already brings its encoder")
        if not self.whisper_from:
            return
        if taken := [name for name in ("init_from", "encoder_from") if getattr(self, name)]:
            raise ConfigError(f"whisper_from and {taken[0]} are both set; an encoder begins with one of them")
        if not (self.distillation.teacher and self.distillation.state_blocks):
            raise ConfigError(
                "whisper_from needs [distillation] teacher, a folder of Whisper's states "
                "(python -m redline_recipes.distillation.whisper_states makes it), and state_blocks"
            )

    def run(self, materials: Materials, say: Say, device: str | None = None) -> TinyNarRun:
        return TinyNarRun(self, materials, say, device)


class TinyNarRun(NarRun):
    """One run of such a recipe."""

    recipe: TinyNarRecipe

    def check_folders(self) -> None:
        recipe = self.recipe
        if recipe.unit_selection.greedy_text:
            text_files(Path(recipe.unit_selection.greedy_text))
        if recipe.whisper_from and not (weights := Path(recipe.whisper_from) / WEIGHTS).is_file():
            raise DataError(f"{weights}: no such file; whisper_from names a CTranslate2 folder of a Whisper model")

    def stages(self) -> Mapping[str, StageFunction]:
        return {
            "tokenizer": self.make_tokenizer,
            "imitation": self.imitate_whisper,
            "encoder": self.train_encoder,
            "draft_lm": self.make_draft_lm,
            "lm": self.train_lm,
            "projector": self.train_projector,
            "editor": self.train_editor,
            "export": self.export,
        }

    def with_language_head(self, model: NarModel) -> NarModel:
        """The model with a head that tells the language, where several are learned."""
        languages = self.recipe.languages
        if len(languages) > 1 and model.language_head is None:
            model.language_head = LanguageHead(model.config.encoder.hidden_dim, languages)
        return model

    def with_punctuation_head(self, model: NarModel) -> NarModel:
        """The model with a head of capitals and marks, where they are learned."""
        if self.recipe.auxiliary.punctuation_weight and model.punctuation_head is None:
            model.punctuation_head = PunctuationHead(model.config.text.hidden_size)
        return model

    def encoder_objective(self, model: NarModel) -> EncoderObjective:
        """The three CTC losses, and where the recipe names a teacher the divergence from it."""
        recipe = self.recipe
        if recipe.distillation.teacher:
            return distillation_objective(self, model, recipe.distillation, recipe.encoder_loss)
        return EncoderObjective(model.encoder, self.tokenizer(), recipe.encoder_loss, model.language_head)

    def imitate_whisper(self) -> None:
        """An encoder that begins with Whisper's weights learns its states, nearly alone, from clean sound."""
        recipe, options = self.recipe, self.recipe.imitation_training
        if not recipe.whisper_from:
            return
        torch.manual_seed(options.seed)
        model = self.with_language_head(self.model())
        if not (self.out / "imitation" / STATE).exists():
            folder, steps, bf16 = Path(recipe.whisper_from), recipe.whisper_steps, options.uses_bf16(self.device)
            start_from_whisper(model.encoder, folder, self.train_set, steps, self.device, bf16, self.say)
        objective = distillation_objective(self, model, recipe.distillation, recipe.imitation_loss)
        source = BatchSource(self.train_set, self.views[0], recipe.encoder_batches, None, self.say)
        self.fit("imitation", EncoderStage(objective, source, self.dev_set, self.views[1]), options)

    def train_encoder(self) -> None:
        """The encoder learns by CTC, from utterances some of which are mixed anew."""
        recipe, options, mixing = self.recipe, self.recipe.encoder_training, self.recipe.aligned_mixing
        if not options.steps:
            return
        torch.manual_seed(options.seed)
        model = self.with_language_head(self.model())
        if recipe.encoder_from:
            base, _, folder = load_nar(recipe.encoder_from)
            new = transfer_encoder(model.encoder, base.encoder)
            heads = model.encoder.out_bpe, base.encoder.out_bpe
            self.say(f"encoder: begins with that of {recipe.encoder_from}; new are {', '.join(new) or 'no parts'}")
            if heads[0] is not None and heads[1] is not None:
                tokenizers = self.tokenizer(), Tokenizer.from_file(folder / "tokenizer.json")
                copied = transfer_tokens(heads[0], tokenizers[0], heads[1], tokenizers[1])
                self.say(f"encoder: {copied} of {heads[0].rows} tokens begin with what wrote their text")
        freeze_blocks(model.encoder, recipe.frozen_blocks)
        noises = noise_powers(self.materials.noise) if recipe.mel_augment.noise else []
        if recipe.resident.views:
            self.fit("encoder", resident_stage(self, model, noises, options), options)
            return
        objective = self.encoder_objective(model)
        if recipe.whisper_from:
            self.load("imitation", objective)
        if isinstance(objective, DistillationObjective) and not (self.out / "encoder" / STATE).exists():
            clean = BatchSource(self.train_set, self.views[0], recipe.encoder_batches, None)
            fit_maps(objective.to(self.device), clean.epoch(0), options.uses_bf16(self.device), self.say)
        augment = MelAugment(recipe.mel_augment, noises)
        batches, spec_augment = recipe.encoder_batches, recipe.spec_augment
        source = AugmentedSource(augment, mixing, self.train_set, self.views[0], batches, spec_augment, self.say)
        if mixing.share:
            self.say(
                f"mixed: {mixing.share:.0%} of the {source.timed} utterances whose word times the manifest tells "
                "(python -m redline_recipes.tiny.dialogues --count 0 finds them)"
            )
        self.fit("encoder", EncoderStage(objective, source, self.dev_set, self.views[1]), options)

    def make_draft_lm(self) -> None:
        """The n-gram LM of the drafts; an editor learns on the paragraphs that are kept from it."""
        if self.recipe.draft_lm.order and not (self.out / "draft_lm" / DRAFT_LM).exists():
            make_ngrams(self, self.tokenizer(), self.model().config.blank_token_id, hold_out=True)

    def train_lm(self) -> None:
        """The language model learns to edit damaged books."""
        recipe, options = self.recipe, self.recipe.lm_training
        if options.steps:
            torch.manual_seed(options.seed)
            model = self.model()
            lines = [line for own in books_of(self).values() for line in own]
            blank, weight = model.config.blank_token_id, recipe.auxiliary.punctuation_weight
            head = self.with_punctuation_head(model).punctuation_head
            objective = LMObjective(model.language_model, self.tokenizer(), recipe.text, blank, head, weight)
            self.fit("lm", LMStage(objective, lines, recipe.corruption), options)

    def train_projector(self) -> None:
        """The projector learns to say to the language model what is heard, before both learn to edit."""
        recipe, options = self.recipe, self.recipe.projector_training
        if not options.steps:
            return
        objective = self.objective(ListeningObjective)
        source = self.source(objective.model, replace(recipe.unit_selection, text_share=0.0, greedy_share=1.0))
        self.fit("projector", EditorStage(objective, source, self.dev_set, self.views[1]), options)

    def train_editor(self) -> None:
        if self.recipe.editor_training.steps:
            super().train_editor()

    def export(self) -> None:
        """As ever; without steps for the editor it stays as it was, beside a new encoder."""
        if self.recipe.editor_training.steps:
            super().export()
        elif is_first_process():
            self.save(self.objective())

    def draft_lm(self) -> NgramLM | None:
        lm, search = load_ngrams(self, self.tokenizer().vocab_size) or super().draft_lm(), self.recipe.draft_search
        if lm is not None and search != DraftOptions():  # otherwise a checkpoint's n-grams keep what suits them
            lm.options = search
        return lm

    def objective(self, kind: type[CachedEditorObjective] = CachedEditorObjective) -> CachedEditorObjective:
        """An objective that takes batches of cached states too."""
        recipe = self.recipe
        torch.manual_seed(recipe.editor_training.seed)
        model = self.model()
        if recipe.encoder_training.steps:
            self.load("encoder", self.with_language_head(model), ONLY_TRAINING)
        if recipe.lm_training.steps and (self.out / "lm" / STATE).exists():
            self.load("lm", self.with_punctuation_head(model))
        elif recipe.edit.lora_rank and not recipe.init_from:
            raise ConfigError("adapters need a pretrained language model: run the stage 'lm', or set lora_rank = 0")
        if recipe.greedy_edits != EditDecision():
            model.config = replace(model.config, **asdict(recipe.greedy_edits))
        objective = kind(model, self.tokenizer(), recipe.edit, recipe.auxiliary, self.draft_lm())
        is_taught = recipe.projector_training.steps and (self.out / "projector" / STATE).exists()
        if is_taught and kind is CachedEditorObjective:
            self.load("projector", objective)
        return objective

    def source(self, model: NarModel, options: UnitSelectionOptions | None = None) -> EpochSource:
        """Where there are to be renderings: sentences that the n-grams have not read in units, and real utterances."""
        recipe, tokenizer, blank = self.recipe, self.tokenizer(), model.config.blank_token_id
        if not recipe.encoder_cache.renderings:
            return super().source(model)
        layers = model.config.encoder_layer_indices
        caches = encoder_caches(self, model, layers, tokenizer, recipe.editor_training)
        paragraphs, draft_lm = books_of(self), self.draft_lm()
        options, texts = options or recipe.unit_selection, written_texts(self)
        if draft_lm is not None:
            paragraphs = {name: unread_text(own, recipe.draft_lm) for name, own in paragraphs.items()}
        unread = paragraphs
        if options.greedy_text:
            with first_process_first():
                more = read_books(Path(options.greedy_text), self.out / "text", letters=recipe.letters)
            paragraphs = {name: [*own, *more] for name, own in paragraphs.items()}
        return UnitSelectionSource(caches, texts, paragraphs, tokenizer, blank, len(layers), options, draft_lm, unread)


@dataclass(frozen=True)
class ScratchRecipe(TinyNarRecipe):
    """A recipe of a model that begins with random weights, of the shape that its sections tell."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.encoder_training.steps:
            raise ConfigError("[encoder_training] steps is 0: name a checkpoint with an encoder as init_from, or train")

    def run(self, materials: Materials, say: Say, device: str | None = None) -> ScratchRun:
        return ScratchRun(self, materials, say, device)


class ScratchRun(TinyNarRun):
    """A run with a tokenizer and a model of its own, in place of a checkpoint's."""

    precision = torch.float16

    def __init__(self, recipe: ScratchRecipe, materials: Materials, say: Say, device: str | None = None) -> None:
        Run.__init__(self, recipe, materials, say, device)  # there is no checkpoint

    def make_tokenizer(self) -> None:
        """Byte-level BPE of the transcripts and every fourth paragraph, and more of what there is less of."""
        if self.tokenizer_path.exists():
            return
        lines = [row.text for row in self.train_set]
        if self.materials.text is not None:
            paragraphs = books_of(self).values()
            largest = max(map(len, paragraphs))
            for own in paragraphs:
                lines += [strip_punctuation(line) for line in own[:: max(1, round(4 * len(own) / largest))]]
        if is_first_process():
            tokenizer = train_tokenizer(lines, self.recipe.vocab_size or VOCAB_SIZE, self.tokenizer_path)
            self.say(f"tokenizer: {tokenizer.vocab_size} tokens")

    def model(self) -> NarModel:
        return NarModel(nar_config(self.recipe, self.tokenizer()))

    def draft_lm(self) -> NgramLM | None:
        return load_ngrams(self, self.tokenizer().vocab_size)


def written_texts(run: Run) -> dict[str, Spoken]:
    """What each utterance of the training set says; a text all in capitals does not tell how it is written."""
    letters = run.recipe.letters
    named = {row.id: row.text for row in unique_ids(read_manifest(run.materials.data))}
    forms = {name: None if text.isupper() else written(text, letters) for name, text in named.items()}
    return {row.id: Spoken(row.language, row.text, forms[row.id]) for row in run.train_set}


def nar_config(recipe: NarRecipe, tokenizer: Tokenizer) -> NarConfig:
    """The model of a recipe's own sections, sized to a tokenizer."""
    ids = special_ids(tokenizer)
    end, rows = ids["eos_token_id"], tokenizer.vocab_size
    encoder_values = {**recipe.encoder, "bpe_output_dim": rows, "blank_token_id": end}
    encoder = filled(EncoderConfig(), encoder_values, "recipe [encoder]")
    text = filled(LMConfig(), {**recipe.language_model, **ids}, "recipe [language_model]")
    layers = recipe.encoder_layer_indices or ENCODER_LAYERS
    widths = {"encoder_dim": encoder.hidden_dim, "llm_dim": text.hidden_size, "num_encoder_layers": len(layers)}
    return NarConfig(
        encoder=encoder,
        projector=filled(ProjectorConfig(), {**recipe.projector, **widths}, "recipe [projector]"),
        text=text,
        encoder_layer_indices=layers,
        blank_token_id=end,
        languages=recipe.languages,
    )
