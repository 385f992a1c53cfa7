"""The extension of the bundled recipes: stages, batches and losses for small models and a few hours of speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from redline.decoding.ctc_beam import BeamOptions
from redline.errors import ConfigError
from redline.tokenizer import Tokenizer
from redline.train.data.augment import SpecAugmentOptions
from redline.train.data.batches import SpeechBatchOptions
from redline.train.extension import Extension, Parts, StageFunction
from redline.train.loop.checkpointing import STATE
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.stage import EpochSource
from redline.train.nar import NarRun
from redline.train.recipe import Recipe
from redline.train.run import Run
from redline_recipes.tiny import stages
from redline_recipes.tiny.aligned_mixing import MixingOptions
from redline_recipes.tiny.answers import CachedAnswerObjective, CachedAnswerSource, initialise_language_model
from redline_recipes.tiny.ar import ArRecipe, ArRun
from redline_recipes.tiny.books import books_of
from redline_recipes.tiny.corruption import CorruptionOptions
from redline_recipes.tiny.editor import AuxiliaryOptions, CachedEditorObjective
from redline_recipes.tiny.encoder import EncoderLossOptions
from redline_recipes.tiny.encoder_cache import EncoderCacheOptions
from redline_recipes.tiny.language_model import TextOptions
from redline_recipes.tiny.nar import ScratchRecipe, ScratchRun
from redline_recipes.tiny.ngram import NgramOptions, split_text
from redline_recipes.tiny.speaker_embedding import EmbeddingOptions
from redline_recipes.tiny.unit_selection import UnitSelectionOptions, UnitSelectionSource


@dataclass(frozen=True)
class TinySections:
    """Further sections of a recipe; every one may be left out."""

    encoder_from: str = ""
    """A NAR checkpoint (a bundled name, a folder or a hub id) whose encoder this model begins with; AR: "tiny"."""
    encoder_batches: SpeechBatchOptions = SpeechBatchOptions()
    encoder_loss: EncoderLossOptions = EncoderLossOptions()
    encoder_training: TrainingOptions = TrainingOptions()
    """The encoder learns by CTC; NAR recipes only."""
    aligned_mixing: MixingOptions = MixingOptions()
    draft_lm: NgramOptions = NgramOptions(order=0)
    """An n-gram LM for shallow fusion while drafts are searched; it needs --text."""
    draft_search: BeamOptions = BeamOptions()
    text: TextOptions = TextOptions()
    corruption: CorruptionOptions = CorruptionOptions()
    lm_training: TrainingOptions = TrainingOptions()
    """The language model learns to edit damaged books; NAR recipes only."""
    language_model_from_base: bool = False
    """Whether the language model of an AR recipe begins with that of `encoder_from`, whose shape it then has."""
    auxiliary: AuxiliaryOptions = AuxiliaryOptions()
    encoder_cache: EncoderCacheOptions = EncoderCacheOptions()
    cache_augment: SpecAugmentOptions = SpecAugmentOptions(time_warp_frames=0)
    unit_selection: UnitSelectionOptions = UnitSelectionOptions()
    voices: EmbeddingOptions = EmbeddingOptions()
    voice_training: TrainingOptions = TrainingOptions(steps=0)
    """The speaker embedding head; without it the language model alone says who speaks. AR recipes only."""


class TinyExtension(Extension):
    """Books, n-grams, cached encoder states and units in place of batches that the encoder reads anew."""

    sections = TinySections()

    def recipe(self, values: Mapping[str, Any]) -> Recipe | None:
        """That of an AR model where it has a `kind`, that of a NAR model from scratch where it has no checkpoint."""
        if "kind" in values:
            return ArRecipe()
        return None if values.get("init_from") else ScratchRecipe()

    def stages(self, run: Run, plain: Mapping[str, StageFunction]) -> Mapping[str, StageFunction]:
        """The plain stages, and those for language models and the speaker embedding head."""
        every = {**plain, "draft_lm": lambda: stages.make_ngrams(run)}
        if isinstance(run, NarRun):
            if run.recipe.init_from and run.recipe.sections.encoder_from:
                raise ConfigError("init_from and encoder_from are both set; init_from already brings its encoder")
            if not run.recipe.init_from and not run.recipe.sections.encoder_training.steps:
                raise ConfigError(
                    "[encoder_training] steps is 0: name a checkpoint with an encoder as init_from, or train"
                )
            order = ["tokenizer", "encoder", "draft_lm", "lm", "editor", "export"]
            every |= {"encoder": lambda: stages.train_encoder(run), "lm": lambda: stages.train_lm(run)}
        else:
            assert isinstance(run, ArRun)
            order = ["tokenizer", "draft_lm", "answers", "voices", "export"]
            every["voices"] = lambda: stages.train_embedding(run)
        return {name: every[name] for name in order}

    def objective(self, run: Run, stage: str, model: Any) -> nn.Module:
        """Objectives that take batches of cached states too."""
        sections = run.recipe.sections
        if isinstance(run, ArRun):
            if sections.language_model_from_base:
                initialise_language_model(model, run.base.language_model.state_dict())
            return CachedAnswerObjective(model, run.tokenizer(), run.recipe.answers, sections.auxiliary)
        assert isinstance(run, NarRun)
        edit = run.recipe.edit
        if sections.encoder_training.steps:
            run.load("encoder", stages.with_language_head(run, model))
        if sections.lm_training.steps and (run.out / "lm" / STATE).exists():
            run.load("lm", model)
        elif edit.lora_rank and isinstance(run, ScratchRun):
            raise ConfigError("adapters need a pretrained language model: run the stage 'lm', or set lora_rank = 0")
        draft_lm = stages.load_ngrams(run, model.config.text.vocab_size)
        return CachedEditorObjective(model, run.tokenizer(), edit, sections.auxiliary, draft_lm)

    def source(self, run: Run, stage: str, model: Any) -> EpochSource:
        """Cached states and units where there are to be renderings."""
        sections = run.recipe.sections
        if not sections.encoder_cache.renderings:
            return run.plain_source(stage)
        if isinstance(run, NarRun):
            return self._units(run, model)
        assert isinstance(run, ArRun)
        return self._answers(run)

    def _units(self, run: NarRun, model: Any) -> UnitSelectionSource:
        """Sentences of paragraphs that the n-grams have not read, and real utterances."""
        sections, tokenizer, config = run.recipe.sections, run.tokenizer(), model.config
        layers = config.encoder_layer_indices
        caches = stages.encoder_caches(run, model, layers, tokenizer, run.recipe.editor_training)
        paragraphs = books_of(run)
        draft_lm = stages.load_ngrams(run, config.text.vocab_size)
        if draft_lm is not None:
            paragraphs = {name: split_text(own, sections.draft_lm)[1] for name, own in paragraphs.items()}
        texts = {row.id: (row.language, row.text) for row in run.train_set}
        options, blank = sections.unit_selection, config.blank_token_id
        return UnitSelectionSource(caches, texts, paragraphs, tokenizer, blank, len(layers), options, draft_lm)

    def _answers(self, run: ArRun) -> CachedAnswerSource:
        sections, base = run.recipe.sections, run.base
        tokenizer = Tokenizer.from_file(run.base_folder / "tokenizer.json")
        layers = (*run.recipe.export_layers, -1)
        caches = stages.encoder_caches(run, base, layers, tokenizer, run.recipe.answer_training)
        sentences = None
        options = sections.unit_selection
        if run.materials.text is not None and options.share:
            texts = {row.id: (row.language, row.text) for row in run.train_set}
            blank, paragraphs = base.config.blank_token_id, books_of(run)
            sentences = UnitSelectionSource(caches, texts, paragraphs, tokenizer, blank, len(layers), options)
        source = CachedAnswerSource(caches, run.questions, sentences, options)
        for task, share in sorted(source.weights.items()):
            run.say(f"task {task}: {len(source.by_task[task])} utterances, weight {share:g}")
        return source

    def parts(self, run: Run, model: Any) -> Parts:
        """The n-grams of the drafts, and the speaker embedding head of an AR model."""
        if isinstance(run, ArRun):
            return Parts(stages.load_ngrams(run, model.draft_head.rows - 1), stages.load_embedding(run))
        return Parts(stages.load_ngrams(run, model.config.text.vocab_size))


EXTENSION = TinyExtension()
