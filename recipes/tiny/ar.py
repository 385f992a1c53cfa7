"""The run of an AR or Plus recipe: tokenizer, answers, export, around the encoder of a NAR checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import tokenizers
import torch

from redline.checkpoints import ar, nar
from redline.decoding import tags
from redline.errors import ConfigError, DataError
from redline.features import Rule
from redline.models.ar import ArModel
from redline.models.config import SPEECH_KINDS, ArConfig, ArKind, EncoderConfig, LMConfig, QFormerConfig
from redline.models.draft_head import DraftHead
from redline.prompts import AUDIO, PromptTemplate
from redline.tokenizer import Tokenizer
from redline.train.data.batches import BatchSource, SpeechBatchOptions
from redline.train.data.tasks import Asker, TaskOptions
from redline.train.loop.distributed import Say, is_first_process
from redline.train.loop.optim import TrainingOptions
from redline.train.loop.stage import EpochSource
from redline.train.objectives.ar import AnswerOptions, AnswerSource, AnswerStage, Questions
from redline.train.recipe import Recipe, filled
from redline.train.run import Materials, Run, StageFunction
from redline_recipes.tiny.answers import (
    CachedAnswerObjective,
    CachedAnswerSource,
    ListeningAnswerObjective,
    initialise_language_model,
)
from redline_recipes.tiny.answers_start import HEARD, begin_with_answers
from redline_recipes.tiny.books import books_of
from redline_recipes.tiny.bpe import special_ids
from redline_recipes.tiny.sections import TinySections
from redline_recipes.tiny.stages import encoder_caches, load_embedding, load_ngrams, make_ngrams, train_embedding
from redline_recipes.tiny.unit_selection import Spoken, UnitSelectionSource

ROLES = ("<|start_of_role|>", "<|end_of_role|>")
TEMPLATE = (
    "{% for message in messages if message['role'] == 'user' %}"
    "<|start_of_role|>user<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}<|start_of_role|>assistant<|end_of_role|>"
)
"""The chat of models trained here: that of the cards without its system text, which would only cost positions."""


@dataclass(frozen=True)
class ArRecipe(TinySections, Recipe):
    """A recipe of an AR or Plus model around the encoder of a NAR checkpoint, `encoder_from`, which stays as it is."""

    kind: ArKind = "granite_speech_plus"
    encoder_from: str = "tiny"
    answers_from: str = ""
    """An AR or Plus checkpoint whose projector and language model this one begins with, on whatever encoder it has."""
    export_layers: tuple[int, ...] = ()
    trusts_draft: bool = False
    """Whether the encoder's draft is the text, words are aligned and speakers found by their embeddings."""
    longest_clip_s: Mapping[str, float] = field(default_factory=dict)
    """The longest clips to give it, for "plain", "words" and "speakers"; longer recordings are cut at pauses."""
    window_size: int = 15
    downsample_rate: int = 5
    tasks: TaskOptions = TaskOptions()
    answers: AnswerOptions = AnswerOptions()
    answer_batches: SpeechBatchOptions = SpeechBatchOptions()
    answer_training: TrainingOptions = TrainingOptions()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in SPEECH_KINDS:
            raise ConfigError(f"kind is {self.kind!r}; allowed are {', '.join(SPEECH_KINDS)}")

    def run(self, materials: Materials, say: Say, device: str | None = None) -> ArRun:
        return ArRun(self, materials, say, device)

    def config(self, encoder: EncoderConfig, tokenizer: Tokenizer) -> ArConfig:
        """The model of the recipe's sections around an encoder, sized to its tokenizer."""
        audio = tokenizer.id_of(AUDIO)
        assert audio is not None
        width = {"encoder_hidden_size": encoder.hidden_dim * (len(self.export_layers) + 1)}
        text = {**self.language_model, **special_ids(tokenizer)}
        return ArConfig(
            kind=self.kind,
            encoder=replace(encoder, bpe_output_dim=None),
            projector=filled(QFormerConfig(), {**self.projector, **width}, "recipe [projector]"),
            text=filled(LMConfig(), text, "recipe [language_model]"),
            export_layers=self.export_layers,
            audio_token_index=audio,
            window_size=self.window_size,
            downsample_rate=self.downsample_rate,
            languages=self.languages,
            longest_clip_s=self.longest_clip_s,
        )


class ArRun(Run):
    """One run of an AR or Plus recipe."""

    rule: Rule = "ar"
    taught = "answers"
    recipe: ArRecipe

    def __init__(self, recipe: ArRecipe, materials: Materials, say: Say, device: str | None = None) -> None:
        super().__init__(recipe, materials, say, device)
        self.base, _, self.base_folder = nar.load_nar(recipe.encoder_from)
        turns, words = (sum(bool(getattr(row, key)) for row in self.train_set) for key in ("turns", "words"))
        say(f"{turns} of the utterances to train on have turns, {words} word times")

    def stages(self) -> Mapping[str, StageFunction]:
        return {
            "tokenizer": self.make_tokenizer,
            "draft_lm": lambda: make_ngrams(self, self.base_tokenizer(), self.base.config.blank_token_id, False),
            "projector": self.train_projector,
            "answers": self.train_answers,
            "voices": lambda: train_embedding(self),
            "export": self.export,
        }

    def base_tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(self.base_folder / "tokenizer.json")

    def make_tokenizer(self) -> None:
        """That of the encoder's checkpoint, with control tokens and one token for every tag; its ids stay."""
        if self.tokenizer_path.exists() or not is_first_process():
            return
        core = tokenizers.Tokenizer.from_file(str(self.base_folder / "tokenizer.json"))
        if self.recipe.letters == "a-z":  # it knows no capitals, but users will write them in keywords
            core.normalizer = tokenizers.normalizers.Lowercase()
        core.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in (*ROLES, AUDIO)])
        if self.recipe.kind == "granite_speech_plus":
            tags = tags_of(self.recipe.tasks.tick_s)
            # A tag takes the space before it along, so that it costs one token.
            core.add_tokens([tokenizers.AddedToken(tag, lstrip=True, normalized=False) for tag in tags])
        core.save(str(self.tokenizer_path))
        self.say(f"tokenizer: {core.get_vocab_size()} tokens")

    def model(self) -> ArModel:
        """The base's encoder and draft, a new projector and language model."""
        torch.manual_seed(self.recipe.answer_training.seed)
        model = ArModel(self.recipe.config(self.base.config.encoder, self.tokenizer()))
        known = self.base.encoder.state_dict()
        model.encoder.load_state_dict({name: known[name] for name in known if not name.startswith("out_bpe")})
        model.draft_head = self._draft_head(model)
        return model

    def _draft_head(self, model: ArModel) -> DraftHead:
        """The base's token head, whose blank gets a row of its own behind all tokens."""
        own, blank = self.base.encoder.out_bpe, self.base.config.blank_token_id
        assert own is not None
        encoder = model.config.encoder
        head = DraftHead(encoder.hidden_dim, own.rows + 1, blank=own.rows, window=encoder.bpe_pooling_window)
        with torch.no_grad():
            for target, source in ((head.weight, own.weight), (head.bias, own.bias)):
                target.copy_(torch.cat((source, source[blank : blank + 1])))
            head.bias[blank] = -1e4  # the end of a text is not part of it
        return head

    @cached_property
    def questions(self) -> Questions:
        """What can be asked about the utterances, in the run's chat template."""
        asker = Asker((row.text for row in self.train_set), self.recipe.tasks, self.recipe.kind)
        template = PromptTemplate.from_source(TEMPLATE, self.recipe.kind)
        return Questions((*self.train_set, *self.dev_set), asker, template, self.tokenizer())

    def source(self, model: ArModel) -> EpochSource:
        """Where there are to be renderings: cached states, and sentences in units where there are books."""
        recipe, options, questions = self.recipe, self.recipe.unit_selection, self.questions
        if not recipe.encoder_cache.renderings:
            rows = [row for row in self.train_set if row.id in questions.utterances]
            source = BatchSource(rows, self.views[0], recipe.answer_batches, recipe.spec_augment, self.say)
            return AnswerSource(source, questions, recipe.answer_batches.seed)
        layers, tokenizer = (*recipe.export_layers, -1), self.base_tokenizer()
        caches = encoder_caches(self, self.base, layers, tokenizer, recipe.answer_training)
        sentences = None
        if self.materials.text is not None and options.share:
            texts = {row.id: Spoken(row.language, row.text) for row in self.train_set}
            blank, paragraphs = self.base.config.blank_token_id, books_of(self)
            sentences = UnitSelectionSource(caches, texts, paragraphs, tokenizer, blank, len(layers), options)
        cached = CachedAnswerSource(caches, questions, sentences, options)
        for task, share in sorted(cached.weights.items()):
            self.say(f"task {task}: {len(cached.by_task[task])} utterances, weight {share:g}")
        return cached

    def objective(self, kind: type[CachedAnswerObjective] = CachedAnswerObjective) -> CachedAnswerObjective:
        """An objective that takes batches of cached states too."""
        recipe, model = self.recipe, self.model()
        if recipe.language_model_from_base:
            initialise_language_model(model, self.base.language_model.state_dict())
        return kind(model, self.tokenizer(), recipe.answers, recipe.auxiliary)

    def train_projector(self) -> None:
        """The projector learns to say to the language model what is heard, before both learn to answer."""
        if self.recipe.projector_training.steps:
            objective = self.begun(ListeningAnswerObjective)
            self.fit("projector", self.stage(objective), self.recipe.projector_training)

    def train_answers(self) -> None:
        objective = self.begun(CachedAnswerObjective)
        if self.recipe.projector_training.steps:
            self.load("projector", objective)
        self.fit("answers", self.stage(objective), self.recipe.answer_training)

    def stage(self, objective: CachedAnswerObjective) -> AnswerStage:
        return AnswerStage(objective, self.source(objective.model), self.questions, self.dev_set, self.views[1])

    def begun(self, kind: type[CachedAnswerObjective]) -> CachedAnswerObjective:
        """An objective as learning begins; raises `DataError` where nothing can be asked."""
        if not any(row.id in self.questions.utterances for row in self.train_set):
            raise DataError("nothing can be asked about the training set: every share of [tasks] is 0")
        objective, source, view = self.objective(kind), self.recipe.answers_from, self.views[0][0]
        if source:
            heard = [row.id for row in self.train_set if row.id in view.offsets]
            features = (view[identity] for identity in heard[:: -(-len(heard) // HEARD)])
            explained = begin_with_answers(objective.model, source, features)
            self.say(f"answers: begin with those of {source}, {100 * explained:.0f} % of whose states these explain")
        return objective

    def save(self, objective: CachedAnswerObjective) -> None:
        path, model = self.out / "model", objective.model
        assert model.draft_head is not None
        ar.save_ar(
            path,
            model,
            self.tokenizer_path,
            load_ngrams(self, model.draft_head.rows - 1),
            load_embedding(self),
            trusts_draft=self.recipe.trusts_draft,
            chat_template=TEMPLATE,
            dtype=torch.float16,
            int8=self.recipe.int8,
            overwrite=True,
        )
        self.record(path, self.recipe.encoder_from)


def tags_of(tick_s: float, speakers: int = 4) -> list[str]:
    """The tags that answers hold, each of which a small tokenizer keeps as one token."""
    times = [f"[T:{time}]" for time in range(0, tags.ROLLOVER, round(tick_s * 100))]
    return [*times, *(f"[Speaker {number}]:" for number in range(1, speakers + 1))]
