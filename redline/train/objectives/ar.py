"""Stage (e): an AR or Plus model learns to answer prompts about what its frozen encoder heard.

Loss: the next token of the answer. Projector and language model learn; the encoder stays, so that its draft can still
be verified (arXiv 2603.11243).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline import prompts
from redline.decoding.generate import GenerateOptions, generate, token_budget
from redline.errors import ConfigError, DataError
from redline.features import FRAME_RATE, pad
from redline.models.ar import ArModel
from redline.models.conformer import EncoderOutput
from redline.prompts import PromptRequest, PromptTemplate
from redline.tokenizer import Tokenizer
from redline.train.conversation import Conversations
from redline.train.data.batches import Batch
from redline.train.data.tasks import Answer, Asker
from redline.train.guidance import Guide, Span, answer_spans
from redline.train.loop.stage import Source, rates
from redline.train.objectives.losses import ctc_loss
from redline.train.objectives.nar import EditOptions, with_adapters
from redline.train.splice import SplicedSource, joined
from redline.train.states import CachedSpan, StateView


@dataclass(frozen=True)
class AnswerBatch:
    """What was heard, what was asked and what is the answer; each prompt holds the audio's id once."""

    states: Tensor | None  # [B, T, layers * D] of the encoder, or None
    features: Tensor | None  # [B, T, 160] where the encoder still has to listen
    lengths: Tensor  # [B]
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    seconds: float
    spans: tuple[tuple[Span | None, ...], ...] = ()
    """Encoder frames in which each token of each answer is said; an empty row where they are not known."""
    languages: tuple[str, ...] = ()
    """Of the texts, where they are known."""


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are learned."""

    lora_rank: int = 0
    """Rank of adapters on attention and feed-forward; 0 trains the whole language model."""
    lora_alpha: int = 0
    """0 takes the rank."""
    audio_ctc_weight: float = 0.0
    """Weight of CTC on the audio embeddings alone, read through the language model's own output matrix.

    Not in the papers. It puts each embedding near the token that is heard there, without which a small model takes
    long to listen at all; it needs a projector with one query per window, whose order is that of the audio.
    """
    guide_weight: float = 0.0
    """Weight of the attention that the first head of `guide_layers` owes to the sound of the next token.

    Needs states on disk, whose tokens are aligned.
    """
    guide_layers: tuple[int, ...] = (1, 2)
    """Counted from 0."""
    train_encoder: bool = False
    """Whether the encoder learns too; its own draft, which nothing then teaches, may get worse."""
    text_share: float = 0.5
    """Share of plain transcription batches that are spliced from books."""
    batch_s: float = 90.0
    epoch_batches: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank is {self.lora_rank}; allowed are 0 (train everything) and above")


class AnswerObjective(nn.Module):
    """Batch -> cross-entropy of the answers; a frozen encoder never changes, nor do its normalisation's statistics."""

    def __init__(self, model: ArModel, tokenizer: Tokenizer, options: AnswerOptions) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        model.encoder.requires_grad_(options.train_encoder)
        if model.draft_head is not None:
            model.draft_head.requires_grad_(False)
        if options.lora_rank:
            adapters = EditOptions(lora_rank=options.lora_rank, lora_alpha=options.lora_alpha)
            model.language_model = with_adapters(model.language_model, adapters)
        self.guide = Guide(model.language_model, options.guide_layers) if options.guide_weight else None

    def train(self, mode: bool = True) -> AnswerObjective:
        super().train(mode)
        self.model.encoder.train(mode and self.options.train_encoder)
        for part in self.model.encoder.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
        return self

    def forward(self, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.model
        audio, counts = self.hear(batch)
        audio_id, end = model.config.audio_token_index, model.config.text.eos_token_id
        asked = [
            prompts.with_audio(prompt, audio_id, count)
            for prompt, count in zip(batch.prompts, counts.tolist(), strict=True)
        ]
        whole = [[*prompt, *answer] for prompt, answer in zip(asked, batch.answers, strict=True)]
        embeddings, sizes = model.embed(whole, audio)
        hidden = model.language_model.hidden(embeddings, sizes)  # [B, L, H]
        places = [
            (row, len(prompt) - 1 + at)
            for row, (prompt, answer) in enumerate(zip(asked, batch.answers, strict=True))
            for at in range(len(answer) + 1)
        ]
        row, place = torch.tensor(places, device=hidden.device).T
        targets = torch.tensor([id for one in batch.answers for id in (*one, end)], device=hidden.device)
        logits = model.language_model.logits(hidden[row, place])  # [N, V]
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        loss = losses.mean()
        parts = {"answer": loss.detach()}
        names = [task for task, one in zip(batch.tasks, batch.answers, strict=True) for _ in range(len(one) + 1)]
        for task in sorted(set(batch.tasks)):
            parts[task] = losses.detach()[torch.tensor([name == task for name in names], device=hidden.device)].mean()
        if self.options.audio_ctc_weight and self.training:
            read = model.language_model.logits(model.language_model.model.norm(audio))  # [B, S, V]
            heard = ctc_loss(read, counts, [self.tokenizer.encode(text) for text in batch.texts], end)
            loss = loss + self.options.audio_ctc_weight * heard
            parts["audio"] = heard.detach()
        if self.guide is not None and (wanted := self._listening(batch, asked)) is not None:
            listens = self.guide.loss(*wanted)
            loss = loss + self.options.guide_weight * listens
            parts["guide"] = listens.detach()
        return loss, parts

    def _listening(self, batch: AnswerBatch, asked: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor] | None:
        """What predicts each aligned token and where its sound lies in the prompt, both [N, 2]; None without any."""
        audio_id, rate = self.model.config.audio_token_index, self.model.config.downsample_rate
        places, spans = [], []
        for row, (prompt, own) in enumerate(zip(asked, batch.spans, strict=False)):
            first, count = prompt.index(audio_id) if own else 0, prompt.count(audio_id)
            for at, span in enumerate(own):
                if span is not None:
                    start = min(span[0] // rate, count - 1)
                    places.append((row, len(prompt) - 1 + at))
                    spans.append((first + start, first + max(start + 1, min(count, -(-span[1] // rate)))))
        device = batch.lengths.device
        return (torch.tensor(places, device=device), torch.tensor(spans, device=device)) if places else None

    def hear(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """Audio embeddings [B, S, H] and lengths [B] of a batch."""
        model = self.model
        device = model.projector.query.device
        if batch.states is not None:
            embeds: Tensor
            embeds, counts = model.projector(batch.states.to(device), batch.lengths.to(device))
            return embeds, counts
        assert batch.features is not None
        with torch.set_grad_enabled(self.options.train_encoder and torch.is_grad_enabled()):
            encoded: EncoderOutput = model.encode(batch.features.to(device), batch.lengths.to(device))
        return model.embed_audio(encoded)


class Prompter:
    """Requests -> prompt ids; equal requests are rendered once."""

    def __init__(self, template: PromptTemplate, tokenizer: Tokenizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self._known: dict[PromptRequest, tuple[int, ...]] = {}

    def __call__(self, request: PromptRequest) -> tuple[int, ...]:
        if request.keywords or request.prefix or request.prompt:
            return tuple(prompts.encode(self.tokenizer, self.template.render(request)))
        if request not in self._known:
            self._known[request] = tuple(prompts.encode(self.tokenizer, self.template.render(request)))
        return self._known[request]


class AnswerSource:
    """Batches of asked utterances, in an order that depends on the seed and the epoch alone.

    Encoder states come from disk; plain transcription also has sentences of books, spliced from them.
    """

    def __init__(
        self,
        views: Sequence[StateView],
        said: Mapping[str, Answer],
        durations: Mapping[str, float],
        spliced: SplicedSource | None,
        asker: Asker,
        prompter: Prompter,
        options: AnswerOptions,
        conversations: Conversations | None = None,
    ) -> None:
        self.views, self.said, self.durations = views, said, durations
        self.conversations = conversations
        self.spliced, self.asker, self.prompter, self.options = spliced, asker, prompter, options
        self.by_task: dict[str, list[str]] = {}
        self.weights: dict[str, float] = {}
        known = [identity for identity in said if identity in views[0].heard]
        for identity in sorted(known, key=lambda one: views[0].heard[one].frames):
            for task, share in asker.tasks_of(said[identity]).items():
                self.by_task.setdefault(task, []).append(identity)
                self.weights[task] = share
        if not self.by_task:
            raise DataError("nothing can be asked about the training set: every share of [tasks] is 0")

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[AnswerBatch]:
        """The batches of one epoch after the first `skip`."""
        names = sorted(self.weights)
        for number in range(skip, self.options.epoch_batches):
            draw = random.Random((self.options.seed * 7919 + epoch) * 100_003 + number)
            (task,) = draw.choices(names, [self.weights[name] for name in names])
            plain = task in ("transcribe", "keywords")
            if plain and self.spliced is not None and draw.random() < self.options.text_share:
                heard = self.spliced.sentences(draw)
                states = torch.cat(heard.exports, dim=-1)
                asked = [self.asker.ask(task, Answer(text), draw) for text in heard.texts]
                yield self._batch(states, heard.lengths, asked, heard.texts, task, heard.seconds, heard.said)
            elif task == "speakers" and self.conversations and draw.random() < self.conversations.options.share:
                yield self._conversations(self.conversations, draw)
            else:
                yield self._heard(task, draw)

    def _conversations(self, source: Conversations, draw: random.Random) -> AnswerBatch:
        """Conversations put together from states, of any length, until the batch is full."""
        rows: list[Tensor] = []
        pieces: list[CachedSpan] = []
        asked: list[tuple[PromptRequest, str]] = []
        left = self.options.batch_s
        while left > 0:
            view = draw.choice(self.views)
            parts, turns = source.draw(draw, view)
            rows.append(torch.from_numpy(np.concatenate([part.states for part in parts])).float())
            pieces.append(joined(parts))
            asked.append(self.asker.ask("speakers", Answer("", turns=tuple(turns)), draw))
            left -= len(rows[-1]) / view.frame_rate
        states, lengths = pad(rows)
        texts = [self.prompter.tokenizer.decode(piece.tokens).strip() for piece in pieces]
        seconds = float(lengths.sum()) / self.views[0].frame_rate
        return self._batch(states, lengths, asked, texts, "speakers", seconds, pieces)

    def _heard(self, task: str, draw: random.Random) -> AnswerBatch:
        """Neighbours in length, in a random rendering each."""
        ids = self.by_task[task]
        at = draw.randrange(len(ids))
        rows: list[Tensor] = []
        asked: list[tuple[PromptRequest, str]] = []
        texts: list[str] = []
        pieces: list[CachedSpan] = []
        left = self.options.batch_s
        for identity in ids[at:]:
            view = draw.choice(self.views)
            heard = view.heard[identity]
            left -= heard.frames / view.frame_rate
            if left < 0 and rows:
                break
            said = self.said[identity].scaled(heard.frames / view.frame_rate / self.durations[identity])
            piece = view.cut(identity)
            rows.append(torch.from_numpy(piece.states.copy()).float())
            pieces.append(piece)
            asked.append(self.asker.ask(task, said, draw))
            texts.append(said.text)
        states, lengths = pad(rows)
        seconds = float(lengths.sum()) / self.views[0].frame_rate
        return self._batch(states, lengths, asked, texts, task, seconds, pieces)

    def _batch(
        self,
        states: Tensor,
        lengths: Tensor,
        asked: Sequence[tuple[PromptRequest, str]],
        texts: Sequence[str],
        task: str,
        seconds: float,
        pieces: Sequence[CachedSpan],
    ) -> AnswerBatch:
        answers = tuple(tuple(self.prompter.tokenizer.encode(answer)) for _, answer in asked)
        rendered = tuple(self.prompter(request) for request, _ in asked)
        spans = tuple(
            answer_spans(answer, piece.tokens, piece.spans) for answer, piece in zip(answers, pieces, strict=True)
        )
        names = (task,) * len(asked)
        return AnswerBatch(states, None, lengths, rendered, answers, tuple(texts), names, seconds, spans)


class AskedSource:
    """Batches of utterances that the encoder has still to hear, each asked for one of the tasks that it allows."""

    def __init__(
        self, source: Source[Batch], said: Mapping[str, Answer], asker: Asker, prompter: Prompter, seed: int = 0
    ) -> None:
        self.source, self.said, self.asker, self.prompter, self.seed = source, said, asker, prompter, seed

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[AnswerBatch]:
        """The batches of one epoch after the first `skip`."""
        for number, batch in enumerate(self.source.epoch(epoch, skip), start=skip):
            draw = random.Random((self.seed * 7919 + epoch) * 100_003 + number)
            asked, tasks, texts = [], [], []
            for identity, length in zip(batch.ids, batch.lengths.tolist(), strict=True):
                said = self.said[identity]
                shares = self.asker.tasks_of(said)
                (task,) = draw.choices(list(shares), list(shares.values()))
                factor = length / FRAME_RATE / said.duration if said.duration else 1.0
                asked.append(self.asker.ask(task, said.scaled(factor), draw))
                tasks.append(task)
                texts.append(said.text)
            yield AnswerBatch(
                None,
                batch.features,
                batch.lengths,
                tuple(self.prompter(request) for request, _ in asked),
                tuple(tuple(self.prompter.tokenizer.encode(answer)) for _, answer in asked),
                tuple(texts),
                tuple(tasks),
                batch.seconds,
                languages=batch.languages,
            )


class AnswerStage:
    """Trains answers; watches their loss by task and the WER of plain transcription on dev."""

    name = "answers"

    def __init__(
        self,
        objective: AnswerObjective,
        source: Source[AnswerBatch],
        dev: Sequence[AnswerBatch],
    ) -> None:
        """`dev` are fixed batches, whose plain transcriptions are also written out."""
        self.objective = objective
        self.source = source
        self.dev = dev

    def batches(self, epoch: int, skip: int) -> Iterator[AnswerBatch]:
        """Training batches of one epoch after the first `skip`."""
        return self.source.epoch(epoch, skip)

    def seconds(self, batch: AnswerBatch) -> float:
        """Seconds of audio in a batch."""
        return batch.seconds

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
            answers = [text for batch in plain for text in written(self.objective, batch)]
            languages = [one for batch in plain for one in batch.languages or ("",) * len(batch.texts)]
            scores["wer"] = rates(references, answers, languages)[1]
        return scores


def written(objective: AnswerObjective, batch: AnswerBatch) -> list[str]:
    """What the model answers to a batch, greedily."""
    model, tokenizer = objective.model, objective.tokenizer
    audio, counts = objective.hear(batch)
    audio_id, end = model.config.audio_token_index, model.config.text.eos_token_id
    asked = [
        prompts.with_audio(one, audio_id, count) for one, count in zip(batch.prompts, counts.tolist(), strict=True)
    ]
    budgets = [2 * len(answer) + token_budget(0.0) for answer in batch.answers]
    cache = model.cache(len(asked), max(map(len, asked)) + max(budgets) + 1)
    hidden = model.prefill(asked, audio, cache)
    first = model.language_model.logits(hidden[range(len(asked)), [len(one) - 1 for one in asked]])
    options = GenerateOptions(end, suppress=(audio_id,))
    said = generate(first, lambda ids, parents: model.step(ids, parents, cache), budgets, options)
    return [tokenizer.decode(one.ids).strip() for one in said]
