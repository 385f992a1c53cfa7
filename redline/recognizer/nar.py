"""NAR: a draft by the encoder, edited by the language model in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from redline.audio.check import checked_waveform
from redline.decoding.align import align_scores
from redline.decoding.keyword_patches import KeywordBias, Patch, Stretch, overlaps, patched, zones
from redline.decoding.ngram import ALONE, DraftOptions, NgramLM
from redline.decoding.slots import choose, edits, place, punctuate, slot_batch, sound_scores
from redline.decoding.word_confidence import DraftTokens, TextEvidence
from redline.errors import RedlineError
from redline.keywords import KeywordIndex
from redline.models.conformer import EncoderOutput
from redline.models.draft_head import LOGIT_ROWS, DraftHead
from redline.models.nar import NarModel
from redline.punctuation import Punctuation, restore_pieces, word_pieces
from redline.recognizer.common import (
    MAX_DRAFT_CLIP_S,
    Answers,
    ModelRecognizer,
    SpokenText,
    overflow_error,
    with_word_times,
)
from redline.recognizer.drafts import Draft, draft_options, draft_tokens, keyword_biases, keyword_index, search_drafts
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


EditJob = tuple[int, Sequence[int], DraftOptions]
"""The row of the encoder's output, its draft, and how that is edited."""


class EditorNetworks(Protocol):
    """Projector and language model: of `NarModel`, or their fast twin."""

    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]: ...

    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor: ...


def edit_drafts(
    model: NarModel, encoded: EncoderOutput, jobs: Sequence[EditJob], networks: EditorNetworks | None = None
) -> list[list[Slot]]:
    """One editing pass, of the model or of its twin, over B drafts."""
    rows, drafts, options = zip(*jobs, strict=True)
    config, networks, read = model.config, networks or model, sorted(set(rows))
    exports = (
        encoded.exports if len(read) == len(encoded.lengths) else tuple(states[read] for states in encoded.exports)
    )
    sources = torch.tensor([read.index(row) for row in rows], device=encoded.hidden.device)
    audio, audio_lengths = (part[sources] for part in networks.embed_audio(exports, encoded.lengths[read]))
    slots, lengths = slot_batch(drafts, config.blank_token_id, config.min_edit_sequence_length)
    slots = slots.to(audio.device)
    hidden = networks.read(audio, audio_lengths, slots, lengths.to(audio.device))
    listens = any(each.sound_weight for each in options)
    acoustic = acoustic_slot_scores(model.draft_head, encoded, jobs, slots.shape[1]) if listens else None
    keep_bias = torch.tensor([each.keep_bias for each in options], device=audio.device)[:, None]
    labels, log_probs = choose(slots, *model.score_slots(hidden, slots, acoustic), keep_bias)
    written = [[Punctuation()] * slots.shape[1]] * len(slots)
    if model.punctuation_head is not None:
        written = punctuate(model.punctuation_head(hidden))
    columns = zip(slots.tolist(), labels.tolist(), log_probs.tolist(), written, strict=True)
    slot_rows = [[Slot(*slot) for slot in zip(*row, strict=True)] for row in columns]
    return [row[:length] for row, length in zip(slot_rows, lengths.tolist(), strict=True)]


def acoustic_slot_scores(head: DraftHead, encoded: EncoderOutput, jobs: Sequence[EditJob], slots: int) -> Tensor:
    """Weighted `sound_scores` of B drafts, [B, slots, V]."""
    rows, drafts, options = zip(*jobs, strict=True)
    pooled, lengths = (part[list(rows)] for part in head.pool(encoded))
    parts = pooled.split(max(1, LOGIT_ROWS // len(pooled)), dim=1)
    log_probs = torch.cat([head.logits(part).float().log_softmax(dim=-1) for part in parts], dim=1)
    acoustic = log_probs.new_zeros(len(jobs), slots, head.rows)
    for row, path in enumerate(align_scores(log_probs, lengths, drafts, head.blank)):
        if weight := options[row].sound_weight:
            clip = log_probs[row, : lengths[row]]
            acoustic[row] = weight * sound_scores(clip, path, drafts[row], slots, head.blank)
    return acoustic


def edit_options(model: NarModel, draft_lm: NgramLM | None) -> DraftOptions:
    """How drafts are edited: as the n-gram LM says that read along, or for greedy ones as the model's config does."""
    if draft_lm is not None:
        return draft_lm.options
    return replace(ALONE, keep_bias=model.config.keep_bias, sound_weight=model.config.sound_weight)


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

    @property
    def told_languages(self) -> tuple[str, ...]:
        return () if self.model.language_head is None else self.model.language_head.languages

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
            scores = model.language_head(encoded.hidden, encoded.lengths)
            languages = [model.language_head.best(row, task.languages) for row, task in zip(scores, tasks, strict=True)]
        answers: Answers = []
        spoken: dict[int, SpokenText] = {}
        for row, (draft, slots, language) in enumerate(zip(drafts, edited, languages, strict=True)):
            index = keyword_index(keywords[row])
            if not (draft.is_finite and all(math.isfinite(slot.log_prob) for slot in slots or ())):
                answers.append(overflow_error(self.dtype))
            elif slots is None:
                pieces = index.restore(self.tokenizer.pieces(draft.ids))
                plain = self.tokenizer.decode(draft.ids).strip()
                tokens = self._draft_tokens(draft, draft.ids, pieces)
                spoken[row] = SpokenText("".join(pieces).strip(), TextEvidence(None, tokens))
                text = "".join(index.write(pieces)).strip()
                answers.append(Hypothesis(text, plain, language=language, accepted=1.0))
            else:
                answer, spoken[row] = self._hypothesis(slots, language, index, draft)
                answers.append(answer)
        return with_word_times(answers, encoded, model.config.encoder.frame_s, tasks, spoken, self.word_confidence)

    def _edited(
        self, encoded: EncoderOutput, drafts: Sequence[Draft], biases: Sequence[KeywordBias | None]
    ) -> list[list[Slot] | None]:
        """The slots of each draft after one editing pass for all; None for one that is certain, which is not read."""
        read = [row for row, draft in enumerate(drafts) if draft.patches or not draft.is_certain]
        slots: list[list[Slot] | None] = [None] * len(drafts)
        if not read:
            return slots
        # Drafts in which keywords change something are edited twice, in the same pass: with and without them. What the
        # draft head hears is no judge of a keyword.
        plain = edit_options(self.model, self.draft_lm)
        drawn = replace(draft_options(self.draft_lm), sound_weight=0.0)
        jobs = [(row, drafts[row].ids, plain) for row in read]
        jobs += [(row, drafts[row].biased_ids, drawn) for row in read if drafts[row].patches]
        edited = edit_drafts(self.model, encoded, jobs, self.networks)
        for (row, _, _), own in zip(jobs, edited, strict=True):
            before = slots[row]
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

    def _hypothesis(
        self, slots: Sequence[Slot], language: str | None, keywords: KeywordIndex, drafted: Draft
    ) -> tuple[Hypothesis, SpokenText]:
        """The answer, with keywords as they are written and as they are said."""
        blank, draft, placed = self.model.config.blank_token_id, self._draft(slots), self._placed(slots)
        pieces = self.tokenizer.pieces([slots[at].label for at in placed])
        if self.punctuate:
            pieces = restore_pieces(pieces, [slots[at].punctuation for at in placed])
        restored = keywords.restore(pieces)
        pieces = keywords.write(restored)
        decided = [slot.log_prob for slot in slots if slot.id != blank or slot.label != blank]
        answer = Hypothesis(
            text="".join(pieces).strip(),
            draft=self.tokenizer.decode(draft).strip(),
            edits=tuple(edits(draft, [slot.label for slot in slots], blank, self.tokenizer.pieces(draft), pieces)),
            confidence=round(sum(map(math.exp, decided)) / len(decided), 3) if decided else None,
            language=language,
        )
        least = [min(slots[placed[at]].log_prob for at in word) for word in word_pieces(restored)]
        tokens = self._draft_tokens(drafted, [slots[at].label for at in placed], restored)
        return answer, SpokenText("".join(restored).strip(), TextEvidence(least, tokens))

    def _draft_tokens(self, draft: Draft, ids: Sequence[int], pieces: Sequence[str]) -> DraftTokens | None:
        if self.word_confidence is None:
            return None
        return draft_tokens(draft, ids, pieces, self.model.config.encoder.frame_s * self.model.draft_head.window)
