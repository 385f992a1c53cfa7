"""NAR: a draft by the encoder, edited by the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redline import features, prompts
from redline.audio.check import checked_waveform
from redline.audio.levels import levelled
from redline.decoding import slots as edit
from redline.decoding.ctc import collapse
from redline.decoding.keyword_patches import KeywordBias, Patch, count, patched, splice, zones
from redline.decoding.word_times import scored_word_times, timing_notices
from redline.errors import RedlineError, UnsupportedTaskError
from redline.models.nar import EditOutput, NarModel, NarOutput
from redline.punctuation import restore_keywords, restore_pieces
from redline.recognizer.common import (
    Holder,
    answer_requests,
    batches,
    characters,
    check_language,
    check_numbers,
    memory_errors,
    timings,
)
from redline.recognizer.keyword_bias import keyword_bias
from redline.threads import check_fork
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task, Waveform


@dataclass(frozen=True)
class _Row:
    """One clip's draft and what was decided about each of its slots."""

    slots: list[int]
    path: list[int]
    slot_logits: Tensor  # [K, V]
    form_logits: Tensor | None  # [K, F]

    @classmethod
    def of(cls, output: EditOutput, row: int) -> _Row:
        size = len(output.paths[row])
        forms = None if output.form_logits is None else output.form_logits[row, :size]
        return cls(output.slots[row, :size].tolist(), output.paths[row], output.slot_logits[row, :size], forms)

    def patched(self, other: _Row, changes: Sequence[Patch]) -> _Row:
        """With the other's slots in some places."""

        def rows(mine: Tensor, others: Tensor) -> Tensor:
            return torch.stack(patched(list(mine), list(others), changes))

        return _Row(
            patched(self.slots, other.slots, changes),
            patched(self.path, other.path, changes),
            rows(self.slot_logits, other.slot_logits),
            None
            if self.form_logits is None or other.form_logits is None
            else rows(self.form_logits, other.form_logits),
        )


class NarRecognizer(Holder[NarModel]):
    """NAR: a draft by the encoder, then one editing pass by the language model."""

    max_clip_s = 30.0

    def __init__(
        self, model: NarModel, tokenizer: Tokenizer, *, name: str, batch_s: float = 120.0, punctuate: bool = True
    ) -> None:
        """`batch_s` is the most seconds of audio, counted with its padding, that go through the model at once.

        With `punctuate` words get capitals and marks, where the model has learned them.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.languages = model.config.languages
        self.batch_s = batch_s
        self.punctuate = punctuate

    def limits(self, task: Task) -> ClipLimits:
        """Clips of any task that it does; raises `UnsupportedTaskError` for another task or language."""
        if task.name != "transcribe":
            raise UnsupportedTaskError(
                f"{self.name} can only transcribe, not {task.name}: it edits a draft in the language that is spoken; "
                "granite_speech models such as granite-speech-4.1-2b translate"
            )
        if task.target_language is not None:
            raise UnsupportedTaskError(
                f"target_language is {task.target_language!r}, but {self.name} writes what is spoken; leave it out"
            )
        for wanted, what in (
            (task.speakers, "tell speakers apart"),
            (task.prompt, "follow a prompt"),
            (task.prefix, "go on from a prefix"),
        ):
            if wanted:
                raise UnsupportedTaskError(
                    f"{self.name} edits a draft and cannot {what}; granite_speech_plus models can, "
                    "such as granite-speech-4.1-2b-plus or, in English, tiny-plus"
                )
        check_language(self.name, task.language, self.languages)
        prompts.checked_keywords(task.keywords)
        return ClipLimits(self.max_clip_s)

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """One answer per request, with its draft and its edits.

        `AudioError` for samples that are no numbers, `UnsupportedTaskError` for a task that `limits` refuses, and
        `RecognitionError` where the model leaves the numbers of its precision.
        """
        return answer_requests(requests, self._recognize)

    @torch.inference_mode()
    def _recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        check_fork()
        self.limits(task)
        for clip in clips:
            checked_waveform(clip)
        words = keyword_bias(self.tokenizer, task.keywords, self.model.search_options.keyword_boost, self.device)
        with memory_errors(clips):
            return [
                hypothesis for batch in batches(clips, self.batch_s) for hypothesis in self._edit(batch, task, words)
            ]

    def _edit(self, clips: Sequence[Waveform], task: Task, words: KeywordBias | None) -> list[Hypothesis]:
        level = [levelled(clip) for clip in clips]
        x, lengths = features.batch_features(level, self.model.config.frame_rule)  # [B, T, 160], [B]
        output: NarOutput = self.model(x.to(self.device, self.dtype), lengths.to(self.device))
        head = self.model.language
        found = head.decide(output.language_logits) if head and output.language_logits is not None else [None] * len(x)
        rows = [_Row.of(output, row) for row in range(len(x))]
        if words is not None:
            rows = self._drawn(output, rows, words)
        heard = [self._hypothesis(*one, task.keywords) for one in zip(rows, found, strict=True)]
        subsampling = self.model.config.encoder.subsampling
        if task.words:
            times = scored_word_times([one.text for one in heard], *characters(output.encoded, subsampling))
            return [
                replace(one, words=tuple(words), warnings=one.warnings + timing_notices(one.text, score))
                for one, (words, score) in zip(heard, times, strict=True)
            ]
        later = timings([one.text for one in heard], output.encoded, subsampling)
        return [replace(one, timing=timing) for one, timing in zip(heard, later, strict=True)]

    def _drawn(self, output: NarOutput, rows: Sequence[_Row], words: KeywordBias) -> list[_Row]:
        """The rows with what a search drawn towards expected words changes where the editor, too, has one."""
        drawn = self.model.draft(output.encoded, words.biasing)
        drafts = [splice(one, other, words) for one, other in zip(output.draft_ids, drawn, strict=True)]
        changed = [row for row, (_, changes) in enumerate(drafts) if changes]
        made = list(rows)
        if changed:
            audio, lengths = output.audio_embeds[changed], output.audio_lengths[changed]
            again = self.model.edit(audio, lengths, [drafts[row][0] for row in changed])
            for at, row in enumerate(changed):
                made[row] = self._agreed(rows[row], _Row.of(again, at), drafts[row][1], words)
        return made

    def _agreed(self, plain: _Row, other: _Row, changes: Sequence[Patch], words: KeywordBias) -> _Row:
        """The plain row with those changes that leave an expected word in the edited text."""
        places = zones(changes, plain.path, other.path)
        both = plain.patched(other, places)
        before, found = self._found(plain, words), self._found(both, words)
        kept, shift = [], 0
        for one in places:
            first = one.plain_first + shift
            shift += (one.last - one.first) - (one.plain_last - one.plain_first)
            if count((first, one.plain_last + shift), found) > count(one[:2], before):
                kept.append(one)
        return plain.patched(other, kept) if kept else plain

    def _found(self, row: _Row, words: KeywordBias) -> list[tuple[int, int]]:
        """The slots of each expected word in the edited text."""
        blank = self.model.config.blank_token_id
        slots = [slot for slot, label in enumerate(edit.place(self._draft(row), row.path, blank)) if label is not None]
        return [(slots[first], slots[last - 1] + 1) for first, last in words.found(collapse(row.path, blank))]

    def _draft(self, row: _Row) -> list[int]:
        return [id for id in row.slots[1::2] if id != self.model.config.blank_token_id]

    def _hypothesis(self, row: _Row, language: str | None, keywords: Sequence[str]) -> Hypothesis:
        draft, path, blank = self._draft(row), row.path, self.model.config.blank_token_id
        final = collapse(path, blank)
        used = [slot for slot, label in enumerate(path) if label != blank or (slot % 2 == 1 and slot // 2 < len(draft))]
        sure = edit.confidences(row.slot_logits, path).cpu()  # [K]
        check_numbers(sure, self.dtype)
        pieces = self.tokenizer.pieces(final)
        if self.punctuate and self.model.forms is not None and row.form_logits is not None:
            taken = [slot for slot, label in enumerate(edit.place(draft, path, blank)) if label is not None]
            pieces = restore_pieces(pieces, self.model.forms.decide(row.form_logits[taken]))
        pieces = restore_keywords(pieces, keywords)
        return Hypothesis(
            text="".join(pieces).strip(),
            draft=self.tokenizer.decode(draft).strip(),
            edits=tuple(edit.edits(draft, path, blank, self.tokenizer.pieces, pieces)),
            confidence=round(float(sure[used].mean()), 3) if used else None,
            language=language,
        )
