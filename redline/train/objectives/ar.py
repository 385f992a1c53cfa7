"""AR and Plus training: projector and language model learn to answer prompts about what the frozen encoder reads.

Loss: the next token of the answer. The encoder stays, so that its draft can still be verified (arXiv 2603.11243).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from redline import prompts
from redline.decoding.generate import GenerateOptions, Search, token_budget
from redline.engine.decoder import ContinuousDecoder
from redline.features import FRAME_RATE, pad
from redline.manifest import Utterance
from redline.models.ar import ArModel
from redline.prompts import PromptRequest, PromptTemplate
from redline.recognizer.ar_batch import Decoding
from redline.tokenizer import Tokenizer
from redline.train.data.feature_cache import FeatureCache
from redline.train.data.tasks import Asker, answer_of, slower
from redline.train.loop.stage import DEV_BATCH, EpochSource, rates
from redline.train.objectives.losses import Terms, weighted
from redline.train.objectives.nar import LoraOptions, TunedObjective

MAX_DEV = 64
"""Dev utterances of each task that are scored."""


@dataclass(frozen=True)
class AnswerBatch:
    """Utterances [B, T, 160] with lengths [B], what is asked about them and the answers; a prompt has one audio id."""

    features: Tensor
    lengths: Tensor
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    languages: tuple[str, ...] = ()  # of the texts, where they are known
    seconds: float = 0.0


@dataclass(frozen=True)
class AnswerOptions(LoraOptions):
    """How answers are learned."""

    train_encoder: bool = False
    """Whether the encoder learns too; its own draft, which nothing then teaches, may get worse."""


class AnswerObjective(TunedObjective):
    """Batch -> cross-entropy of the answers."""

    model: ArModel

    def __init__(self, model: ArModel, tokenizer: Tokenizer, options: AnswerOptions) -> None:
        super().__init__(model, tokenizer, options, options.train_encoder)
        if model.draft_head is not None:
            model.draft_head.requires_grad_(False)

    def forward(self, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        model, end = self.model, self.model.config.text.eos_token_id
        audio, counts = self.embed_audio(batch)
        pairs = list(zip(self.with_audio(batch, counts), batch.answers, strict=True))
        hidden = model.language_model.hidden(*model.embed([[*prompt, *answer] for prompt, answer in pairs], audio))
        places = [  # of the states [B, L, H] that tell the next token of an answer, or its end
            (row, len(prompt) - 1 + at) for row, (prompt, answer) in enumerate(pairs) for at in range(len(answer) + 1)
        ]
        rows, positions = torch.tensor(places, device=hidden.device).T
        targets = torch.tensor([id for answer in batch.answers for id in (*answer, end)], device=hidden.device)
        logits = model.language_model.logits(hidden[rows, positions])  # [N, V]
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        loss, parts = weighted({"answer": (1.0, losses.mean()), **self.more_terms(batch, audio, counts)})
        for task in sorted(set(batch.tasks)):
            of_task = torch.tensor([name == task for name in batch.tasks], device=hidden.device)
            parts[task] = losses.detach()[of_task[rows]].mean()
        return loss, parts

    def more_terms(self, batch: AnswerBatch, audio: Tensor, counts: Tensor) -> Terms:
        """Further losses of audio embeddings [B, S, H], lengths [B], for objectives that derive from this one."""
        return {}

    def embed_audio(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """Audio embeddings [B, S, H] and lengths [B] of a batch; a recipe's extension may read them from elsewhere."""
        return self.model.embed_audio(self.encode(batch))

    def with_audio(self, batch: AnswerBatch, counts: Tensor) -> list[list[int]]:
        """The prompts of a batch, each with as many placeholders as its clip has embeddings [B]."""
        audio_id = self.model.config.audio_token_index
        pairs = zip(batch.prompts, counts.tolist(), strict=True)
        return [prompts.with_audio(prompt, audio_id, count) for prompt, count in pairs]

    @torch.no_grad()
    def answer(self, batch: AnswerBatch) -> list[str]:
        """What the model answers to a batch, greedily."""
        model = self.model
        audio, counts = self.embed_audio(batch)
        prompted = self.with_audio(batch, counts)
        budgets = [2 * len(answer) + token_budget(0.0) for answer in batch.answers]
        options = GenerateOptions(model.config.text.eos_token_id, suppress=(model.config.audio_token_index,))
        rows = zip(prompted, audio, counts.tolist(), budgets, strict=True)
        texts = [Decoding(prompt, own[:count], [], Search(0, budget, options)) for prompt, own, count, budget in rows]
        ContinuousDecoder(model, options).write(texts)
        return [self.tokenizer.decode(text.search.best.ids).strip() for text in texts]


class Questions:
    """Utterances that can be asked about, by their ids, and what is asked and answered as ids."""

    def __init__(self, rows: Iterable[Utterance], asker: Asker, template: PromptTemplate, tokenizer: Tokenizer) -> None:
        self.asker, self.tokenizer = asker, tokenizer
        self.utterances = {row.id: row for row in map(answer_of, rows) if asker.tasks_of(row)}
        # Equal requests are rendered once.
        self._prompt = lru_cache(lambda request: tuple(prompts.encode(tokenizer, template.render(request))))

    def ids(self, asked: Sequence[tuple[PromptRequest, str]]) -> tuple[Any, Any]:
        """Prompt ids and answer ids of some requests with their answers."""
        answers = tuple(tuple(self.tokenizer.encode(answer)) for _, answer in asked)
        return tuple(self._prompt(request) for request, _ in asked), answers


@dataclass(frozen=True)
class AnswerSource:
    """Batches of utterances, each asked for one of the tasks that it allows."""

    source: EpochSource
    questions: Questions
    seed: int = 0

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[AnswerBatch]:
        asker = self.questions.asker
        for number, batch in enumerate(self.source.epoch(epoch, skip), start=skip):
            draw = random.Random((self.seed * 7919 + epoch) * 100_003 + number)
            asked, tasks = [], []
            for identity, length in zip(batch.ids, batch.lengths.tolist(), strict=True):
                row = self.questions.utterances[identity]
                shares = asker.tasks_of(row)
                tasks += draw.choices(list(shares), list(shares.values()))
                factor = length / FRAME_RATE / row.duration if row.duration else 1.0
                asked.append(asker.ask(tasks[-1], slower(row, factor), draw))
            sound, ids = (batch.features, batch.lengths), self.questions.ids(asked)
            yield AnswerBatch(*sound, *ids, batch.texts, tuple(tasks), batch.languages, batch.seconds)


def dev_batches(dev: Sequence[Utterance], view: FeatureCache, questions: Questions) -> list[AnswerBatch]:
    """Fixed questions about dev utterances, batch by batch of one task, at most `MAX_DEV` for each."""
    asker, by_task = questions.asker, defaultdict[str, list[Utterance]](list)
    known = [questions.utterances[row.id] for row in dev if row.id in view.offsets and row.id in questions.utterances]
    for row in sorted(known, key=lambda row: row.duration):
        for task in asker.tasks_of(row):
            by_task[task].append(row)
    batches = []
    for task, task_rows in sorted(by_task.items()):
        chosen = task_rows[:: -(-len(task_rows) // MAX_DEV)]
        for start in range(0, len(chosen), DEV_BATCH):
            part, draw = chosen[start : start + DEV_BATCH], random.Random(start)
            ids = questions.ids([asker.ask(task, row, draw) for row in part])
            texts, languages = tuple(row.text for row in part), tuple(row.language for row in part)
            features = pad([view[row.id] for row in part])
            batches.append(AnswerBatch(*features, *ids, texts, (task,) * len(part), languages))
    return batches


class AnswerStage:
    """Trains answers; scores their loss by task and the WER of plain transcription on dev."""

    name = "answers"

    def __init__(
        self,
        objective: AnswerObjective,
        source: EpochSource,
        questions: Questions,
        dev: Sequence[Utterance],
        view: FeatureCache,
    ) -> None:
        self.objective, self.source, self.dev = objective, source, dev_batches(dev, view, questions)

    def evaluate(self) -> dict[str, float]:
        """Loss of each task, and WER of plain transcription in percent."""
        totals: dict[str, list[float]] = {}
        for batch in self.dev:
            for task, loss in self.objective(batch)[1].items():
                if task != "answer":
                    totals.setdefault(task, []).append(float(loss))
        scores = {f"{task}_loss": sum(losses) / len(losses) for task, losses in sorted(totals.items())}
        scores["loss"] = sum(scores.values()) / len(scores)
        plain = [batch for batch in self.dev if set(batch.tasks) == {"transcribe"}]
        if plain:
            references = [text for batch in plain for text in batch.texts]
            answers = [text for batch in plain for text in self.objective.answer(batch)]
            languages = [name for batch in plain for name in batch.languages or ("",) * len(batch.texts)]
            scores["wer"] = rates(references, answers, languages)[1]
        return scores
