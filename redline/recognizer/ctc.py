"""CTC only: the text is the encoder's own draft and nothing else is computed (5.0 TurboCTC, and other encoders)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from redline import features, prompts
from redline.audio.check import checked_waveform
from redline.audio.levels import is_silent, levelled
from redline.decoding import ctc
from redline.decoding.ngram import NgramLM
from redline.decoding.token_times import TokenTimes
from redline.decoding.word_times import BLANK, decode_characters
from redline.errors import UnsupportedTaskError
from redline.features import Rule
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.punctuation import restore_keywords, word_pieces
from redline.recognizer.common import Answers, Holder, answer_requests, check_language, check_numbers, with_word_times
from redline.recognizer.drafts import TokenHead, beam_options, search_drafts
from redline.recognizer.keyword_bias import keyword_bias
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task


class CtcRecognizer(Holder[ConformerEncoder]):
    """The draft of an encoder, by its token head or, where it has none, by its characters."""

    def __init__(
        self,
        encoder: ConformerEncoder,
        head: TokenHead | None,
        tokenizer: Tokenizer,
        draft_lm: NgramLM | None = None,
        *,
        name: str,
        languages: Sequence[str],
        rule: Rule,
        max_clip_s: float = 30.0,
        has_characters: bool = True,
    ) -> None:
        """`rule` is the front end; `has_characters` says whether the encoder's own head writes characters, by which
        words are aligned, or tokens."""
        self.model = encoder.eval()
        self.head = head
        self.tokenizer = tokenizer
        self.draft_lm = draft_lm
        self.name = name
        self.languages = tuple(languages)
        self.rule = rule
        self.max_clip_s = max_clip_s
        self.has_characters = has_characters

    def limits(self, task: Task) -> ClipLimits:
        """Clips of any task that it does; raises `UnsupportedTaskError` for another task or language."""
        for unsupported, what in (
            (task.name != "transcribe" or task.target_language is not None, "translate"),
            (task.speakers, "tell speakers apart"),
            (task.prompt, "follow a prompt"),
            (task.prefix, "go on from a prefix"),
            (task.keywords and self.head is None, "expect keywords, because it writes characters and no tokens"),
        ):
            if unsupported:
                raise UnsupportedTaskError(
                    f"{self.name} writes down what its encoder hears and cannot {what}; leave it out, or take a model "
                    "that can with full effort: granite_speech translates, granite_speech_plus knows speakers"
                )
        check_language(self.name, task.language, self.languages)
        prompts.checked_keywords(task.keywords)
        return ClipLimits(self.max_clip_s)

    def recognize(self, requests: Sequence[Request]) -> Answers:
        """One answer per request; one encoder pass for all of them. Errors are those of the other recognizers."""
        return answer_requests(requests, self._features, self._answer)

    def _features(self, request: Request) -> Tensor:
        self.limits(request.task)
        return features.clip_features(levelled(checked_waveform(request.clip)), self.rule)

    @torch.inference_mode()
    def _answer(self, requests: Sequence[Request], rows: Sequence[Tensor]) -> Answers:
        x, lengths = features.pad(rows)  # [B, T, 160 or 320], [B]
        encoded: EncoderOutput = self.model(x.to(self.device, self.dtype), lengths.to(self.device))
        frames = encoded.lengths.tolist()
        for row, length in zip(encoded.char_logits, frames, strict=True):
            check_numbers(row[:length], self.dtype)
        pieces = [] if self.head is None else self._pieces(encoded, [request.task.keywords for request in requests])
        if self.head is None:
            texts = [decode_characters(row) for row in ctc.greedy(encoded.char_logits, encoded.lengths, BLANK)]
        else:
            texts = ["".join(written) for _, written in pieces]
        silent = [is_silent(request.clip.samples) for request in requests]
        texts = ["" if skip else text.strip() for text, skip in zip(texts, silent, strict=True)]
        answers: Answers = [Hypothesis(text, draft=text) for text in texts]
        words = [request.task.words for request in requests]
        frame_s = self.model.config.subsampling / features.FRAME_RATE
        if self.has_characters:
            return with_word_times(answers, encoded, frame_s, words)
        timed: Answers = []
        for answer, (ids, written), logits, length, now in zip(
            answers, pieces, encoded.char_logits, frames, words, strict=True
        ):
            assert isinstance(answer, Hypothesis) and self.head is not None
            places = word_pieces(written) if answer.text else []
            names = ["".join(written[at] for at in word).strip() for word in places]
            tokens = [[ids[at] for at in word] for word in places]
            timing = TokenTimes(names, tokens, logits[:length], self.head.blank, frame_s)
            timed.append(replace(answer, words=timing()) if now else replace(answer, timing=timing))
        return timed

    def _pieces(self, encoded: EncoderOutput, keywords: Sequence[Sequence[str]]) -> list[tuple[list[int], list[str]]]:
        """The token ids of each draft and how each is written."""
        assert self.head is not None
        boost = beam_options(self.draft_lm).keyword_boost
        biases = [keyword_bias(self.tokenizer, words, boost) for words in keywords]
        drafts = search_drafts(self.head, encoded, self.draft_lm, biases)
        return [
            (draft.biased_ids, restore_keywords(self.tokenizer.pieces(draft.biased_ids), words))
            for draft, words in zip(drafts, keywords, strict=True)
        ]
