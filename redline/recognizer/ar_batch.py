"""One batch of an AR or Plus model: encoder pass, drafts, prefill, decode loop, diarization, word times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline import features, prompts
from redline.decoding import ctc, speculative
from redline.decoding.generate import Generation, Search, clip_seed, decode, token_budget
from redline.decoding.repetition import RepetitionOracle, repetitions
from redline.decoding.tags import NO_SPEAKER, parse_tagged, speaker_turns, strip_cyclic, strip_tags
from redline.decoding.word_times import BLANK, LazyWordTimes, decode_characters, scored_word_times, timing_notices
from redline.diarize.cluster import assign_speakers, name_speakers
from redline.diarize.embedder import is_narrow
from redline.errors import RedlineError
from redline.models.conformer import EncoderOutput
from redline.models.draft_head import LOGIT_ROWS
from redline.punctuation import restore_casing
from redline.recognizer.clip_budget import ClipBudget
from redline.recognizer.common import check_numbers, overflow_error
from redline.recognizer.drafts import beam_options, search_drafts
from redline.recognizer.keyword_bias import keyword_bias
from redline.types import Hypothesis, Notice, SpeakerEmbedding, Task, Waveform, Word

if TYPE_CHECKING:
    from redline.recognizer.ar import ArRecognizer

VERIFIED_AT_ONCE = 256
"""Draft tokens of which the logits are in memory together."""
NARROW = Notice(
    "narrow-band",
    "nothing above 4.5 kHz is heard, as on a telephone; voices are harder to tell apart in it, check who speaks",
)


@dataclass(frozen=True)
class TaskPlan:
    """How a model does one task."""

    task: Task
    prompt: tuple[int, ...]
    """Ids, with one for the audio."""
    budget: ClipBudget
    writes_times: bool
    """Whether the model writes a time tag after each word; elsewhere words are aligned."""
    is_drafted: bool
    """Whether the encoder's transcript can be the answer: plain text in the language that is spoken."""
    by_embedding: bool
    """Whether speakers are told by their embeddings, where the draft is the text."""


@dataclass(frozen=True)
class ArRow:
    """One clip of a batch."""

    clip: Waveform
    plan: TaskPlan
    features: Tensor  # [T, 160]


class ArBatch:
    """Clips that share an encoder pass, a prefill and a decode loop, whatever is asked of each."""

    def __init__(self, recognizer: ArRecognizer, rows: Sequence[ArRow]) -> None:
        self.recognizer, self.rows = recognizer, rows
        self.device, self.dtype = recognizer.device, recognizer.dtype
        x, lengths = features.pad([row.features for row in rows])  # [B, T, 160], [B]
        self.encoded = recognizer.model.encode(x.to(self.device, self.dtype), lengths.to(self.device))
        check_numbers(self.encoded.char_logits.masked_fill(~self.encoded.mask[..., None], 0.0), self.dtype)
        self.transcripts: dict[int, str] = {}

    def answers(self) -> list[Hypothesis | RedlineError]:
        """The answer to each row."""
        drafts = self._drafts()
        trusted = self._trusted(drafts)
        asked = [row for row, one in enumerate(self.rows) if row not in trusted and not one.plan.by_embedding]
        outcomes: dict[int, Hypothesis | RedlineError] = {}
        for row, generation, accepted in [*trusted.values(), *self._generate(asked, drafts)]:
            if generation.stop == "overflow":
                outcomes[row] = overflow_error(self.dtype)
                continue
            draft = self._text(drafts[row]) if row in drafts else ""
            outcomes[row] = replace(self._read(row, generation), draft=draft or None, accepted=accepted)
        return self._timed(outcomes)

    def _encoded(self, rows: Sequence[int]) -> EncoderOutput:
        """What the encoder knows about some of the rows."""
        if len(rows) == len(self.rows):
            return self.encoded
        exports = tuple(states[rows] for states in self.encoded.exports)
        e = self.encoded
        return EncoderOutput(e.hidden[rows], e.lengths[rows], exports, e.mid_logits[rows], e.char_logits[rows])

    # ---- drafts: what the encoder transcribes

    def _transcripts(self, rows: Sequence[int]) -> list[str]:
        """The encoder's transcripts: by its draft head, with keywords in mind, or by its characters without one."""
        if new := [row for row in rows if row not in self.transcripts]:
            encoded, head, lm = self._encoded(new), self.recognizer.model.draft_head, self.recognizer.draft_lm
            if head is None:
                characters = ctc.greedy(encoded.char_logits, encoded.lengths, BLANK)
                texts = [decode_characters(ids) for ids in characters]
            else:
                boost, most = beam_options(lm).keyword_boost, self.recognizer.template.most_keywords
                keywords = [self.rows[row].plan.task.keywords for row in new]
                biases = [keyword_bias(self.recognizer.tokenizer, words, boost, most) for words in keywords]
                drafts = search_drafts(head, encoded, lm, biases)
                if not all(draft.is_finite for draft in drafts):
                    raise overflow_error(self.dtype)
                texts = [self._text(draft.biased_ids) for draft in drafts]
            self.transcripts |= zip(new, texts, strict=True)
        return [self.transcripts[row] for row in rows]

    def _drafts(self) -> dict[int, list[int]]:
        """The drafts that the language model is shown, or even not asked about, by row."""
        drafted = [row for row, one in enumerate(self.rows) if one.plan.is_drafted and self.recognizer.drafts]
        texts = self._transcripts(drafted)
        return {row: self.recognizer.tokenizer.encode(text) for row, text in zip(drafted, texts, strict=True)}

    def _trusted(self, drafts: Mapping[int, list[int]]) -> dict[int, tuple[int, Generation, float]]:
        """Rows whose draft is the answer, unseen by the language model."""
        options, head = self.recognizer.drafts, self.recognizer.model.draft_head
        if not drafts or options is None or head is None or options.mode == "exact":
            return {}
        rows = list(drafts)
        if options.mode == "fast":
            pooled, lengths = head.pool(self._encoded(rows))
            parts = pooled.split(max(1, LOGIT_ROWS // len(rows)), dim=1)
            entropy = torch.cat([speculative.frame_entropy(head.logits(part)) for part in parts], dim=1)
            verdicts = speculative.trusted(entropy, lengths, options)
            rows = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict and drafts[row]]
        return {row: (row, Generation(tuple(drafts[row]), "end", ()), float(bool(drafts[row]))) for row in rows}

    # ---- answers: what the language model writes

    def _generate(
        self, rows: Sequence[int], drafts: Mapping[int, list[int]]
    ) -> list[tuple[int, Generation, float | None]]:
        """What is written in answer to each row's prompt, and the share of its draft that was accepted.

        Prompts and drafts are read together; decoding goes on behind what is accepted of each draft.
        """
        if not rows:
            return []
        model, options = self.recognizer.model, self.recognizer.options
        audio, counts = model.embed_audio(self._encoded(rows))
        prompted, drafted, searches = [], [], []
        for at, (row, count) in enumerate(zip(rows, counts.tolist(), strict=True)):
            one = self.rows[row]
            prompt = prompts.with_audio(one.plan.prompt, model.config.audio_token_index, count)
            budget = token_budget(one.clip.duration, one.plan.budget.max_per_s)
            budget = max(0, min(budget, model.config.text.positions - len(prompt)))
            seed = clip_seed(one.clip.samples, self.recognizer.seed) if options.temperature else None
            searches.append(Search(at, budget, options, self._oracle(row), seed))
            prompted.append(prompt)
            drafted.append(drafts.get(row, [])[:budget])
        whole = [[*prompt, *draft] for prompt, draft in zip(prompted, drafted, strict=True)]
        ends = [len(prompt) + search.budget for prompt, search in zip(prompted, searches, strict=True)]
        cache = model.cache(len(rows) * options.beams, max(*ends, *map(len, whole)) + 1)
        hidden = model.prefill(whole, audio, cache)  # [B, L, H]
        accepted = self._verify(hidden, prompted, drafted, searches)
        cache.lengths = [len(prompt) + count for prompt, count in zip(prompted, accepted, strict=True)]
        last = hidden[range(len(rows)), [length - 1 for length in cache.lengths]]
        logits = model.language_model.logits(last)
        generations = decode(searches, logits, lambda ids, parents: model.step(ids, parents, cache))
        shares = [
            round(count / len(draft), 3) if draft else None for count, draft in zip(accepted, drafted, strict=True)
        ]
        return list(zip(rows, generations, shares, strict=True))

    def _verify(
        self, hidden: Tensor, prompted: Sequence[list[int]], drafted: Sequence[list[int]], searches: Sequence[Search]
    ) -> list[int]:
        """How many tokens of each draft stand, by the hidden states [B, L, H] of prompts and drafts."""
        places = [
            (row, len(prompt) - 1 + at)
            for row, (prompt, draft) in enumerate(zip(prompted, drafted, strict=True))
            for at in range(len(draft))
        ]
        if not places or self.recognizer.drafts is None:
            return [0] * len(drafted)
        at_row, at_position = zip(*places, strict=True)
        states = hidden[list(at_row), list(at_position)].split(VERIFIED_AT_ONCE)  # [N, H]
        ids = torch.tensor([id for draft in drafted for id in draft], device=self.device).split(VERIFIED_AT_ONCE)
        judgements: list[speculative.Judgement] = []
        for part, own in zip(states, ids, strict=True):
            logits = self.recognizer.model.language_model.logits(part)
            judgements += speculative.judge(logits, own, self.recognizer.options)
        left = iter(judgements)
        return [
            speculative.verify(search, draft, list(islice(left, len(draft))), self.recognizer.drafts)
            for search, draft in zip(searches, drafted, strict=True)
        ]

    def _oracle(self, row: int) -> RepetitionOracle:
        return lambda unit: repetitions(strip_cyclic(self.recognizer.tokenizer.decode(unit)), *self._transcripts([row]))

    def _text(self, ids: Sequence[int]) -> str:
        return self.recognizer.tokenizer.decode(ids).strip()

    def _read(self, row: int, generation: Generation) -> Hypothesis:
        """What an answer says, its tags read; times that only the encoder knows are not in it yet."""
        plan, duration = self.rows[row].plan, self.rows[row].clip.duration
        prefix, text = plan.task.prefix or "", self._text(generation.ids)
        notices: list[Notice] = []
        if generation.stop == "limit":
            message = f"the answer was cut off after {len(generation.ids)} tokens; text is missing"
            notices.append(Notice("truncated", message))
        elif generation.stop == "loop" and plan.is_drafted:
            text = self._transcripts([row])[0]
            notices.append(Notice("loop", "the model repeated itself; the encoder's draft is given instead"))
        elif generation.stop == "loop":
            notices.append(Notice("loop", "the model repeated itself; the repetition was cut off, check the text"))
        text = restore_casing(text, plan.task.keywords)
        log_probs = generation.log_probs
        confidence = round(math.exp(sum(log_probs) / len(log_probs)), 3) if log_probs else None
        if not (plan.task.speakers or plan.writes_times):
            return Hypothesis(text, confidence=confidence, warnings=tuple(notices))
        before, own = parse_tagged(prefix).turns, parse_tagged(text).turns
        if plan.task.speakers and before and before[-1].speaker and text and not (own and own[0].speaker):
            # Whoever spoke last goes on; said here, because the next window sees this answer alone.
            text = f"[Speaker {before[-1].speaker}]: {text}"
        tagged = parse_tagged(f"{prefix} {text}", None if plan.task.speakers else duration)
        notices += tagged.warnings
        if plan.task.speakers:
            if tagged.text and not tagged.turns:
                notices.append(NO_SPEAKER)
            written = Hypothesis(tagged.text, turns=tagged.turns)
        else:
            words = tagged.words[len(strip_tags(prefix).split()) :]
            written = Hypothesis(" ".join(word.text for word in words) if words else strip_tags(text), words=words)
        return replace(written, tagged=text, confidence=confidence, warnings=tuple(notices))

    # ---- times and speakers: what only the encoder's frames and the sound tell

    def _timed(self, outcomes: dict[int, Hypothesis | RedlineError]) -> list[Hypothesis | RedlineError]:
        """All rows with the times that were asked for, where the model has not written them itself, or will be."""
        frame_s = self.recognizer.model.config.encoder.subsampling / features.FRAME_RATE
        frames: list[int] = self.encoded.lengths.tolist()
        aligned: dict[int, str] = {}
        for row, one in enumerate(self.rows):
            task, outcome = one.plan.task, outcomes.get(row)
            if one.plan.by_embedding:
                text = restore_casing(self._transcripts([row])[0], task.keywords)
                given = [word for turn in parse_tagged(task.prefix or "").turns for word in turn.text.split()]
                aligned[row] = " ".join([*given, *text.split()[len(given) :]])
            elif not isinstance(outcome, Hypothesis) or one.plan.writes_times or task.name == "translate":
                continue  # nobody said the words of a translation
            elif task.speakers:  # turns begin with those of the prefix
                aligned[row] = outcome.text
            elif task.words:
                aligned[row] = f"{strip_tags(task.prefix or '')} {outcome.text}"
            else:
                logits = self.encoded.char_logits[row, : frames[row]]
                timing = LazyWordTimes(outcome.text, logits, frame_s, strip_tags(task.prefix or ""))
                outcomes[row] = replace(outcome, timing=timing)
        if aligned:
            at = list(aligned)
            logits, lengths = self.encoded.char_logits[at], self.encoded.lengths[at]
            times = scored_word_times(list(aligned.values()), logits, lengths, frame_s)
            for row, (words, score) in zip(at, times, strict=True):
                outcome = outcomes.get(row)
                if isinstance(outcome, Hypothesis):
                    outcomes[row] = self._with_times(row, outcome, words, score)
                else:
                    outcomes[row] = self._diarized(row, aligned[row], words)
        return [outcomes[row] for row in range(len(self.rows))]

    def _with_times(self, row: int, hypothesis: Hypothesis, words: Sequence[Word], score: float) -> Hypothesis:
        names = [turn.speaker or None for turn in hypothesis.turns for _ in turn.text.split()]
        if names:
            words = [replace(word, speaker=name) for word, name in zip(words, names, strict=True)]
        notices = hypothesis.warnings + timing_notices(hypothesis.text, score)
        prefix = strip_tags(self.rows[row].plan.task.prefix or "")
        return _behind(replace(hypothesis, warnings=notices), words, len(prefix.split()))

    def _diarized(self, row: int, text: str, words: Sequence[Word]) -> Hypothesis:
        """The encoder's draft, each word given to a speaker; the words of a prefix keep theirs."""
        embedder, x = self.recognizer.speaker_embedder, self.rows[row].features.to(self.device, self.dtype)
        if not words or embedder is None:
            return Hypothesis(text)
        turns = parse_tagged(self.rows[row].plan.task.prefix or "").turns
        given = [turn.speaker for turn in turns for _ in turn.text.split()]
        labels, embeddings = assign_speakers(words, embedder.track(x), self.recognizer.clustering)
        names = name_speakers(labels, given)
        seconds = dict.fromkeys(sorted(labels), 0.001)
        for word, label in zip(words, labels, strict=True):
            seconds[label] += word.end - word.start
        owners = dict(zip(labels, names, strict=True))
        voices = tuple(
            SpeakerEmbedding(owners[label], tuple(embeddings[label].tolist()), round(amount, 3))
            for label, amount in seconds.items()
        )
        words = [replace(word, speaker=name) for word, name in zip(words, names, strict=True)]
        hypothesis = Hypothesis(text, speaker_embeddings=voices, warnings=(NARROW,) if is_narrow(x) else ())
        return _behind(hypothesis, words, len(given))


def _behind(hypothesis: Hypothesis, words: Sequence[Word], count: int) -> Hypothesis:
    """A hypothesis with these words and their turns, but for the first words, which a prefix gave."""
    own = tuple(words[count:])
    text = " ".join(word.text for word in own) if count else hypothesis.text
    return replace(hypothesis, text=text, words=own, turns=speaker_turns(own))
