"""NAR: a draft by the encoder, edited by the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from redline import features
from redline.audio.check import checked_waveform
from redline.decoding import edit
from redline.decoding.beam import Biasing
from redline.decoding.words import word_times
from redline.errors import UnsupportedTaskError
from redline.forms import dress_pieces, spell_pieces
from redline.models.editor import EditorOutput, NarEditor
from redline.recognizer.common import Holder, batches, characters, check_language, memory_errors
from redline.recognizer.expected import expected
from redline.text import Tokenizer
from redline.threads import check_fork
from redline.types import Hypothesis, Task, Waveform


class EditRecognizer(Holder[NarEditor]):
    """NAR: a draft by the encoder, then one editing pass by the language model."""

    max_clip_s = 30.0

    def __init__(
        self, model: NarEditor, tokenizer: Tokenizer, *, name: str, batch_s: float = 120.0, punctuate: bool = True
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

    def window_s(self, task: Task) -> float:
        """The longest clip that it takes, in seconds."""
        return self.max_clip_s

    def carries(self, task: Task) -> bool:
        """No clip needs another."""
        return False

    @torch.inference_mode()
    def recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        """One hypothesis per clip, with its draft and its edits.

        Raises `AudioError` for samples that are no numbers, and `UnsupportedTaskError` for another task than
        transcription or another language than the model's, also
        when there are no clips.
        """
        check_fork()
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
        for clip in clips:
            checked_waveform(clip)
        words = expected(self.tokenizer, task.keywords, self.model.search_options.keyword_boost)
        if words is not None:
            words = words.to(self.device)
        with memory_errors(clips):
            return [
                hypothesis for batch in batches(clips, self.batch_s) for hypothesis in self._edit(batch, task, words)
            ]

    def _edit(self, clips: Sequence[Waveform], task: Task, words: Biasing | None) -> list[Hypothesis]:
        x, lengths = features.batch_features(clips, self.model.config.frame_rule)  # [B, T, 160], [B]
        output: EditorOutput = self.model(x.to(self.device, self.dtype), lengths.to(self.device), words)
        head = self.model.language
        found = head.decide(output.language_logits) if head and output.language_logits is not None else [None] * len(x)
        heard = [self._hypothesis(output, row, language, task.keywords) for row, language in enumerate(found)]
        if task.words:
            times = word_times(
                [one.text for one in heard], *characters(output.encoded, self.model.config.encoder.subsampling)
            )
            heard = [replace(one, words=tuple(words)) for one, words in zip(heard, times, strict=True)]
        return heard

    def _hypothesis(self, output: EditorOutput, row: int, language: str | None, keywords: Sequence[str]) -> Hypothesis:
        draft, path, final = output.draft_ids[row], output.paths[row], output.final_ids[row]
        blank = self.model.config.blank_token_id
        used = [slot for slot, label in enumerate(path) if label != blank or (slot % 2 == 1 and slot // 2 < len(draft))]
        sure = edit.confidences(output.slot_logits[row, : len(path)], path).cpu()  # [K]
        pieces = self.tokenizer.pieces(final)
        if self.punctuate and self.model.forms is not None and output.form_logits is not None:
            taken = [slot for slot, label in enumerate(edit.place(draft, path, blank)) if label is not None]
            pieces = dress_pieces(pieces, self.model.forms.decide(output.form_logits[row, taken]))
        pieces = spell_pieces(pieces, keywords)
        return Hypothesis(
            text="".join(pieces).strip(),
            draft=self.tokenizer.decode(draft).strip(),
            edits=tuple(edit.edits(draft, path, blank, self.tokenizer.pieces, pieces)),
            confidence=round(float(sure[used].mean()), 3) if used else None,
            language=language,
        )
