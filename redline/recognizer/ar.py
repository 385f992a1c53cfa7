"""AR and Plus: the language model answers a prompt that holds the audio.

A batch has one encoder pass, whatever is asked of each of its clips; where the encoder's draft is the text, or speakers
are told apart by their embeddings, the language model reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from redline import features, prompts
from redline.audio.check import checked_waveform
from redline.audio.levels import is_silent
from redline.decoding.generate import GenerateOptions, token_budget
from redline.decoding.ngram import NgramLM
from redline.decoding.speculative import SpeculativeOptions
from redline.diarize.cluster import ClusterOptions
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import RedlineError, UnsupportedTaskError
from redline.models.ar import ArModel
from redline.prompts import PromptRequest, PromptTemplate
from redline.recognizer.ar_batch import (
    MIN_CLIP_S,
    PLAIN_BUDGET,
    SPEAKERS_BUDGET,
    WORDS_BUDGET,
    ArBatch,
    ArRow,
    Decoding,
    TaskPlan,
)
from redline.recognizer.common import MAX_DRAFT_CLIP_S, Answers, ModelRecognizer
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task

Begun = list[Hypothesis | RedlineError | ArRow]


class ArRecognizer(ModelRecognizer[ArModel, ArRow | None]):
    """AR and Plus: the language model answers a prompt that holds the audio."""

    def __init__(
        self,
        model: ArModel,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        *,
        name: str,
        beams: int = 1,
        temperature: float = 0.0,
        drafts: SpeculativeOptions | None = SpeculativeOptions(),  # noqa: B008
        draft_lm: NgramLM | None = None,
        speaker_embedder: SpeakerEmbedder | None = None,
        punctuate: bool = True,
        seed: int = 0,
    ) -> None:
        """`beams` and `temperature` say how tokens are chosen (greedily, by default), `drafts` how one is verified.

        Drafts are for greedy transcription only; None writes every token. `draft_lm` reads along while a draft is
        searched for; without one it is greedy. `seed` is for sampling: with the sound of a clip it decides what is
        drawn for it, so the same clip gets the same text alone, in a batch and in any order.
        """
        super().__init__(model, tokenizer, name, model.config.languages)
        text, audio = model.config.text, model.config.audio_token_index
        self.decoders: Callable[[Sequence[Decoding]], None] | None = None  # write texts to their end (`engine.decoder`)
        self.template = template
        self.options = GenerateOptions(
            text.eos_token_id, beams, temperature, suppress=(audio,), other_eos_ids=text.other_eos_token_ids
        )
        self.drafts = drafts if beams == 1 and temperature == 0 else None
        self.draft_lm = draft_lm
        self.speaker_embedder = speaker_embedder
        self.punctuate = punctuate
        self.seed = seed
        self.clustering = ClusterOptions()

    @property
    def reads_tags(self) -> bool:
        """Whether it knows the speakers of a prefix with tags."""
        return self.model.config.kind == "granite_speech_plus"

    @property
    def tells_speakers(self) -> bool:
        """Whether the language model writes who speaks."""
        return self.reads_tags and not (self.drafts is not None and self.drafts.mode == "trust")

    def limits(self, task: Task) -> ClipLimits:
        """How long a clip may be; raises `UnsupportedTaskError` for what the model has not learned.

        Speakers keep their numbers only if a window knows who spoke in the one before, or by their embeddings.
        """
        plan = self.plan(task)
        return ClipLimits(self._max_clip_s(plan), task.speakers and not plan.by_embedding)

    def plan(self, task: Task) -> TaskPlan:
        """How a task is done; raises `UnsupportedTaskError` for what the model has not learned."""
        self.check_language(task.language, task.languages)
        if task.name == "translate" and task.words:
            raise UnsupportedTaskError("word times of a translation: nobody said its words; ask for one or the other")
        plus = self.model.config.kind == "granite_speech_plus"
        trusts = self.drafts is not None and self.drafts.mode == "trust"
        writes_times = task.words and not task.speakers and plus and not trusts
        speaks = task.name == "transcribe" and task.prompt is None and self.model.draft_head is not None
        by_embedding = task.speakers and speaks and trusts and self.speaker_embedder is not None
        request = PromptRequest(
            verb=task.name,
            language=task.language,
            target_language=task.target_language,
            punctuated=None if self.punctuate or plus else False,
            keywords=task.keywords,
            speakers=task.speakers and not by_embedding,
            words=writes_times,
            prompt=task.prompt,
            prefix=None if by_embedding else task.prefix,
            most_keywords=self.template.most_keywords,
        )
        return TaskPlan(
            task=task,
            prompt=tuple(prompts.encode(self.tokenizer, self.template.render(request))),
            budget=SPEAKERS_BUDGET if task.speakers else WORDS_BUDGET if writes_times else PLAIN_BUDGET,
            writes_times=writes_times,
            is_drafted=speaks and not (task.speakers or writes_times or task.prefix is not None),
            by_embedding=by_embedding,
        )

    def _max_clip_s(self, plan: TaskPlan) -> float:
        """The longest clip of which prompt, audio and expected answer fit the model's positions, in seconds."""
        if plan.by_embedding:
            return MAX_DRAFT_CLIP_S
        config, budget = self.model.config, plan.budget
        positions = config.text.positions
        audio_per_s = features.FRAME_RATE / config.encoder.subsampling / config.downsample_rate
        room = positions - len(plan.prompt) - config.window_size // config.downsample_rate - token_budget(0.0)
        fits = room / (audio_per_s + budget.expected_per_s)
        if fits < MIN_CLIP_S:
            raise UnsupportedTaskError(
                f"the prompt leaves {max(0, room)} of {positions} positions, {max(0.0, fits):.1f} s of audio; at least "
                f"{MIN_CLIP_S:g} s are needed: shorten keywords, prompt or prefix"
            )
        if plan.is_drafted and self.drafts is not None and self.drafts.mode == "trust":
            return MAX_DRAFT_CLIP_S
        longest = budget.max_yarn_clip_s if config.text.yarn else budget.max_clip_s
        return min(longest, math.floor(fits), config.longest_clip_s.get(budget.name, math.inf))

    def prepare(self, request: Request) -> ArRow | None:
        """None for digital silence, for which a language model makes up words."""
        clip, plan = checked_waveform(request.clip), self.plan(request.task)
        if is_silent(clip.samples):
            return None
        return ArRow(clip, plan, self.measure(clip, "ar"))

    def begin(self, requests: Sequence[Request]) -> Begun:
        """One encoder pass: an answer to each request, or a row with a `decoding` for `decoders` to write."""
        return self.in_batches(requests, self._begun)

    @torch.inference_mode()
    def _begun(self, requests: Sequence[Request], rows: Sequence[ArRow | None]) -> Begun:
        spoken = [row for row in rows if row is not None]
        given = iter(ArBatch(self, spoken).begun() if spoken else ())
        return [Hypothesis("") if row is None else next(given) for row in rows]

    def answer(self, requests: Sequence[Request], rows: Sequence[ArRow | None]) -> Answers:
        """The answers to a batch; one encoder pass, one prefill and one decode loop for all of them."""
        begun = self._begun(requests, rows)
        assert self.decoders is not None, "`load_model` gives a recognizer its decoders"
        self.decoders([row.decoding for row in begun if isinstance(row, ArRow) and row.decoding is not None])
        return [row.answer() if isinstance(row, ArRow) else row for row in begun]
