"""Models joined with features, decoding and text: the classes behind the protocol `Recognizer`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from redline import features
from redline.decoding import edit
from redline.errors import UnsupportedTaskError
from redline.forms import dress_pieces
from redline.models.editor import EditorOutput, NarEditor
from redline.text import Tokenizer
from redline.types import SAMPLE_RATE, Hypothesis, Task, Waveform


class EditRecognizer:
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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.model.parameters()).dtype

    @torch.inference_mode()
    def recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        """One hypothesis per clip, with its draft and its edits.

        Raises `UnsupportedTaskError` for another task than transcription or another language than the model's, also
        when there are no clips.
        """
        if task.name != "transcribe":
            raise UnsupportedTaskError(f"{self.name} cannot {task.name}; it can only transcribe")
        if task.language is not None and task.language not in self.languages:
            raise UnsupportedTaskError(
                f"{self.name} does not know the language {task.language!r}; it knows {', '.join(self.languages)}"
            )
        return [hypothesis for batch in self._batches(clips) for hypothesis in self._edit(batch)]

    def _batches(self, clips: Sequence[Waveform]) -> Iterator[list[Waveform]]:
        """Neighbours as long as a batch may be."""
        batch: list[Waveform] = []
        for clip in clips:
            longest = max(len(one.samples) for one in [*batch, clip])
            if batch and (len(batch) + 1) * longest > self.batch_s * SAMPLE_RATE:
                yield batch
                batch = []
            batch.append(clip)
        if batch:
            yield batch

    def _edit(self, clips: Sequence[Waveform]) -> list[Hypothesis]:
        x, lengths = features.batch_features(clips)  # [B, T, 160], [B]
        output: EditorOutput = self.model(x.to(self.device, self.dtype), lengths.to(self.device))
        head = self.model.language
        found = head.decide(output.language_logits) if head and output.language_logits is not None else [None] * len(x)
        return [self._hypothesis(output, row, language) for row, language in enumerate(found)]

    def _hypothesis(self, output: EditorOutput, row: int, language: str | None) -> Hypothesis:
        draft, path, final = output.draft_ids[row], output.paths[row], output.final_ids[row]
        blank = self.model.config.blank_token_id
        used = [slot for slot, label in enumerate(path) if label != blank or (slot % 2 == 1 and slot // 2 < len(draft))]
        sure = edit.confidences(output.slot_logits[row, : len(path)], path).cpu()  # [K]
        pieces = self.tokenizer.pieces(final)
        if self.punctuate and self.model.forms is not None and output.form_logits is not None:
            taken = [slot for slot, label in enumerate(edit.place(draft, path, blank)) if label is not None]
            pieces = dress_pieces(pieces, self.model.forms.decide(output.form_logits[row, taken]))
        return Hypothesis(
            text="".join(pieces).strip(),
            draft=self.tokenizer.decode(draft).strip(),
            edits=tuple(edit.edits(draft, path, blank, self.tokenizer.pieces, pieces)),
            confidence=round(float(sure[used].mean()), 3) if used else None,
            language=language,
        )
