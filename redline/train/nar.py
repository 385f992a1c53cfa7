"""A recipe applied to data: one run with its folders and its stages, each of which goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import DRAFT_LM, find_draft_lm, load_draft_lm
from redline.checkpoints.folder import resolve
from redline.decoding.ngram import NgramLM
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance
from redline.models.granite import GraniteLM
from redline.models.heads import LanguageHead, PunctuationHead
from redline.models.nar import NarModel
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.data.batches import (
    AugmentOptions,
    Batch,
    BatchOptions,
    BatchSource,
    FeatureView,
    Letters,
    spoken,
    taught,
)
from redline.train.data.bpe import train_tokenizer
from redline.train.data.feature_cache import make_views
from redline.train.data.sampling import hours_of, shares
from redline.train.init_from import check_shape, dtype_of
from redline.train.loop.checkpointing import STATE, load_average, make_folder
from redline.train.loop.distributed import first_process_first, is_first_process, only_first, wait_for_all
from redline.train.loop.loop import Say, fit
from redline.train.loop.run_record import RUN_RECORD, run_record, write_record
from redline.train.loop.sharding import sharding
from redline.train.loop.stage import Source, share_done
from redline.train.objectives.encoder import EncoderObjective, EncoderStage, warm
from redline.train.objectives.lm import LMObjective, LMStage, read_books
from redline.train.objectives.nar import EditorObjective, EditorStage, merge_adapters
from redline.train.objectives.ngram import make_draft_lm, split_text
from redline.train.recipe import Recipe
from redline.train.recombine import AS_SAID, RecombineOptions
from redline.train.splice import SplicedSource
from redline.train.states import StateBatch, build_states

STAGES = ("tokenizer", "encoder", "draft_lm", "lm", "editor", "export")
VOCAB_SIZE = 768


@dataclass(frozen=True)
class Materials:
    """What a recipe is applied to, and where its results go."""

    data: Path
    out: Path
    text: Path | None = None
    noise: Path | None = None
    rooms: Path | None = None
    voices: Path | None = None
    """A manifest of more readers for the voice head; their texts are not needed."""
    voice_weights: Path | None = None
    """What the voice head begins with."""

    def augment(self, options: AugmentOptions) -> AugmentOptions:
        """What views may do to an utterance, with these noises and rooms."""
        noise, rooms = (str(folder) if folder else None for folder in (self.noise, self.rooms))
        return replace(options, noise_dir=noise, rir_dir=rooms)


def _speech(recipe: Recipe, data: Path, split: str, say: Say) -> list[Utterance]:
    rows = taught(data, split=split, language=recipe.languages, say=say)
    return [said for row in rows if (said := _as_spoken(row, recipe.letters)).text]


def _as_spoken(row: Utterance, letters: Letters) -> Utterance:
    """An utterance with the words that are taught; their times are kept where they are of just these words."""
    text = spoken(row.text, letters)
    words = tuple(replace(word, text=spoken(word.text, letters)) for word in row.words)
    return replace(row, text=text, words=words if text == " ".join(word.text for word in words) else ())


class Build:
    """One run of a recipe: its data, its folders and its stages."""

    def __init__(self, recipe: Recipe, materials: Materials, say: Say) -> None:
        self.recipe, self.materials, self.say, self.out = recipe, materials, say, materials.out
        self.train_set = _speech(recipe, materials.data, "train", say)
        self.dev_set = _speech(recipe, materials.data, "dev", say)
        for name, rows in (("train", self.train_set), ("dev", self.dev_set)):
            if not rows:
                raise DataError(
                    f"{materials.data}: no utterance with language {' or '.join(recipe.languages)} and split {name!r}; "
                    'each line needs "split": "train" or "dev" (and "test" for what is never trained on)'
                )
        if silent := sorted(set(recipe.languages) - {row.language for row in self.train_set}):
            raise DataError(
                f"{materials.data}: no utterance to train on in {', '.join(silent)}, which the recipe names as a "
                "language; add some, or leave it out of the recipe"
            )
        self.start: Path | None = None
        if recipe.start:
            with first_process_first():
                self.start = resolve(recipe.start)
        hours = sum(row.duration for row in self.train_set) / 3600
        say(f"{len(self.train_set)} utterances, {hours:.2f} h to train on; {len(self.dev_set)} for dev")

    @property
    def tokenizer_path(self) -> Path:
        return self.out / "tokenizer.json"

    def _tokenizer(self) -> Tokenizer:
        if not self.tokenizer_path.exists():
            raise DataError(f"{self.tokenizer_path} is missing: run the stage 'tokenizer' first")
        return Tokenizer.from_file(self.tokenizer_path)

    def _model(self, tokenizer: Tokenizer) -> NarModel:
        """The model as training begins: with random weights, or those of the checkpoint it starts from."""
        recipe = self.recipe
        if self.start is None:
            model = NarModel(recipe.config(tokenizer))
            if len(recipe.languages) > 1:
                model.language_head = LanguageHead(model.config.encoder.hidden_dim, recipe.languages)
            return model
        if (self.start / "tokenizer.json").read_bytes() != self.tokenizer_path.read_bytes():
            raise DataError(
                f"{self.tokenizer_path} is not the tokenizer of {recipe.start}, which the recipe starts from; "
                "choose another --out"
            )
        model, config, _ = nar.load_nar(self.start)
        stated = {"encoder": recipe.encoder, "projector": recipe.projector, "language_model": recipe.language_model}
        top = {"vocab_size": recipe.vocab_size, "encoder_layer_indices": recipe.encoder_layer_indices}
        check_shape(recipe.start, config, stated, top)
        model.config = replace(config, languages=recipe.languages)
        if model.language_head is not None and model.language_head.languages != recipe.languages:
            model.language_head = None  # its rows mean other languages
        if len(recipe.languages) > 1 and model.language_head is None:
            model.language_head = LanguageHead(config.encoder.hidden_dim, recipe.languages)
        return model

    def _books(self) -> dict[str, list[str]]:
        """The paragraphs of each language in written form; several languages have a folder each."""
        folder, languages = self.materials.text, self.recipe.languages
        if folder is None:
            raise DataError("the language model needs text: name a folder of .txt files with --text")
        folders = {language: folder / language if len(languages) > 1 else folder for language in languages}
        if absent := [language for language, place in folders.items() if not place.exists()]:
            raise DataError(
                f"{folder}: no folder {' or '.join(absent)} in it; the text of several languages is in folders named "
                f"like them: {', '.join(languages)}"
            )
        found = {}
        for language, place in folders.items():
            progress = share_done(self.say, f"text {language}", len(list(place.rglob("*.txt"))) or 1)
            with first_process_first():
                found[language] = read_books(place, self.out / "text", progress, self.recipe.letters)
        return found

    def _spoken_books(self) -> list[str]:
        return [strip_punctuation(line) for lines in self._books().values() for line in lines]

    def _views(self) -> tuple[list[FeatureView], FeatureView]:
        options = self.materials.augment(self.recipe.augment)
        return make_views(self.train_set, self.dev_set, options, self.out / "views", self.say)

    def _source(
        self,
        views: Sequence[FeatureView],
        options: BatchOptions,
        recombine: RecombineOptions = AS_SAID,
        twins: bool = False,
    ) -> BatchSource:
        source = BatchSource(self.train_set, views, options, self.recipe.spec_augment, recombine, twins)
        if source.left_out:
            count = source.left_out.total()
            self.say(f"{count} of {len(self.train_set)} utterances do not train: {source.why_left_out}")
        if recombine.share:
            self.say(
                f"recombined: {recombine.share:.0%} of the {source.recombiner.count} utterances whose word times the "
                "manifest tells (scripts/dialogues.py --count 0 finds them)"
            )
        if options.balance < 1:
            hours = hours_of(source.utterances)
            parts = shares(hours, options.balance)
            for name, own in hours.items():
                part = f"{own / sum(hours.values()):.1%} of the hours, {parts[name]:.1%} of an epoch"
                self.say(f"source {name or '(no name)'}: {own:.2f} h, {part}")
        return source

    def tokenizer(self) -> None:
        if self.tokenizer_path.exists():
            return
        # All processes read the books, because they wait for each other there; one makes the tokenizer.
        books = self._books() if self.start is None and self.materials.text is not None else {}
        if not is_first_process():
            return
        if self.start is not None:
            shutil.copyfile(self.start / "tokenizer.json", self.tokenizer_path)
            return
        lines = [row.text for row in self.train_set]
        largest = max(map(len, books.values()), default=0)
        for own in books.values():  # every fourth paragraph, and more of what there is less of
            lines += [strip_punctuation(line) for line in own[:: max(1, round(4 * len(own) / largest))]]
        train_tokenizer(lines, self.recipe.vocab_size or VOCAB_SIZE, self.tokenizer_path)
        self.say(f"tokenizer: {self._tokenizer().vocab_size} tokens")

    def encoder(self) -> None:
        if not self.recipe.encoder_training.steps:
            return
        tokenizer = self._tokenizer()
        torch.manual_seed(self.recipe.encoder_training.seed)
        if self.start is None:
            config, languages = self.recipe.config(tokenizer).encoder, self.recipe.languages
            objective = EncoderObjective(config, tokenizer, self.recipe.encoder_loss, languages)
            if self.recipe.encoder_from:
                new = warm(objective.encoder, nar.load_nar(self.recipe.encoder_from)[0].encoder)
                self.say(f"encoder: begins with that of {self.recipe.encoder_from}; new are {', '.join(new)}")
        else:
            began = self._model(tokenizer)
            objective = EncoderObjective(began.encoder.config, tokenizer, self.recipe.encoder_loss)
            objective.encoder, objective.language = began.encoder, began.language_head
        views, dev_view = self._views()
        twins = self.recipe.encoder_loss.consistency > 0
        source = self._source(views, self.recipe.encoder_batches, self.recipe.recombine, twins)
        stage = EncoderStage(objective, source, self.dev_set, dev_view)
        fit(stage, self.recipe.encoder_training, self.out / "encoder", self.say)

    def draft_lm(self) -> None:
        options, folder = self.recipe.draft_lm, self.out / "draft_lm"
        if not options.order or (folder / DRAFT_LM).exists():
            return
        books = self._books()
        if not is_first_process():
            return
        tokenizer = self._tokenizer()
        boundary = self._model(tokenizer).config.blank_token_id
        read = [split_text(own, options)[0] for own in books.values()]
        lines = [strip_punctuation(line) for own in read for line in own]
        make_draft_lm(lines, tokenizer, boundary, options, self.recipe.draft_search, folder, self.say)

    def _draft_lm(self, model: NarModel) -> NgramLM | None:
        """The draft's n-gram LM where one was made, or that of the checkpoint that the recipe starts from."""
        path, vocabulary = self.out / "draft_lm" / DRAFT_LM, model.config.text.vocab_size
        if not self.recipe.draft_lm.order or not path.exists():
            return find_draft_lm(self.start, "own", vocabulary, "cpu") if self.start else None
        lm = load_draft_lm(path, vocabulary)
        lm.options = self.recipe.draft_search  # may have been tuned since the n-grams were counted
        return lm

    def lm(self) -> None:
        if not self.recipe.lm_training.steps:
            return
        tokenizer = self._tokenizer()
        torch.manual_seed(self.recipe.lm_training.seed)
        if self.start is None:
            config = self.recipe.config(tokenizer)
            began = GraniteLM(config.text)
        else:
            model = self._model(tokenizer)
            config, began = model.config, model.language_model
        objective = LMObjective(began, tokenizer, self.recipe.text, config.blank_token_id)
        stage = LMStage(objective, self._spoken_books(), self.recipe.corruption)
        fit(stage, self.recipe.lm_training, self.out / "lm", self.say)

    def _need(self, stage: str) -> None:
        if not (self.out / stage / STATE).exists():
            raise DataError(f"{self.out} has no trained {stage} yet: run the stage {stage!r} first")

    def _editor_objective(self) -> EditorObjective:
        tokenizer = self._tokenizer()
        torch.manual_seed(self.recipe.editor_training.seed)
        model = self._model(tokenizer)
        if self.recipe.edit.forms_weight and model.punctuation_head is None:
            model.punctuation_head = PunctuationHead(model.config.text.hidden_size)
        taught = _Holder(model)
        if self.recipe.encoder_training.steps:
            self._need("encoder")
            load_average(self.out / "encoder", taught)
        if self.recipe.lm_training.steps and (self.out / "lm" / STATE).exists():
            load_average(self.out / "lm", taught)
        elif self.recipe.edit.lora_rank and self.start is None:
            raise DataError("adapters need a pretrained language model: run the stage 'lm' first, or set lora_rank = 0")
        return EditorObjective(model, tokenizer, self.recipe.edit, self._draft_lm(model))

    def editor(self) -> None:
        objective = self._editor_objective()
        views, dev_view = self._views()
        source: Source[Batch | StateBatch] = (
            self._spliced(objective.editor, objective.draft_lm, views)
            if self.recipe.states.renderings
            else self._source(views, self.recipe.editor_batches)
        )
        stage = EditorStage(objective, source, self.dev_set, dev_view)
        fit(stage, self.recipe.editor_training, self.out / "editor", self.say)

    def _spliced(self, editor: NarModel, draft_lm: NgramLM | None, views: Sequence[FeatureView]) -> SplicedSource:
        recipe, tokenizer = self.recipe, self._tokenizer()
        total = sum(row.duration for row in self.train_set)
        device = editor.projector.query.device
        mixed = recipe.editor_training.uses_bf16(device)
        with first_process_first(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            states = build_states(
                editor,
                tokenizer,
                self.train_set,
                views,
                recipe.states,
                recipe.state_augment,
                self.out / "states",
                lambda label: share_done(self.say, label, total),
            )
        said = {row.id: (row.language, row.text) for row in self.train_set}
        layers = len(editor.config.encoder_layer_indices)
        blank = editor.config.blank_token_id
        books = self._books()
        if draft_lm is not None:
            books = {language: split_text(own, recipe.draft_lm)[1] for language, own in books.items()}
        return SplicedSource(states, said, books, tokenizer, blank, layers, recipe.splice, draft_lm)

    def export(self) -> None:
        if not is_first_process():
            return
        self._need("editor")
        objective = self._editor_objective()
        load_average(self.out / "editor", objective)
        if self.recipe.edit.lora_rank:
            merge_adapters(objective.editor.language_model)
        dtype = torch.float16 if self.start is None else dtype_of(self.start)
        model, lm = objective.editor, objective.draft_lm
        target = nar.save_nar(self.out / "model", model, self.tokenizer_path, lm, dtype=dtype, overwrite=True)
        data = {"train": self.train_set, "dev": self.dev_set}
        run = run_record("train", self.recipe.start, asdict(self.recipe), data)
        write_record(target / RUN_RECORD, run)
        size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
        self.say(f"export: {target} ({size:.1f} MB), ready for `redline transcribe --model {target}`")


class _Holder(torch.nn.Module):
    """The names under which the stages kept encoder and language model."""

    def __init__(self, model: NarModel) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.language_model = model.language_model
        self.language = model.language_head


def build(recipe: Recipe, materials: Materials, stages: Sequence[str], say: Say) -> None:
    """Run the named stages in their order; raises `ConfigError` for a stage that does not exist."""
    if unknown := set(stages) - set(STAGES):
        raise ConfigError(f"no stage {sorted(unknown)}; stages are {', '.join(STAGES)}")
    make_folder(materials.out)
    run = Build(recipe, materials, only_first(say))
    training = {"encoder": recipe.encoder_training, "lm": recipe.lm_training, "editor": recipe.editor_training}
    for stage, options in training.items():
        if stage in stages and options.steps:
            sharding(options)  # what cannot be split is told before hours of preparation
    for stage in STAGES:
        if stage in stages:
            getattr(run, stage)()
            wait_for_all()
