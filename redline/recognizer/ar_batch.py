"""One batch of an AR or Plus model: encoder pass, drafts, prompts, diarization, word times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline import prompts
from redline.decoding.generate import Generation, Search, clip_seed, token_budget
from redline.decoding.repetition import repetitions
from redline.decoding.tags import NO_SPEAKER, parse_tagged, speaker_turns, strip_cyclic, strip_tags
from redline.decoding.word_confidence import NOTHING_KNOWN, CalibratedTimes, TextEvidence, calibrated
from redline.decoding.word_times import LazyWordTimes, decode_characters, scored_word_times, timing_notices
from redline.diarize.cluster import assign_speakers, name_speakers
from redline.diarize.diarizer import NARROW
from redline.diarize.embedder import is_narrow
from redline.errors import RedlineError
from redline.models.conformer import EncoderOutput
from redline.recognizer.common import Answers, overflow_error
from redline.recognizer.drafts import draft_tokens, encoder_drafts, keyword_index
from redline.types import Hypothesis, Notice, SpeakerEmbedding, Task, Waveform, Word

if TYPE_CHECKING:
    from redline.recognizer.ar import ArRecognizer

TRUNCATED = "the answer was cut off after {} tokens; text is missing"
LOOP_DRAFTED = Notice("loop", "the model repeated itself; the encoder's draft is given instead")
LOOP_CUT = Notice("loop", "the model repeated itself; the repetition was cut off, check the text")


@dataclass(frozen=True)
class ClipBudget:
    """What one kind of answer costs."""

    name: str
    expected_per_s: float
    """Tokens a second of audio that are to be expected."""
    max_per_s: float
    max_clip_s: float
    max_yarn_clip_s: float
    """The longest clip of a model whose positions are stretched by YaRN."""


# Of the published models: 3 to 10 tokens a second with speakers, 16 with times; speakers are lost in short clips.
# With YaRN: 2 minutes are IBM's advice for 5.0, 9 and 5 minutes what the card of 2B-Plus calls good.
PLAIN_BUDGET = ClipBudget("plain", 4.0, 8.0, 60.0, 120.0)
SPEAKERS_BUDGET = ClipBudget("speakers", 10.0, 16.0, 120.0, 540.0)
WORDS_BUDGET = ClipBudget("words", 16.0, 24.0, 150.0, 300.0)
MIN_CLIP_S = 5.0


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


@dataclass(eq=False)
class Decoding:
    """A text that the language model has to write: its prompt, with a placeholder for each audio embedding, the draft
    that is read along, and its search."""

    prompt: list[int]
    audio: Tensor  # [S, H]
    draft: list[int]
    search: Search
    accepted: float | None = None


@dataclass(eq=False)
class ArRow:
    """One clip on its way through a batch."""

    clip: Waveform
    plan: TaskPlan
    features: Tensor  # [T, 160]
    place: int = 0
    batch: ArBatch | None = None
    transcript: str | None = None
    is_certain: bool = False
    """What the encoder alone hears, where it was asked, and whether it is sure of that."""
    evidence: TextEvidence = NOTHING_KNOWN
    """What its head says of the words of that transcript."""
    draft: list[int] = field(default_factory=list)
    """Ids of the transcript that the language model is shown, or not even asked about."""
    accepted: float | None = None
    generation: Generation | None = None
    decoding: Decoding | None = None

    @property
    def prefix(self) -> str:
        return self.plan.task.prefix or ""

    def evidence_of(self, text: str) -> TextEvidence:
        """What is known of the words of a text, which may be another one than the transcript."""
        return self.evidence if text.strip() == self.transcript else NOTHING_KNOWN

    @torch.inference_mode()
    def answer(self) -> Hypothesis | RedlineError:
        """The answer, once the text is written."""
        assert self.batch is not None
        return self.batch.answers([self])[0]


class ArBatch:
    """Clips that share an encoder pass, whatever is asked of each; where there is a `decoding`, it is to be written."""

    def __init__(self, recognizer: ArRecognizer, rows: Sequence[ArRow]) -> None:
        self.recognizer, self.model, self.tokenizer = recognizer, recognizer.model, recognizer.tokenizer
        self.device, self.dtype = recognizer.device, recognizer.dtype
        self.rows = [replace(row, place=place, batch=self) for place, row in enumerate(rows)]
        self.encoded = recognizer.encode([row.features for row in self.rows])
        recognizer.check_numbers(self.encoded)
        drafts = recognizer.drafts
        drafted = [row for row in self.rows if drafts is not None and row.plan.is_drafted]
        self._transcribe([*drafted, *(row for row in self.rows if row.plan.by_embedding)])
        for row in drafted:
            row.draft = self.tokenizer.encode(row.transcript or "")
            if (drafts and drafts.mode == "trust") or (row.is_certain and row.draft):  # unseen by the language model
                row.generation, row.accepted = Generation(tuple(row.draft), "end", ()), float(bool(row.draft))
        self._ask([row for row in self.rows if row.generation is None and not row.plan.by_embedding])

    def begun(self) -> list[Hypothesis | RedlineError | ArRow]:
        """The answer to each row, or the row where it waits for the language model."""
        rows, self.rows = self.rows, []  # each holds its batch until it is answered, and no longer
        answers = iter(self.answers([row for row in rows if row.decoding is None]))
        return [next(answers) if row.decoding is None else row for row in rows]

    def answers(self, rows: Sequence[ArRow]) -> Answers:
        """The answers to some rows, whose texts are written."""
        answers: Answers = []
        for row in rows:
            if row.decoding is not None and row.generation is None:
                row.generation, row.accepted, row.decoding = row.decoding.search.best, row.decoding.accepted, None
            overflows = row.generation is not None and row.generation.stop == "overflow"
            answers.append(overflow_error(self.dtype) if overflows else self._read(row))
        return self._timed(rows, answers)

    def _encoded(self, rows: Sequence[ArRow]) -> EncoderOutput:
        """What the encoder knows about some of the rows."""
        if len(rows) == len(self.rows):
            return self.encoded
        at, all_ = [row.place for row in rows], self.encoded
        exports = tuple(states[at] for states in all_.exports)
        return EncoderOutput(all_.hidden[at], all_.lengths[at], exports, all_.mid_logits[at], all_.char_logits[at])

    # ---- drafts: what the encoder transcribes

    def _transcribe(self, rows: Sequence[ArRow]) -> None:
        """The encoder's transcripts: by its draft head, with keywords in mind, or by its characters without one."""
        if not rows:
            return
        head, keywords = self.model.draft_head, [row.plan.task.keywords for row in rows]
        recognizer, most = self.recognizer, self.recognizer.template.most_keywords
        tau_ctc = recognizer.drafts.tau_ctc if recognizer.drafts and recognizer.drafts.mode == "fast" else None
        encoded, lm = self._encoded(rows), recognizer.draft_lm
        drafts = encoder_drafts(head, encoded, self.tokenizer, lm, keywords, most, tau_ctc)
        for row, draft in zip(rows, drafts, strict=True):
            ids, row.is_certain = draft.biased_ids, draft.is_certain
            row.transcript = decode_characters(ids) if head is None else self.tokenizer.decode(ids).strip()
            if head is not None and recognizer.word_confidence is not None:
                frame_s = self.model.config.encoder.frame_s * head.window
                row.evidence = TextEvidence(None, draft_tokens(draft, ids, self.tokenizer.pieces(ids), frame_s))

    def _transcript(self, row: ArRow) -> str:
        if row.transcript is None:
            self._transcribe([row])
        return row.transcript or ""

    # ---- answers: what the language model writes

    def _ask(self, rows: Sequence[ArRow]) -> None:
        """What the language model has to read for each row, and how much it may write."""
        if not rows:
            return
        model, options = self.model, self.recognizer.options
        audio, counts = model.embed_audio(self._encoded(rows))
        for own, row, count in zip(audio, rows, counts.tolist(), strict=True):
            prompt = prompts.with_audio(row.plan.prompt, model.config.audio_token_index, count)
            budget = token_budget(row.clip.duration, row.plan.budget.max_per_s)
            budget = max(0, min(budget, model.config.text.positions - len(prompt)))
            seed = clip_seed(row.clip.samples, self.recognizer.seed) if options.temperature else None

            def oracle(unit: Sequence[int], row: ArRow = row) -> int:
                return repetitions(strip_cyclic(self.tokenizer.decode(unit)), self._transcript(row))

            row.decoding = Decoding(prompt, own[:count], row.draft[:budget], Search(0, budget, options, oracle, seed))

    def _read(self, row: ArRow) -> Hypothesis:
        """What an answer says, its tags read; times that only the encoder knows are not in it yet."""
        if row.generation is None:  # the encoder's draft, whose words get speakers
            return Hypothesis(_with_keywords(self._transcript(row), row.plan.task))
        task, ids, log_probs = row.plan.task, row.generation.ids, row.generation.log_probs
        text = self.tokenizer.decode(ids).strip()
        notices: tuple[Notice, ...] = ()
        if row.generation.stop == "limit":
            notices = (Notice("truncated", TRUNCATED.format(len(ids))),)
        elif row.generation.stop == "loop" and row.plan.is_drafted:
            text, notices = self._transcript(row), (LOOP_DRAFTED,)
        elif row.generation.stop == "loop":
            notices = (LOOP_CUT,)
        text = _with_keywords(text, task)
        answer = Hypothesis(
            text,
            draft=self.tokenizer.decode(row.draft).strip() or None,
            confidence=round(math.exp(sum(log_probs) / len(log_probs)), 3) if log_probs else None,
            accepted=row.accepted,
        )
        if task.speakers:
            before, own = parse_tagged(row.prefix).turns, parse_tagged(text).turns
            if before and before[-1].speaker and text and not (own and own[0].speaker):
                # Whoever spoke last goes on; said here, because the next window sees this answer alone.
                text = f"[Speaker {before[-1].speaker}]: {text}"
            tagged = parse_tagged(f"{row.prefix} {text}")
            notices += tagged.warnings + ((NO_SPEAKER,) if tagged.text and not tagged.turns else ())
            answer = replace(answer, text=tagged.text, turns=tagged.turns, tagged=text)
        elif row.plan.writes_times:
            tagged = parse_tagged(f"{row.prefix} {text}", row.clip.duration)
            words = tagged.words[len(strip_tags(row.prefix).split()) :]
            plain = " ".join(word.text for word in words) if words else strip_tags(text)
            answer, notices = replace(answer, text=plain, words=words, tagged=text), notices + tagged.warnings
        return replace(answer, warnings=notices)

    # ---- times and speakers: what only the encoder's frames and the sound tell

    def _timed(self, rows: Sequence[ArRow], answers: Answers) -> Answers:
        """Answers with the times that were asked for, where the model has not written them itself, or will be."""
        frame_s = self.model.config.encoder.frame_s
        frames: list[int] = self.encoded.lengths.tolist()
        texts: dict[int, str] = {}  # by index
        for at, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            task, prefix = row.plan.task, strip_tags(row.prefix)
            if not isinstance(answer, Hypothesis) or task.name == "translate":
                continue  # nobody said the words of a translation
            if row.plan.by_embedding:
                given = self._given(row)
                texts[at] = " ".join([*(word for word, _ in given), *answer.text.split()[len(given) :]])
            elif task.speakers or task.words:  # turns begin with those of the prefix
                texts[at] = answer.text if task.speakers else f"{prefix} {answer.text}"
            else:
                logits = self.encoded.char_logits[row.place, : frames[row.place]]
                timing, maps = LazyWordTimes(answer.text, logits, frame_s, prefix), self.recognizer.word_confidence
                known = row.evidence_of(f"{prefix} {answer.text}")
                answers[at] = replace(answer, timing=timing if maps is None else CalibratedTimes(timing, maps, known))
        if texts:
            places = [rows[at].place for at in texts]
            logits, lengths = self.encoded.char_logits[places], self.encoded.lengths[places]
            times = scored_word_times(list(texts.values()), logits, lengths, frame_s)
            for at, (aligned, score) in zip(texts, times, strict=True):
                answer, row = answers[at], rows[at]
                words = calibrated(aligned, self.recognizer.word_confidence, row.evidence_of(texts[at]))
                if isinstance(answer, Hypothesis):
                    add = self._diarized if row.plan.by_embedding else self._aligned
                    # Times that the model has written stay; how certain their words are only the alignment tells.
                    add = self._judged if row.plan.writes_times and answer.words else add
                    answers[at] = add(row, answer, words, score)
        return answers

    def _aligned(self, row: ArRow, answer: Hypothesis, words: Sequence[Word], score: float) -> Hypothesis:
        """An answer with its aligned words, given to the speakers of its turns."""
        names = [turn.speaker or None for turn in answer.turns for _ in turn.text.split()] or [None] * len(words)
        words = [replace(word, speaker=name) for word, name in zip(words, names, strict=True)]
        answer = replace(answer, warnings=answer.warnings + timing_notices(answer.text, score))
        return _behind(answer, words, len(strip_tags(row.prefix).split()))

    def _judged(self, row: ArRow, answer: Hypothesis, words: Sequence[Word], score: float) -> Hypothesis:
        """An answer whose words, which have times, get the confidence of the aligned ones."""
        own = zip(answer.words, words[len(words) - len(answer.words) :], strict=True)
        return replace(answer, words=tuple(replace(word, confidence=aligned.confidence) for word, aligned in own))

    def _given(self, row: ArRow) -> list[tuple[str, str]]:
        """The words of a prefix with tags, and their speakers."""
        return [(word, turn.speaker) for turn in parse_tagged(row.prefix).turns for word in turn.text.split()]

    def _diarized(self, row: ArRow, answer: Hypothesis, words: Sequence[Word], score: float) -> Hypothesis:
        """The encoder's draft, each word given to a speaker by its embedding; the words of a prefix keep theirs."""
        embedder, given = self.recognizer.speaker_embedder, self._given(row)
        if not words or embedder is None:
            return answer
        x = row.features.to(self.device, self.dtype)
        labels, vectors = assign_speakers(words, embedder.track(x), self.recognizer.clustering)
        names = name_speakers(labels, [speaker for _, speaker in given])
        seconds = dict.fromkeys(sorted(labels), 0.001)
        for word, label in zip(words, labels, strict=True):
            seconds[label] += word.end - word.start
        owners = dict(zip(labels, names, strict=True))
        embeddings = tuple(
            SpeakerEmbedding(owners[label], tuple(vectors[label].tolist()), round(amount, 3))
            for label, amount in seconds.items()
        )
        words = [replace(word, speaker=name) for word, name in zip(words, names, strict=True)]
        answer = replace(answer, speaker_embeddings=embeddings, warnings=(NARROW,) if is_narrow(x) else ())
        return _behind(answer, words, len(given))


def _behind(answer: Hypothesis, words: Sequence[Word], count: int) -> Hypothesis:
    """An answer with these words and their turns, but for the first words, which a prefix gave."""
    own = tuple(words[count:])
    text = " ".join(word.text for word in own) if count else answer.text
    return replace(answer, text=text, words=own, turns=speaker_turns(own))


def _with_keywords(text: str, task: Task) -> str:
    """A text in which keywords are written as they are given, also where they stand as they are said."""
    index = keyword_index(task.keywords)
    return "".join(index.write(index.restore([text])))
