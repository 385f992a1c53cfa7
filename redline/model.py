"""`load_model` and `Model`: recordings in, transcripts out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch

from redline import audio, itn, languages
from redline import threads as computing
from redline.audio import AudioOptions
from redline.audio.check import checked_waveform
from redline.checkpoints import ar, nar, vocabulary
from redline.checkpoints.folder import resolve
from redline.decoding.generate import GenerateOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.errors import RedlineError
from redline.longform import pipeline
from redline.longform.pipeline import Interrupted, PipelineOptions
from redline.longform.windows import WindowOptions
from redline.prompts import PromptTemplate, keyword_list
from redline.recognizer import ArRecognizer, NarRecognizer
from redline.signatures import checked
from redline.types import Notice, Recognizer, Segment, Task, Transcript, Waveform

Source = audio.Source | Waveform
TaskName = Literal["transcribe", "translate"]
Drafts = Literal["own", "exact", "fast", "trust", "none"]
R = TypeVar("R")
Progress = Callable[[float, float], None]
"""Gets the seconds of audio done and the seconds read so far."""

# An editor reads better with more around it: only long pauses end a window.
_EDITING = PipelineOptions(window=WindowOptions(join_s=2.0))
# Windows as long as the model can take; the recognizer knows how long that is for each task.
_ANSWERING = PipelineOptions(window=WindowOptions(max_s=600.0, join_s=2.0))
_TOGETHER_S = 600.0  # recordings are read until this much audio is there, then share batches
_TOGETHER = 64


@checked
def load_model(
    name: str | Path = "tiny",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    draft_lm: str | Path = "own",
    punctuate: bool = True,
    beams: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    drafts: Drafts = "own",
    threads: int | None = None,
) -> Model:
    """Load a bundled model, a folder or a hub id.

    `device` is "cpu", "cuda", "mps" or, by default, the fastest that is there ("auto"); `dtype` is by default float32,
    and bfloat16 on CUDA. `draft_lm` is the n-gram model that reads along while the draft is written: the checkpoint's
    "own" if it has one, "none" for a greedy draft, or a `draft_lm.safetensors` of your own. With `punctuate` words get
    capitals and marks, where the model has learned them. For models that answer prompts `beams`, `temperature` and
    `seed` say how tokens are chosen (what is drawn for a clip depends on the seed and its sound, not on its place
    among others), and `drafts` how a draft of the encoder is verified: "exact" (the text is that of
    greedy decoding), "fast", "trust" (the draft is the text), "none", or as the checkpoint's "own" config says: trust
    or exact. `threads` compute, for the whole process; by default PyTorch's number, but never more than this process
    may use. Raises `CheckpointError` when it is not a checkpoint this package knows.
    """
    computing.check_fork()
    computing.use(threads)
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    folder = resolve(name, revision)
    if ar.is_ar(folder):
        answers, config, _ = ar.load(folder, device=place, dtype=precision, draft_lm=draft_lm)
        if drafts in ("fast", "trust") and answers.draft_head is None:
            raise RedlineError(
                f"{name}: drafts is {drafts!r}, but it has no {ar.DRAFT_HEAD} to write them; leave it out"
            )
        if drafts not in ("own", "none") and (beams > 1 or temperature > 0):
            raise RedlineError(
                f"{name}: drafts is {drafts!r}, beams {beams} and temperature {temperature:g}; drafts are for greedy "
                "decoding: leave one or the other out"
            )
        if drafts == "own":
            drafts = "trust" if config.trusts_draft else "exact"
        return Model(
            ArRecognizer(
                answers,
                vocabulary.load(folder, config),
                PromptTemplate.from_folder(folder, config.kind, config.names_language),
                name=str(name),
                options=GenerateOptions(
                    config.text.eos_token_id,
                    other_eos_ids=config.text.other_eos_token_ids,
                    beams=beams,
                    temperature=temperature,
                    suppress=(config.audio_token_index,),
                ),
                drafts=None if drafts == "none" else SpeculativeOptions(drafts),
                punctuate=punctuate,
                seed=seed,
            ),
            _ANSWERING,
        )
    ignored = ((beams, 1, "beams"), (temperature, 0.0, "temperature"), (seed, 0, "seed"), (drafts, "own", "drafts"))
    for given, default, what in ignored:
        if given != default:
            raise RedlineError(f"{name}: {what} is {given}, but this model edits all places at once; leave it out")
    model, editing, folder = nar.load(folder, device=place, dtype=precision, draft_lm=draft_lm)
    tokenizer = vocabulary.load(folder, editing)
    return Model(NarRecognizer(model, tokenizer, name=str(name), punctuate=punctuate), _EDITING)


def pick_device(device: str | None) -> torch.device:
    """The device to compute on; raises `RedlineError` when the one asked for is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    allowed = ", ".join(["auto", *(name for name, there in present.items() if there)])
    if device is None or device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if present[name]))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise RedlineError(f"no device is called {device!r}; allowed here are {allowed}") from None
    if not present.get(place.type, False):
        raise RedlineError(f"device {device!r} is not available to PyTorch here; allowed are {allowed}")
    return place


def pick_dtype(dtype: str | torch.dtype | None, place: torch.device) -> torch.dtype:
    """The precision to compute in; raises `RedlineError` for a name that is none, and for float16 on a CPU.

    There PyTorch sums float16 in an order that depends on the batch, so a text would depend on its neighbours.
    """
    if dtype is None:
        return torch.bfloat16 if place.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if place.type != "cpu":
        known["float16"] = torch.float16
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in known:
        raise RedlineError(f"dtype is {dtype!r}; allowed on {place.type} are {', '.join(known)}")
    return known[dtype]


class Model:
    """A recognizer with everything around it that makes transcripts of recordings."""

    def __init__(self, recognizer: Recognizer, options: PipelineOptions = PipelineOptions()) -> None:  # noqa: B008
        """`options` say how recordings are cut and batched; any `Recognizer` will do."""
        self.recognizer = recognizer
        self.options = options

    @property
    def name(self) -> str:
        """What was loaded."""
        return self.recognizer.name

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows."""
        return self.recognizer.languages

    @overload
    def transcribe(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        task: TaskName = "transcribe",
        target_language: str | None = None,
        words: bool = False,
        speakers: bool = False,
        keywords: str | Sequence[str] = (),
        prompt: str | None = None,
        prefix: str | None = None,
        vad: bool = True,
        digits: bool = False,
        errors: Literal["raise", "warn"] = "raise",
        audio_options: AudioOptions = ...,
        progress: Progress | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        source: list[Any] | tuple[Any, ...],
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        task: TaskName = "transcribe",
        target_language: str | None = None,
        words: bool = False,
        speakers: bool = False,
        keywords: str | Sequence[str] = (),
        prompt: str | None = None,
        prefix: str | None = None,
        vad: bool = True,
        digits: bool = False,
        errors: Literal["raise", "warn"] = "raise",
        audio_options: AudioOptions = ...,
        progress: Progress | None = None,
    ) -> list[Transcript]: ...

    @checked
    def transcribe(
        self,
        source: Source | list[Any] | tuple[Any, ...],
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        task: TaskName = "transcribe",
        target_language: str | None = None,
        words: bool = False,
        speakers: bool = False,
        keywords: str | Sequence[str] = (),
        prompt: str | None = None,
        prefix: str | None = None,
        vad: bool = True,
        digits: bool = False,
        errors: Literal["raise", "warn"] = "raise",
        audio_options: AudioOptions = AudioOptions(),  # noqa: B008
        progress: Progress | None = None,
    ) -> Transcript | list[Transcript]:
        """The transcript of a recording of any length, or of each in a list, batched together.

        A recording is a path, bytes, a binary file, or a numpy array with its `sample_rate`. With `vad=False` silence
        and music go to the model too; with `digits=True` spelled numbers become digits. `words` asks when each word
        is said, `speakers` who speaks, `keywords` are names and terms to expect (a list, or a text with commas),
        `prompt` is an instruction in place of the model's own, and `prefix` what the answer begins with: the beginning
        of the recording, already written down. With task "translate" the text is in the `target_language`. A recording
        that cannot be read or transcribed raises its `RedlineError`; with `errors="warn"` it gives an empty transcript
        whose one warning has the code "error", so that in a list a bad input harms only itself. Raises
        `UnsupportedTaskError` when the model cannot do the task or the language.
        """
        if errors not in ("raise", "warn"):
            raise ValueError(f"errors is {errors!r}; allowed are 'raise' and 'warn'")
        sources = source if isinstance(source, (list, tuple)) else [source]
        results: list[Transcript] = []
        for result in self.transcribe_each(
            sources,
            sample_rate=sample_rate,
            language=language,
            task=task,
            target_language=target_language,
            words=words,
            speakers=speakers,
            keywords=keywords,
            prompt=prompt,
            prefix=prefix,
            vad=vad,
            digits=digits,
            audio_options=audio_options,
            progress=progress,
        ):
            if isinstance(result, Transcript):
                results.append(result)
            elif errors == "raise":
                raise result
            else:
                notice = Notice("error", str(result))
                warnings.warn(notice.message, stacklevel=3)
                known = languages.code(language, self.languages)
                results.append(Transcript("", language=known, model=self.name, task=task, warnings=(notice,)))
        return results if sources is source else results[0]

    @checked
    def transcribe_each(
        self,
        sources: Iterable[Any],
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        task: TaskName = "transcribe",
        target_language: str | None = None,
        words: bool = False,
        speakers: bool = False,
        keywords: str | Sequence[str] = (),
        prompt: str | None = None,
        prefix: str | None = None,
        vad: bool = True,
        digits: bool = False,
        audio_options: AudioOptions = AudioOptions(),  # noqa: B008
        progress: Progress | None = None,
    ) -> Generator[Transcript | RedlineError]:
        """A transcript, or the error in its place, for each recording in order, as they are ready.

        Recordings are read and batched some ten minutes of audio at a time, so memory does not grow with their number.
        A single recording is a list of one. Ctrl-C raises `Interrupted`, a `KeyboardInterrupt` that holds what is done
        of those not yielded.
        """
        if isinstance(sources, str | Path | bytes | np.ndarray | Waveform) or hasattr(sources, "read"):
            sources = [sources]  # their items are letters, numbers or lines, never recordings
        job = self._task(Task(task, language, target_language, words, speakers, keyword_list(keywords), prompt, prefix))
        options = self._options(vad)
        if digits:
            itn.inverse_normalize("", job.language or "en")  # a missing package is told before the work, not after

        def finished(one: R) -> R | Transcript:
            return itn.with_itn(one, job.language) if digits and isinstance(one, Transcript) else one

        heard_s = known = 0.0
        for group in self._groups(sources, sample_rate, audio_options):
            waves = [one for one in group if isinstance(one, Waveform)]
            before, known = heard_s, known + sum(wave.duration for wave in waves)

            def report(done: float, before: float = before, known: float = known) -> None:
                if progress is not None:
                    progress(before + done, known)

            report(0.0)
            try:
                transcripts = iter(pipeline.transcribe_many(self.recognizer, waves, job, options, report))
            except Interrupted as stop:
                done = iter(stop.results)
                results = [next(done) if isinstance(one, Waveform) else one for one in group]
                raise Interrupted([finished(one) for one in results]) from None
            heard_s = known
            report(heard_s - before)
            ready: list[Transcript | RedlineError] = [
                finished(next(transcripts) if isinstance(one, Waveform) else one) for one in group
            ]
            for number, result in enumerate(ready):
                try:
                    yield result
                except KeyboardInterrupt:  # thrown in by who takes them
                    raise Interrupted(ready[number + 1 :]) from None

    @checked
    def stream(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        language: str | None = None,
        task: TaskName = "transcribe",
        target_language: str | None = None,
        words: bool = False,
        speakers: bool = False,
        keywords: str | Sequence[str] = (),
        prompt: str | None = None,
        prefix: str | None = None,
        vad: bool = True,
        digits: bool = False,
        audio_options: AudioOptions = AudioOptions(),  # noqa: B008
    ) -> Iterator[Segment]:
        """The segments of one recording in time order, each as soon as it is ready; notices become Python warnings."""
        job = self._task(Task(task, language, target_language, words, speakers, keyword_list(keywords), prompt, prefix))
        wave = _read(source, sample_rate, audio_options)
        segments = pipeline.stream(self.recognizer, wave, job, self._options(vad))
        if not digits:
            return segments
        spoken = job.language or "en"
        itn.inverse_normalize("", spoken)
        return (itn.segment_with_itn(segment, spoken) for segment in segments)

    def _task(self, task: Task) -> Task:
        language = languages.code(task.language, self.languages)
        if language is None and len(self.languages) == 1:
            (language,) = self.languages
        task = replace(task, language=language, target_language=languages.code(task.target_language))
        self.recognizer.limits(task)  # asks whether it can, and whether that leaves room for audio
        return task

    def _options(self, vad: bool) -> PipelineOptions:
        return self.options if vad else replace(self.options, vad=None)

    def _groups(
        self, sources: Iterable[Any], sample_rate: int | None, options: AudioOptions
    ) -> Iterator[list[Waveform | RedlineError]]:
        """Recordings, or the errors in their place, as many as are worth batching together."""
        group: list[Waveform | RedlineError] = []
        seconds = 0.0
        for source in sources:
            try:
                wave = _read(source, sample_rate, options)
            except RedlineError as error:
                group.append(error)
            else:
                group.append(wave)
                seconds += wave.duration
            if seconds >= _TOGETHER_S or len(group) >= _TOGETHER:
                yield group
                group, seconds = [], 0.0
        if group:
            yield group


def _read(source: Source, sample_rate: int | None, options: AudioOptions) -> Waveform:
    if isinstance(source, Waveform):
        return checked_waveform(source)
    return audio.load(source, sample_rate=sample_rate, options=options)
