"""NAR: a draft by the encoder, edited by the language model in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from redline.audio.check import checked_waveform
from redline.decoding.keyword_patches import KeywordBias, Patch, Stretch, overlaps, patched, zones
from redline.decoding.ngram import NgramLM
from redline.decoding.slots import choose, edits, place, punctuate, slot_batch
from redline.errors import RedlineError
from redline.models.conformer import EncoderOutput
from redline.models.nar import NarModel
from redline.punctuation import Punctuation, restore_keywords, restore_pieces
from redline.recognizer.common import MAX_DRAFT_CLIP_S, Answers, ModelRecognizer, overflow_error, with_word_times
from redline.recognizer.drafts import Draft, draft_options, keyword_biases, search_drafts
from redline.tokenizer import Tokenizer
from redline.types import ClipLimits, Hypothesis, Request, Task


class Slot(NamedTuple):
    """One slot of an edited draft."""

    id: int
    """The draft's token, the blank in an empty slot."""
    label: int
    """What editing makes of it."""
    log_prob: float
    punctuation: Punctuation
    """How the word in it is written."""


class EditorNetworks(Protocol):
    """Projector and language model: of `NarModel`, or their fast twin."""

    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]: ...

    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor: ...


def edit_drafts(
    model: NarModel,
    audio: Tensor,
    audio_lengths: Tensor,
    drafts: Sequence[Sequence[int]],
    keep_bias: float = 0.0,
    networks: EditorNetworks | None = None,
) -> list[list[Slot]]:
    """One editing pass, of the model or of its twin, over B drafts with audio embeddings [B, S, H], lengths [B]."""
    config = model.config
    slots, lengths = slot_batch(drafts, config.blank_token_id, config.min_edit_sequence_length)
    slots = slots.to(audio.device)
    hidden = (networks or model).read(audio, audio_lengths, slots, lengths.to(audio.device))
    labels, log_probs = choose(slots, *model.score_slots(hidden, slots), keep_bias)
    written = [[Punctuation()] * slots.shape[1]] * len(slots)
    if model.punctuation_head is not None:
        written = punctuate(model.punctuation_head(hidden))
    columns = zip(slots.tolist(), labels.tolist(), log_probs.tolist(), written, strict=True)
    rows = [[Slot(*slot) for slot in zip(*row, strict=True)] for row in columns]
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


class NarRecognizer(ModelRecognizer[NarModel, Tensor]):
    """NAR: a draft by the encoder, then one editing pass by the language model."""

    def __init__(
        self,
        model: NarModel,
        tokenizer: Tokenizer,
        draft_lm: NgramLM | None = None,
        *,
        name: str,
        punctuate: bool = True,
        tau_ctc: float | None = None,
    ) -> None:
        """With `draft_lm` drafts are searched for by shallow fusion, as its options say, and without greedily.

        With `punctuate` words get capitals and marks, where the model has learned them. With `tau_ctc` (nats) a draft
        that is certain is the text, unread by the language model; raises `RedlineError` where that makes capitals and
        marks, which would come and go within a transcript.
        """
        super().__init__(model, tokenizer, name, model.config.languages)
        self.networks: EditorNetworks = model
        """Who embeds audio and reads slots: the model, or a fast twin of it."""
        if tau_ctc is not None and punctuate and model.punctuation_head is not None:
            raise RedlineError(
                f"{name}: effort is 'auto', but the language model makes capitals and marks and has to read everything "
                "for them; take punctuate=False (--no-punctuation), or leave the effort out"
            )
        self.tau_ctc = tau_ctc
        self.draft_lm = draft_lm
        self.punctuate = punctuate

    def limits(self, task: Task) -> ClipLimits:
        """Clips of any task that it does; raises `UnsupportedTaskError` for another task or language."""
        self.check_plain(task, "edits a draft")
        return ClipLimits(MAX_DRAFT_CLIP_S)

    def prepare(self, request: Request) -> Tensor:
        """The features [T, 160] of a request's clip."""
        self.limits(request.task)
        return self.measure(checked_waveform(request.clip), self.model.config.frame_rule)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], rows: Sequence[Tensor]) -> Answers:
        """The edited drafts of the clips; one encoder pass and one editing pass for all of them."""
        model, tasks = self.model, [request.task for request in requests]
        encoded = self.encode(rows)
        keywords = [task.keywords for task in tasks]
        biases = keyword_biases(self.tokenizer, keywords, self.draft_lm)
        drafts = search_drafts(model.draft_head, encoded, self.draft_lm, biases, self.tau_ctc)
        edited = self._edited(encoded, drafts, biases)
        languages: list[str | None] = [None] * len(rows)
        if model.language_head is not None:
            best = model.language_head(encoded.hidden, encoded.lengths).argmax(dim=-1)
            languages = [model.language_head.languages[index] for index in best.tolist()]
        answers: Answers = []
        for draft, slots, language, words in zip(drafts, edited, languages, keywords, strict=True):
            if not (draft.is_finite and all(math.isfinite(slot.log_prob) for slot in slots or ())):
                answers.append(overflow_error(self.dtype))
            elif slots is None:
                text = "".join(restore_keywords(self.tokenizer.pieces(draft.ids), words)).strip()
                plain = self.tokenizer.decode(draft.ids).strip()
                answers.append(Hypothesis(text, plain, language=language, accepted=1.0))
            else:
                answers.append(self._hypothesis(slots, language, words))
        return with_word_times(answers, encoded, model.config.encoder.frame_s, tasks)

    def _edited(
        self, encoded: EncoderOutput, drafts: Sequence[Draft], biases: Sequence[KeywordBias | None]
    ) -> list[list[Slot] | None]:
        """The slots of each draft after one editing pass for all; None for one that is certain, which is not read."""
        read = [row for row, draft in enumerate(drafts) if draft.patches or not draft.is_certain]
        slots: list[list[Slot] | None] = [None] * len(drafts)
        if not read:
            return slots
        exports = encoded.exports if len(read) == len(drafts) else tuple(states[read] for states in encoded.exports)
        audio, audio_lengths = self.networks.embed_audio(exports, encoded.lengths[read])
        # Drafts in which keywords change something are edited twice, in the same pass: with and without them.
        jobs = [(at, drafts[row].ids) for at, row in enumerate(read)]
        jobs += [(at, drafts[row].biased_ids) for at, row in enumerate(read) if drafts[row].patches]
        sources = torch.tensor([at for at, _ in jobs], device=audio.device)
        texts, keep_bias = [ids for _, ids in jobs], draft_options(self.draft_lm).keep_bias
        edited = edit_drafts(self.model, audio[sources], audio_lengths[sources], texts, keep_bias, self.networks)
        for (at, _), own in zip(jobs, edited, strict=True):
            row, before = read[at], slots[read[at]]
            slots[row] = own if before is None else self._with_keywords(before, own, drafts[row].patches, biases[row])
        return slots

    def _with_keywords(
        self, plain: list[Slot], other: list[Slot], patches: Sequence[Patch], bias: KeywordBias | None
    ) -> list[Slot]:
        """The plain slots with those changes of a draft that leave a keyword in the edited text."""
        assert bias is not None
        places = zones(patches, [slot.label for slot in plain], [slot.label for slot in other])
        before = self._keywords(plain, bias)
        after = self._keywords(patched(plain, other, places), bias)
        kept, shift = [], 0
        for patch in places:
            first = patch.plain_first + shift
            shift += (patch.last - patch.first) - (patch.plain_last - patch.plain_first)
            if overlaps((first, patch.plain_last + shift), after) > overlaps(patch[:2], before):
                kept.append(patch)
        return patched(plain, other, kept)

    def _keywords(self, slots: Sequence[Slot], bias: KeywordBias) -> list[Stretch]:
        """The slots of each keyword in the edited text."""
        used = self._placed(slots)
        matches = bias.find([slots[at].label for at in used])
        return [(used[first], used[last - 1] + 1) for first, last in matches]

    def _placed(self, slots: Sequence[Slot]) -> list[int]:
        """The slot of each token of the edited text."""
        placed = place(self._draft(slots), [slot.label for slot in slots], self.model.config.blank_token_id)
        return [at for at, label in enumerate(placed) if label is not None]

    def _draft(self, slots: Sequence[Slot]) -> list[int]:
        return [slot.id for slot in slots[1::2] if slot.id != self.model.config.blank_token_id]

    def _hypothesis(self, slots: Sequence[Slot], language: str | None, keywords: Sequence[str]) -> Hypothesis:
        blank, draft, placed = self.model.config.blank_token_id, self._draft(slots), self._placed(slots)
        pieces = self.tokenizer.pieces([slots[at].label for at in placed])
        if self.punctuate:
            pieces = restore_pieces(pieces, [slots[at].punctuation for at in placed])
        pieces = restore_keywords(pieces, keywords)
        decided = [slot.log_prob for slot in slots if slot.id != blank or slot.label != blank]
        return Hypothesis(
            text="".join(pieces).strip(),
            draft=self.tokenizer.decode(draft).strip(),
            edits=tuple(edits(draft, [slot.label for slot in slots], blank, self.tokenizer.pieces(draft), pieces)),
            confidence=round(sum(map(math.exp, decided)) / len(decided), 3) if decided else None,
            language=language,
        )
