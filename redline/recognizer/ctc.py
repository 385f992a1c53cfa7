"""CTC only: the text is the encoder's own draft and nothing else is computed (5.0 TurboCTC, and other encoders)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from redline.audio.check import checked_waveform
from redline.audio.levels import is_silent
from redline.decoding.ngram import NgramLM
from redline.decoding.word_confidence import CalibratedTimes, TextEvidence
from redline.decoding.word_times import TokenTimes, decode_characters
from redline.errors import UnsupportedTaskError
from redline.features import Rule
from redline.models.conformer import ConformerEncoder
from redline.models.ctc import CtcModel
from redline.models.draft_head import DraftHead
from redline.recognizer.common import MAX_DRAFT_CLIP_S, Answers, ModelRecognizer, SpokenText, with_word_times
from redline.recognizer.drafts import draft_tokens, encoder_drafts, keyword_index
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task, WordTimes
from redline.word_rewriting import RewrittenTimes


class CtcRecognizer(ModelRecognizer[ConformerEncoder, Tensor]):
    """The draft of an encoder, by a token head or, without one, by its characters; TurboCTC is its own token head."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        head: DraftHead | CtcModel | None,
        tokenizer: Tokenizer,
        draft_lm: NgramLM | None = None,
        *,
        name: str,
        languages: Sequence[str],
        rule: Rule,
    ) -> None:
        super().__init__(encoder, tokenizer, name, languages)
        self.head = head
        self.draft_lm = draft_lm
        self.rule = rule
        self.max_clip_s = MAX_DRAFT_CLIP_S
        if isinstance(head, CtcModel):  # whole attention blocks: no full window ends in a block with less context
            self.max_clip_s = max(1, int(MAX_DRAFT_CLIP_S / head.config.block_s + 0.5)) * head.config.block_s

    def limits(self, task: Task) -> ClipLimits:
        """Clips of any task that it does; raises `UnsupportedTaskError` for another task or language."""
        self.check_plain(task, "writes down what its encoder hears", " with full effort")
        if task.keywords and self.head is None:
            raise UnsupportedTaskError(f"{self.name} writes characters and no tokens; leave the keywords out")
        return ClipLimits(self.max_clip_s)

    def prepare(self, request: Request) -> Tensor:
        """The features [T, 160 or 320] of a request's clip."""
        self.limits(request.task)
        return self.measure(checked_waveform(request.clip), self.rule)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], rows: Sequence[Tensor]) -> Answers:
        """The drafts of the clips; one encoder pass for all of them."""
        encoded = self.encode(rows)
        self.check_numbers(encoded)
        head, frame_s, tasks = self.head, self.model.config.frame_s, [request.task for request in requests]
        drafts = encoder_drafts(head, encoded, self.tokenizer, self.draft_lm, [task.keywords for task in tasks])
        answers: Answers = []
        spoken: dict[int, SpokenText] = {}
        for row, (request, draft, length) in enumerate(zip(requests, drafts, encoded.lengths.tolist(), strict=True)):
            ids = draft.biased_ids
            pieces = [decode_characters(ids)] if head is None else self.tokenizer.pieces(ids)
            keywords = keyword_index(request.task.keywords)
            pieces = [] if is_silent(request.clip.samples) else keywords.restore(pieces)
            text, draft_text = ("".join(own).strip() for own in (keywords.write(pieces), pieces))
            answer = Hypothesis(text, draft=draft_text)
            tokens = None
            if isinstance(head, DraftHead) and self.word_confidence is not None:
                tokens = draft_tokens(draft, ids, pieces, frame_s * head.window)
            if text != draft_text or tokens is not None:
                spoken[row] = SpokenText(draft_text, TextEvidence(None, tokens))
            if isinstance(head, CtcModel):
                timing: WordTimes = TokenTimes(ids, pieces, encoded.char_logits[row, :length], head.blank, frame_s)
                timing = timing if self.word_confidence is None else CalibratedTimes(timing, self.word_confidence)
                timing = timing if text == draft_text else RewrittenTimes(timing, text)
                answer = replace(answer, words=timing()) if request.task.words else replace(answer, timing=timing)
            answers.append(answer)
        if isinstance(head, CtcModel):
            return answers
        return with_word_times(answers, encoded, frame_s, tasks, spoken, self.word_confidence)
