"""AR and Plus: the language model answers a prompt that holds the audio."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from redline import features, prompts
from redline.audio.check import checked_waveform
from redline.audio.levels import is_silent, levelled
from redline.decoding import ctc, generate, speculative
from redline.decoding import tags as tagged
from redline.decoding.generate import GenerateOptions, Generation, token_budget
from redline.decoding.repetition import RepetitionOracle, repetitions
from redline.decoding.speculative import Acceptance, SpeculativeOptions
from redline.decoding.word_times import BLANK, scored_word_times, timed_turns, timing_notices, word_times, written
from redline.diarize import cluster
from redline.diarize.cluster import ClusterOptions
from redline.diarize.embedder import is_narrow
from redline.errors import RedlineError, UnsupportedTaskError
from redline.models.ar import ArModel
from redline.models.conformer import EncoderOutput
from redline.prompts import PromptRequest, PromptTemplate
from redline.punctuation import restore_casing
from redline.recognizer.clip_budget import DRAFT_S, PLAIN, SHORTEST_S, SPEAKERS, WORDS, Budget
from redline.recognizer.common import (
    Holder,
    characters,
    check_language,
    check_numbers,
    memory_errors,
    timings,
)
from redline.recognizer.keyword_bias import keyword_bias
from redline.threads import check_fork
from redline.tokenizer import Tokenizer
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, Notice, Request, Task, Waveform

NARROW = Notice(
    "narrow-band",
    "nothing above 4.5 kHz is heard, as on a telephone; voices are harder to tell apart in it, check who speaks",
)


class ArRecognizer(Holder[ArModel]):
    """AR and Plus: the language model answers a prompt that holds the audio."""

    def __init__(
        self,
        model: ArModel,
        tokenizer: Tokenizer,
        template: PromptTemplate,
        *,
        name: str,
        batch_s: float = 120.0,
        options: GenerateOptions | None = None,
        drafts: SpeculativeOptions | None = SpeculativeOptions(),  # noqa: B008
        punctuate: bool = True,
        seed: int = 0,
    ) -> None:
        """`options` say how tokens are chosen (greedily, by default), `drafts` how a draft by the encoder is verified.

        Drafts are for greedy transcription only; None writes every token. `seed` is for sampling: with the sound of a
        clip it decides what is drawn for it, so the same clip gets the same text alone, in a batch and in any order.
        """
        text, audio = model.config.text, model.config.audio_token_index
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = template
        self.name = name
        self.languages = model.config.languages
        self.batch_s = batch_s
        self.options = options or GenerateOptions(
            text.eos_token_id, other_eos_ids=text.other_eos_token_ids, suppress=(audio,)
        )
        self.drafts = drafts if self.options.beams == 1 and self.options.temperature == 0 else None
        self.punctuate = punctuate
        self.seed = seed
        self.voices = ClusterOptions()

    def limits(self, task: Task) -> ClipLimits:
        """How long a clip may be; raises `UnsupportedTaskError` for what the model has not learned.

        Speakers keep their numbers only if a window knows who spoke in the one before, or by their voices.
        """
        check_language(self.name, task.language, self.languages)
        by_voice = self._by_voice(task)
        self._prompt(replace(task, speakers=False, prefix=None) if by_voice else task)
        return ClipLimits(self._max_s(task), task.speakers and not by_voice)

    def _max_s(self, task: Task) -> float:
        """The longest clip of which prompt, audio and expected answer fit the model's positions, in seconds."""
        if self._by_voice(task):
            return DRAFT_S
        mode = self._mode(task)
        rate = features.FRAME_RATE / self.model.config.encoder.subsampling
        audio_per_s = rate / self.model.config.downsample_rate
        positions = self.model.config.text.positions
        room = positions - len(self._prompt(task))
        room -= self.model.config.window_size // self.model.config.downsample_rate + token_budget(0.0)
        fits = room / (audio_per_s + mode.expected_per_s)
        if fits < SHORTEST_S:
            raise UnsupportedTaskError(
                f"the prompt leaves {max(0, room)} of {positions} positions, {max(0.0, fits):.1f} s of audio; at least "
                f"{SHORTEST_S:g} s are needed: shorten keywords, prompt or prefix"
            )
        if self._can_draft(task) and self.drafts is not None and self.drafts.mode == "trust":
            return DRAFT_S
        longest = mode.stretched_s if self.model.config.text.yarn else mode.longest_s
        return min(longest, math.floor(fits), self.model.config.longest_clip_s.get(mode.name, math.inf))

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        """One answer per request.

        `AudioError` for samples that are no numbers, `UnsupportedTaskError` for a task that `limits` refuses, and
        `RecognitionError` where the model leaves the numbers of its precision.
        """
        return _answer_by_task(requests, self._recognize)

    @torch.inference_mode()
    def _recognize(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        check_fork()
        check_language(self.name, task.language, self.languages)
        for clip in clips:
            checked_waveform(clip)
        by_voice = self._by_voice(task)
        # Without a prompt, too, what is asked must be in order.
        prompt = self._prompt(replace(task, speakers=False, prefix=None) if by_voice else task)
        # A language model makes up words for digital silence, so it is not asked about it.
        loud = [clip for clip in clips if not is_silent(clip.samples)]
        answers = (
            one
            for batch in batches(loud, self.batch_s)
            for one in (self._attributed(batch, task) if by_voice else self._answer(batch, prompt, task))
        )
        asked = {id(clip) for clip in loud}
        with memory_errors(clips):
            return [next(answers) if id(clip) in asked else Hypothesis("") for clip in clips]

    def _by_voice(self, task: Task) -> bool:
        """Whether speakers are told by how they sound: where the draft is the text, the model is asked nothing."""
        alone = task.name == "transcribe" and task.prompt is None
        trusts = self.drafts is not None and self.drafts.mode == "trust" and self.model.draft_head is not None
        return task.speakers and alone and trusts and self.model.voices is not None

    def _mode(self, task: Task) -> Budget:
        return SPEAKERS if task.speakers else WORDS if self._tags_words(task) else PLAIN

    def _tags_words(self, task: Task) -> bool:
        """Whether the model writes the times itself; elsewhere words are aligned with what the encoder heard."""
        config = self.model.config
        return task.words and not task.speakers and config.kind == "granite_speech_plus" and not config.trusts_draft

    def _prompt(self, task: Task) -> list[int]:
        """Ids of the prompt, with one id for the audio."""
        if task.name == "translate" and task.words:
            raise UnsupportedTaskError("word times of a translation: nobody said its words; ask for one or the other")
        plus = self.model.config.kind == "granite_speech_plus"
        request = PromptRequest(
            verb=task.name,
            language=task.language,
            target_language=task.target_language,
            punctuated=None if self.punctuate or plus else False,
            keywords=task.keywords,
            speakers=task.speakers,
            words=self._tags_words(task),
            prompt=task.prompt,
            prefix=task.prefix,
            most_keywords=self.template.most_keywords,
        )
        return prompts.encode(self.tokenizer, self.template.render(request))

    def _answer(self, clips: Sequence[Waveform], prompt: Sequence[int], task: Task) -> list[Hypothesis]:
        x, lengths = features.batch_features([levelled(clip) for clip in clips], "ar")  # [B, T, 160], [B]
        encoded = self._encoded(x.to(self.device, self.dtype), lengths.to(self.device))
        audio, counts = self.model.embed_audio(encoded)
        audio_id = self.model.config.audio_token_index
        asked = [prompts.with_audio(prompt, audio_id, count) for count in counts.tolist()]
        room = [self.model.config.text.positions - len(row) for row in asked]
        most = self._mode(task).most_per_s
        budgets = [max(0, min(token_budget(clip.duration, most), left)) for clip, left in zip(clips, room, strict=True)]
        drafts, sure = self._drafts(encoded, task)
        heard = Once(lambda: self._evidence(encoded, task))
        said = [self._said(heard, row) for row in range(len(clips))]
        seeds = [generate.clip_seed(clip.samples, self.seed) for clip in clips] if self.options.temperature else []
        generations, found = self._generate(asked, audio, drafts, sure, budgets, seeds, said)
        texts = [self.tokenizer.decode(one.ids).strip() for one in generations]
        loops = [one.stop == "loop" and self._is_drafted(task) for one in generations]
        texts = [heard()[row] if loop else text for row, (text, loop) in enumerate(zip(texts, loops, strict=True))]
        answers = [
            self._read(clip, restore_casing(text, task.keywords), one, draft, accepted, task)
            for clip, text, one, draft, accepted in zip(clips, texts, generations, drafts, found, strict=True)
        ]
        return self._timed(answers, encoded, task)

    def _encoded(self, x: Tensor, lengths: Tensor) -> EncoderOutput:
        encoded = self.model.encode(x, lengths)
        for row, length in zip(encoded.char_logits, encoded.lengths.tolist(), strict=True):
            check_numbers(row[:length], self.dtype)
        return encoded

    def _attributed(self, clips: Sequence[Waveform], task: Task) -> list[Hypothesis]:
        """The encoder's drafts, each word given to a voice; the words of a prefix keep their speakers."""
        assert self.model.voices is not None and self.model.draft_head is not None
        x, frames = features.batch_features([levelled(clip) for clip in clips], "ar")  # [B, T, 160], [B]
        x, lengths = x.to(self.device, self.dtype), frames.to(self.device)
        encoded = self._encoded(x, lengths)
        before = [(word, turn.speaker) for turn in tagged.parse(task.prefix or "").turns for word in turn.text.split()]
        said, given = [word for word, _ in before], [speaker for _, speaker in before]
        logits, windows = self.model.draft_head(encoded)
        heard = [restore_casing(text, task.keywords) for text in self._heard(logits, windows, task)]
        texts = [" ".join([*said, *text.split()[len(said) :]]) for text in heard]
        times = word_times(texts, *characters(encoded, self.model.config.encoder.subsampling))
        answers = []
        for text, words, track, row in zip(texts, times, self.model.voices.track(x, lengths), x, strict=True):
            one = Hypothesis(text)
            if words:
                labels, directions = cluster.attribute(words, track, track.frames, self.voices)
                one = cluster.told(words, cluster.named(labels, given), labels, directions)
                if is_narrow(row[: track.frames]):
                    one = replace(one, warnings=(NARROW,))
            answers.append(without(one, len(said)))
        return answers

    def _is_drafted(self, task: Task) -> bool:
        """Whether the encoder's own transcript can be an answer: plain text in the language that is spoken."""
        tags = task.speakers or self._tags_words(task)
        other = task.name != "transcribe" or tags or task.prompt is not None or task.prefix is not None
        return not other and self.model.draft_head is not None

    def _can_draft(self, task: Task) -> bool:
        """Whether the language model is shown the encoder's own transcript, or even not asked."""
        return self.drafts is not None and self._is_drafted(task)

    def _evidence(self, encoded: EncoderOutput, task: Task) -> list[str]:
        """What the encoder alone hears, whatever becomes of drafts: the texts of its token head, else its letters."""
        if self.model.draft_head is not None:
            logits, lengths = self.model.draft_head(encoded)
            return self._heard(logits, lengths, task)
        return [written(row) for row in ctc.greedy(encoded.char_logits, encoded.lengths, BLANK)]

    def _said(self, heard: Once, row: int) -> RepetitionOracle:
        return lambda unit: repetitions(tagged.strip_round(self.tokenizer.decode(unit)), heard()[row])

    def _drafts(self, encoded: EncoderOutput, task: Task) -> tuple[list[list[int]], list[bool]]:
        """The encoder's own transcripts as ids of answers, and whether each is sure enough to be taken unseen.

        None where `_can_draft` says so.
        """
        B = len(encoded.hidden)
        if not self._can_draft(task):
            return [[] for _ in range(B)], [False] * B
        assert self.model.draft_head is not None and self.drafts is not None
        logits, lengths = self.model.draft_head(encoded)
        texts = self._heard(logits, lengths, task)
        sure = speculative.trusted(logits, lengths, self.drafts).tolist()
        return [self.tokenizer.encode(text) for text in texts], [
            one and (bool(text) or self.drafts.mode == "trust") for one, text in zip(sure, texts, strict=True)
        ]

    def _heard(self, logits: Tensor, lengths: Tensor, task: Task) -> list[str]:
        """What the draft head's logits [B, W, rows] with lengths [B] say, with the keywords in mind."""
        boost, most = self.model.search_options.keyword_boost, self.template.most_keywords
        words = keyword_bias(self.tokenizer, task.keywords, boost, most)
        for row, length in zip(logits, lengths.tolist(), strict=True):
            check_numbers(row[:length], self.dtype)
        ids = self.model.draft(logits, lengths, words)
        return [self.tokenizer.decode(row).strip() for row in ids]

    def _generate(
        self,
        asked: Sequence[Sequence[int]],
        audio: Tensor,
        drafts: Sequence[Sequence[int]],
        sure: Sequence[bool],
        budgets: Sequence[int],
        seeds: Sequence[int],
        said: Sequence[RepetitionOracle],
    ) -> tuple[list[Generation], list[Acceptance | None]]:
        """Answers to prompts whose placeholders stand for audio [B, S, H], and what became of each draft."""
        taken = [Generation(tuple(draft), "end", ()) if one else None for draft, one in zip(drafts, sure, strict=True)]
        rows = [row for row, one in enumerate(taken) if one is None]
        found: list[Acceptance | None] = [
            Acceptance(len(draft), len(draft), "ctc") if one else None for draft, one in zip(drafts, sure, strict=True)
        ]
        if rows:
            written, checked = self._write(
                [asked[row] for row in rows],
                audio[rows],
                [list(drafts[row][: budgets[row]]) for row in rows],
                [budgets[row] for row in rows],
                [seeds[row] for row in rows] if seeds else (),
                [said[row] for row in rows],
            )
            for row, one, acceptance in zip(rows, written, checked, strict=True):
                taken[row], found[row] = one, acceptance
        return [one for one in taken if one is not None], found

    def _write(
        self,
        asked: Sequence[Sequence[int]],
        audio: Tensor,
        drafts: Sequence[Sequence[int]],
        budgets: Sequence[int],
        seeds: Sequence[int],
        said: Sequence[RepetitionOracle],
    ) -> tuple[list[Generation], Sequence[Acceptance | None]]:
        """Prefill prompts and drafts together, then go on behind what is accepted of each draft."""
        options = self.options
        embeddings, sizes = self.model.embed([[*row, *draft] for row, draft in zip(asked, drafts, strict=True)], audio)
        cache = self.model.cache(len(asked), embeddings.shape[1] + max(budgets) + 1)
        longest = max(map(len, drafts))
        logits = self.model.prefill(embeddings, sizes, cache, last=longest + 1)  # [B, longest + 1, V]
        check_numbers(logits, self.dtype)

        def step(ids: Tensor, rows: Tensor | None) -> Tensor:
            logits = self.model.step(ids, cache, rows)
            check_numbers(logits, self.dtype)
            return logits

        if not longest:
            return generate.generate(logits[:, -1], step, budgets, options, seeds, said), [None] * len(asked)
        assert self.drafts is not None
        own = [row[longest - len(draft) :] for row, draft in zip(logits, drafts, strict=True)]
        verdicts = speculative.verify(own, drafts, budgets, self.drafts, options, said)
        kept = [len(row) + len(verdict.ids) for row, verdict in zip(asked, verdicts, strict=True)]
        cache.lengths = torch.tensor(kept, device=cache.lengths.device)
        texts = speculative.rethink(verdicts, step, budgets, options, said)
        return texts, [verdict.acceptance if draft else None for verdict, draft in zip(verdicts, drafts, strict=True)]

    def _read(
        self,
        clip: Waveform,
        text: str,
        generation: Generation,
        draft: Sequence[int],
        acceptance: Acceptance | None,
        task: Task,
    ) -> Hypothesis:
        """What an answer says, its tags read; times that only the encoder knows are not in it yet."""
        drafted = self.tokenizer.decode(draft).strip() if draft else None
        notices: list[Notice] = []
        if generation.stop == "limit":
            message = f"the answer was cut off after {len(generation.ids)} tokens; text is missing"
            notices.append(Notice("truncated", message))
        if generation.stop == "loop" and self._is_drafted(task):
            notices.append(Notice("loop", "the model repeated itself; the encoder's draft is given instead"))
        elif generation.stop == "loop":
            notices.append(Notice("loop", "the model repeated itself; the repetition was cut off, check the text"))
        sure = generation.log_probs
        heard = Hypothesis(
            text=text,
            draft=drafted,
            confidence=round(math.exp(sum(sure) / len(sure)), 3) if sure else None,
            warnings=tuple(notices),
            accepted=round(acceptance.accepted / max(1, acceptance.drafted), 3) if acceptance else None,
        )
        if task.speakers:
            return self._with_turns(heard, text, task)
        if self._tags_words(task):
            told = tagged.parse(" ".join(filter(None, (task.prefix, text))), duration_s=clip.duration)
            skipped = len(tagged.strip(task.prefix or "").split())
            words = told.words[skipped:]
            return replace(
                heard,
                text=" ".join(word.text for word in words) if words else tagged.strip(text),
                words=words,
                tagged=text,
                warnings=heard.warnings + told.warnings,
            )
        return heard

    def _with_turns(self, heard: Hypothesis, text: str, task: Task) -> Hypothesis:
        """The hypothesis with the turns of its tagged text; all that the answer and its prefix say, in order."""
        before, own = tagged.parse(task.prefix or "").turns, tagged.parse(text).turns
        if before and before[-1].speaker and text and not (own and own[0].speaker):
            # Whoever spoke last goes on; said here, because the next window sees this answer alone.
            text = f"[Speaker {before[-1].speaker}]: {text}"
        told = tagged.parse(" ".join(filter(None, (task.prefix, text))))
        notices = heard.warnings + told.warnings
        if told.text and not any(turn.speaker for turn in told.turns):
            notices += (tagged.NO_SPEAKER,)
        return replace(heard, text=told.text, turns=told.turns, tagged=text, warnings=notices)

    def _timed(self, answers: list[Hypothesis], encoded: EncoderOutput, task: Task) -> list[Hypothesis]:
        """Answers with the times that were asked for, where the model has not written them itself, or will be."""
        if self._tags_words(task) or task.name == "translate":  # nobody said the words of a translation
            return answers
        before = "" if task.speakers else tagged.strip(task.prefix or "")  # turns begin with those of the prefix
        subsampling = self.model.config.encoder.subsampling
        if not (task.speakers or task.words):
            later = timings([one.text for one in answers], encoded, subsampling, before)
            return [replace(one, timing=timing) for one, timing in zip(answers, later, strict=True)]
        texts = [f"{before} {one.text}" for one in answers]
        times = scored_word_times(texts, *characters(encoded, subsampling))
        skipped = len(tagged.strip(task.prefix or "").split())
        timed = []
        for one, (words, score) in zip(answers, times, strict=True):
            one = replace(one, warnings=one.warnings + timing_notices(one.text, score))
            turns, words = timed_turns(one.turns, words) if one.turns else ([], words)
            timed.append(without(replace(one, turns=tuple(turns), words=tuple(words)), skipped))
        return timed


def _answer_by_task(
    requests: Sequence[Request], answer: Callable[[Sequence[Waveform], Task], list[Hypothesis]]
) -> list[Hypothesis | RedlineError]:
    """Requests answered task by task; when clips fail together each is tried alone, so a bad one harms only itself."""
    answers: dict[int, Hypothesis | RedlineError] = {}
    groups: dict[Task, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.task, []).append(place)
    for task, places in groups.items():
        try:
            answers |= dict(zip(places, answer([requests[place].clip for place in places], task), strict=True))
        except RedlineError as error:
            for place in places:
                answers[place] = error if len(places) == 1 else _answer_by_task([requests[place]], answer)[0]
    return [answers[place] for place in range(len(requests))]


def batches(clips: Sequence[Waveform], batch_s: float) -> Iterator[list[Waveform]]:
    """Neighbours as long as a batch may be."""
    batch: list[Waveform] = []
    for clip in clips:
        longest = max(len(one.samples) for one in [*batch, clip])
        if batch and (len(batch) + 1) * longest > batch_s * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def without(heard: Hypothesis, count: int) -> Hypothesis:
    """The hypothesis without its first words, which a prefix gave."""
    if not count:
        return heard
    turns, left = [], count
    for turn in heard.turns:
        said = turn.text.split()
        if left < len(said):
            first = heard.words[sum(len(one.text.split()) for one in heard.turns[: heard.turns.index(turn)]) + left]
            turns.append(replace(turn, start=first.start, text=" ".join(said[left:])))
        left = max(0, left - len(said))
    words = heard.words[count:]
    return replace(heard, text=" ".join(word.text for word in words), words=words, turns=tuple(turns))


class Once:
    """Texts that are made when they are first asked for: hardly a clip makes a model go round in circles."""

    def __init__(self, make: Callable[[], list[str]]) -> None:
        self.make = make
        self.made: list[str] | None = None

    def __call__(self) -> list[str]:
        if self.made is None:
            self.made = self.make()
        return self.made
