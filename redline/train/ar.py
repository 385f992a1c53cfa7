"""The run of an AR or Plus recipe: tokenizer, answers, export, around the encoder of a NAR checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import tokenizers
import torch
from torch import nn

from redline.checkpoints import ar, nar
from redline.errors import DataError
from redline.features import Rule
from redline.models.ar import ArModel
from redline.models.draft_head import DraftHead
from redline.prompts import AUDIO, PromptTemplate
from redline.train.data.batches import BatchSource
from redline.train.data.tasks import Asker, tags_of
from redline.train.extension import StageFunction
from redline.train.loop.distributed import Say, is_first_process
from redline.train.objectives.ar import AnswerObjective, AnswerSource, AnswerStage, Questions
from redline.train.recipe import ArRecipe
from redline.train.run import Materials, Run

ROLES = ("<|start_of_role|>", "<|end_of_role|>")
TEMPLATE = (
    "{% for message in messages if message['role'] == 'user' %}"
    "<|start_of_role|>user<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}<|start_of_role|>assistant<|end_of_role|>"
)
"""The chat of models trained here: that of the cards without its system text, which would only cost positions."""


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

    def plain_stages(self) -> Mapping[str, StageFunction]:
        return {"tokenizer": self.make_tokenizer, "answers": self.train_answers, "export": self.export}

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

    def plain_source(self, stage: str) -> AnswerSource:
        options = self.recipe.answer_batches
        rows = [row for row in self.train_set if row.id in self.questions.utterances]
        source = BatchSource(rows, self.views[0], options, self.recipe.spec_augment)
        return AnswerSource(self.report(source), self.questions, options.seed)

    def plain_objective(self, stage: str, model: ArModel) -> nn.Module:
        return AnswerObjective(model, self.tokenizer(), self.recipe.answers)

    def objective(self) -> Any:
        return self.extension.objective(self, "answers", self.model())

    def train_answers(self) -> None:
        if not any(row.id in self.questions.utterances for row in self.train_set):
            raise DataError("nothing can be asked about the training set: every share of [tasks] is 0")
        objective = self.objective()
        source = self.extension.source(self, "answers", objective.model)
        stage = AnswerStage(objective, source, self.questions, self.dev_set, self.views[1])
        self.fit("answers", stage, self.recipe.answer_training)

    def save(self, objective: Any) -> None:
        parts, path = self.extension.parts(self, objective.model), self.out / "model"
        ar.save_ar(
            path,
            objective.model,
            self.tokenizer_path,
            parts.draft_lm,
            parts.speaker_embedder,
            chat_template=TEMPLATE,
            dtype=torch.float16,
            overwrite=True,
        )
        self.record(path, self.recipe.encoder_from)
