"""Answers on cached encoder states: utterances of the manifest, and sentences of books by unit selection."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline.errors import ConfigError, DataError
from redline.features import pad
from redline.manifest import Utterance
from redline.models.ar import ArModel
from redline.models.granite import INITIAL_STD
from redline.prompts import PromptRequest
from redline.tokenizer import Tokenizer
from redline.train.data.tasks import slower
from redline.train.objectives.ar import AnswerBatch, AnswerObjective, AnswerOptions, Questions
from redline.train.objectives.losses import Terms, weighted
from redline_recipes.tiny.editor import AuxiliaryOptions, audio_ctc
from redline_recipes.tiny.encoder_cache import EncoderCache
from redline_recipes.tiny.unit_selection import UnitSelectionOptions, UnitSelectionSource


@dataclass(frozen=True)
class CachedAnswerBatch(AnswerBatch):
    """Its features are encoder states [B, T, layers * D]."""


class CachedAnswerObjective(AnswerObjective):
    """Batch or cached batch -> cross-entropy of the answers, and CTC on the audio embeddings."""

    def __init__(
        self, model: ArModel, tokenizer: Tokenizer, options: AnswerOptions, auxiliary: AuxiliaryOptions
    ) -> None:
        super().__init__(model, tokenizer, options)
        self.audio_ctc_weight = auxiliary.audio_ctc_weight

    def embed_audio(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, CachedAnswerBatch):
            return super().embed_audio(batch)
        device = self.model.projector.query.device
        embeds: Tensor
        embeds, counts = self.model.projector(batch.features.to(device), batch.lengths.to(device))
        return embeds, counts

    def more_terms(self, batch: AnswerBatch, audio: Tensor, counts: Tensor) -> Terms:
        if not self.audio_ctc_weight or not self.training:
            return {}
        texts = [self.tokenizer.encode(text) for text in batch.texts]
        ctc = audio_ctc(self.model.language_model, audio, counts, texts, self.model.config.text.eos_token_id)
        return {"audio": (self.audio_ctc_weight, ctc)}


class ListeningAnswerObjective(CachedAnswerObjective):
    """Batch or cached batch -> CTC on the audio embeddings: the language model is held and not run."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model.language_model.requires_grad_(False)

    def forward(self, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        audio, counts = self.embed_audio(batch)
        texts = [self.tokenizer.encode(text) for text in batch.texts]
        ctc = audio_ctc(self.model.language_model, audio, counts, texts, self.model.config.text.eos_token_id)
        return weighted({"audio": (1.0, ctc)})


class CachedAnswerSource:
    """Batches of one task each, in an order that depends on the seed and the epoch alone.

    Plain transcription and keywords also have sentences of books, spoken by unit selection.
    """

    def __init__(
        self,
        caches: Sequence[EncoderCache],
        questions: Questions,
        sentences: UnitSelectionSource | None,
        options: UnitSelectionOptions,
    ) -> None:
        self.caches, self.questions, self.sentences, self.options = caches, questions, sentences, options
        self.utterances, self.asker = questions.utterances, questions.asker
        self.by_task: dict[str, list[str]] = {}
        self.weights: dict[str, float] = {}
        cached = [identity for identity in self.utterances if identity in caches[0].utterances]
        for identity in sorted(cached, key=caches[0].seconds):
            for task, share in self.asker.tasks_of(self.utterances[identity]).items():
                self.by_task.setdefault(task, []).append(identity)
                self.weights[task] = share
        if not self.by_task:
            raise DataError("no utterance that can be asked about could be read")

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[AnswerBatch]:
        """The batches of one epoch after the first `skip`."""
        names = sorted(self.weights)
        for number in range(skip, self.options.epoch_batches):
            draw = self.options.rng(epoch, number)
            (task,) = draw.choices(names, [self.weights[name] for name in names])
            plain = task in ("transcribe", "keywords")
            if plain and self.sentences is not None and draw.random() < self.options.share:
                batch = self.sentences.sentences(draw)
                requests = [self.asker.ask(task, _utterance(text), draw) for text in batch.texts]
                yield self._batch(torch.cat(batch.exports, dim=-1), batch.lengths, requests, batch.texts, task)
            else:
                yield self._real(task, draw)

    def _real(self, task: str, draw: random.Random) -> AnswerBatch:
        """Neighbours in length, in a random rendering each."""
        ids = self.by_task[task]
        rows: list[Tensor] = []
        requests: list[tuple[PromptRequest, str]] = []
        texts: list[str] = []
        left = self.options.batch_s
        for identity in ids[draw.randrange(len(ids)) :]:
            cache = draw.choice(self.caches)
            left -= cache.seconds(identity)
            if left < 0 and rows:
                break
            row = self.utterances[identity]
            rows.append(torch.from_numpy(cache.cut(identity).states.copy()).float())
            requests.append(self.asker.ask(task, slower(row, cache.seconds(identity) / row.duration), draw))
            texts.append(row.text)
        return self._batch(*pad(rows), requests, texts, task)

    def _batch(
        self,
        states: Tensor,
        lengths: Tensor,
        requests: Sequence[tuple[PromptRequest, str]],
        texts: Sequence[str],
        task: str,
    ) -> AnswerBatch:
        seconds, tasks = float(lengths.sum()) / self.caches[0].frame_rate, (task,) * len(requests)
        return CachedAnswerBatch(states, lengths, *self.questions.ids(requests), tuple(texts), tasks, seconds=seconds)


def _utterance(text: str) -> Utterance:
    """A sentence of a book as a row of a manifest."""
    return Utterance("", Path(), text, 0.0)


@torch.no_grad()
def initialise_language_model(model: ArModel, known: Mapping[str, Tensor]) -> None:
    """Give the language model the weights of another of its shape; its new tokens and the sound become as loud.

    Raises `ConfigError` when the shapes differ.
    """
    for name, tensor in model.language_model.state_dict().items():
        other = known.get(name)
        embeddings = name.endswith("embed_tokens.weight")
        if other is None or other.shape[1:] != tensor.shape[1:] or (len(other) != len(tensor) and not embeddings):
            raise ConfigError(
                f"language_model_from_base: {name} is {list(tensor.shape)} here and "
                f"{list(other.shape) if other is not None else 'absent'} there; [language_model] must have its shape"
            )
        tensor[: len(other)] = other
        if embeddings:
            std = float(other.float().std())
            tensor[len(other) :] *= std / INITIAL_STD
            # Left as it is, the sound would drown the words in the residual stream.
            weight = model.projector.linear.weight
            weight *= std / float(weight.float().norm(dim=1).mean())
