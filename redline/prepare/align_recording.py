"""Forced alignment of a known text: a recording and what is said in it -> the text with word times.

Where sound and text part, both are kept: words that are not heard stand between their neighbours with a confidence of
0, and speech that the text does not have is told, as notices of the codes "not-said" and "not-written".
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline import audio, files, languages
from redline.audio import AudioOptions, AudioSource
from redline.decoding.word_times import judged
from redline.engine.recordings import Interrupted
from redline.errors import DataError, RedlineError
from redline.load import load_model
from redline.longform.session import Session, SessionOptions
from redline.longform.windows import WindowOptions
from redline.models.ctc import CtcModel
from redline.normalize import letters_of
from redline.prepare.align_transcript import (
    BATCH_S,
    AlignedWord,
    Posteriors,
    TranscriptAlignment,
    align_transcript,
    joined_posteriors,
)
from redline.prepare.segment_transcripts import ALIGNMENT_WINDOW_S, transcript_words
from redline.prepare.transcripts import Line, TranscriptText, read_transcript
from redline.recognizer.ctc import CtcRecognizer
from redline.transcribe_options import Progress
from redline.transcriber import Transcriber
from redline.types import (
    SAMPLE_RATE,
    ClipLimits,
    Notice,
    Request,
    Segment,
    Task,
    Transcript,
    Turn,
    Word,
    joined_turns,
    share,
)

NOT_SAID, NOT_WRITTEN, MISFIT = "not-said", "not-written", "misfit"
MOST_REGRET = 7.0  # nats a letter of a word of three letters and more that is heard
FOREIGN_LETTERS = 6  # so many letters between two words are speech that the text does not have
FITTING = 0.1  # confidence of a word that fits well: 92 % of a text's own words, 40 % of another's
LEAST_SHARE = 0.6  # a text of which a smaller share of words fits is said to be another recording's
_SENTENCE = re.compile(r"(?<=[.?!…])[\"'”’)\]]*\s+")
_USUAL = AudioOptions()
_QUOTED = 80  # characters of a text in a notice


@dataclass(frozen=True)
class _Placed:
    """A word as it is written, and where it is heard: None where it is not, or where nobody knows how it is said."""

    written: str
    spoken: str
    place: AlignedWord | None


def align_recording(
    source: AudioSource,
    text: str | Path | Sequence[Line],
    model: str | Path | Transcriber = "tiny",
    *,
    language: str | None = None,
    audio_options: AudioOptions = _USUAL,
    progress: Progress | None = None,
) -> Transcript:
    """The transcript of a recording whose text is known, with the time and confidence of every word.

    `text` is a file (.txt, or captions in .srt or .vtt, whose times are not believed) or the lines of one; each line,
    or sentence of one, is a segment. `model` is any checkpoint with a character head, or one that was loaded with
    `effort` "draft". Raises `DataError` where the text is not that of the recording, and `AudioError`.
    """
    transcriber = model if isinstance(model, Transcriber) else load_model(model, effort="draft")
    recognizer = transcriber.recognizer
    if not isinstance(recognizer, CtcRecognizer) or isinstance(recognizer.head, CtcModel):
        raise DataError(
            f"{transcriber.name}: words are aligned by the character head of an encoder; take the name of a model that "
            'has one, such as "tiny", or load it with effort="draft"'
        )
    code = languages.code(language, transcriber.languages) or transcriber.languages[0]
    recognizer.check_language(code)
    letters = letters_of(code)
    read = read_transcript(Path(text)) if isinstance(text, str | Path) else TranscriptText(tuple(text))
    lines = read.lines
    pieces = [piece for line in lines for piece in _sentences(line)]
    words = [list(transcript_words([piece], letters)) for piece in pieces]
    if not any(words):
        raise DataError(f"{text if isinstance(text, str | Path) else 'the text'}: has no words; give what is said")
    with audio.open_blocks(source, options=audio_options) as reader:
        session = Session(
            ClipLimits(ALIGNMENT_WINDOW_S), Task(), SessionOptions(window=WindowOptions(join_s=2.0)), source=reader.name
        )
        posteriors = _posteriors(recognizer, reader, session, progress)
    alignment = align_transcript([word.spoken for own in words for word in own], posteriors, may_be_unsaid=True)
    if not any(alignment.words):
        raise DataError(
            f"{reader.name}: no three words of the text are recognised in a row anywhere in the recording; give the "
            "text of this recording, and its language"
        )
    places = iter(alignment.words)
    placed = [[_Placed(word.written, word.spoken, _located(next(places))) for word in own] for own in words]
    duration_s = session.fed_s
    segments = tuple(_segments(pieces, placed, duration_s))
    turns = (Turn(each.speaker, each.start, each.end, each.text) for each in segments if each.speaker is not None)
    flat = [word for own in placed for word in own]
    timed = [word for segment in segments for word in segment.words]
    notices = [*_unspoken(flat, timed), *_unwritten(flat, alignment, posteriors)]
    notices.sort(key=lambda notice: notice.start or 0.0)
    fits = [(word.confidence or 0.0) >= FITTING for word, own in zip(timed, flat, strict=True) if own.spoken]
    fitting = sum(fits)
    if fitting < LEAST_SHARE * len(fits):
        message = f"only {fitting} of {len(fits)} words of the text fit the sound; is it the text of this recording?"
        notices.insert(0, Notice(MISFIT, message, 0.0, duration_s))
    return Transcript(
        " ".join(segment.text for segment in segments),
        segments,
        language=code,
        duration=duration_s,
        model=transcriber.name,
        turns=joined_turns(turns),
        warnings=(*(Notice("text", note) for note in read.notes), *session.notices(), *notices),
    )


def _sentences(line: Line) -> Iterator[Line]:
    """A line, cut behind its sentences."""
    start, text = 0, line.text
    for end in (*(match.end() for match in _SENTENCE.finditer(text)), len(text)):
        if piece := text[start:end].strip():
            yield replace(line, text=piece)
        start = end


@torch.inference_mode()
def _posteriors(
    recognizer: CtcRecognizer, reader: audio.BlockReader, session: Session, progress: Progress | None
) -> Posteriors:
    """Blocks of a recording -> the posteriors of its speech; no more sound than a batch is held."""
    rows: list[Tensor] = []
    waiting: list[Request] = []

    def encode(least_s: float) -> None:
        waiting.extend(session.ready())
        while waiting and sum(request.clip.duration for request in waiting) >= least_s:
            encoded = recognizer.encode([recognizer.measure(request.clip, recognizer.rule) for request in waiting])
            recognizer.check_numbers(encoded)
            log_probs = encoded.char_logits.float().log_softmax(-1).cpu().half()
            rows.extend(row[:length].clone() for row, length in zip(log_probs, encoded.lengths.tolist(), strict=True))
            waiting.clear()
            if progress is not None:
                progress(session.fed_s, reader.duration_s or session.fed_s)

    for block in reader:
        session.feed(block)
        encode(BATCH_S)
    session.close(reader.warnings)
    encode(0.0)
    config = recognizer.model.config
    return joined_posteriors(rows, session.windows, config.output_dim, config.subsampling)


def _located(place: AlignedWord | None) -> AlignedWord | None:
    """A place at which a word fits the sound."""
    if place is not None and place.letters >= 3 and place.regret > MOST_REGRET * place.letters:
        return None
    return place


def _segments(pieces: Sequence[Line], placed: Sequence[Sequence[_Placed]], duration_s: float) -> Iterator[Segment]:
    """One segment a piece; one without words has no time of its own."""
    timed = iter(judged(list(_word_times([word for own in placed for word in own], duration_s))))
    now = 0.0
    for number, (piece, own) in enumerate(zip(pieces, placed, strict=True)):
        words = tuple(next(timed) for _ in own)
        start, end = (words[0].start, words[-1].end) if words else (now, now)
        confidences = [word.confidence for word in words if word.confidence is not None]
        confidence = round(sum(confidences) / len(confidences), 3) if confidences else None
        yield Segment(number, start, end, piece.text, confidence=confidence, speaker=piece.speaker or None, words=words)
        now = end


def _word_times(words: Iterable[_Placed], duration_s: float) -> Iterator[Word]:
    """The words with their times; those without a place share the time between their neighbours."""
    now, waiting = 0.0, list[_Placed]()
    for word in words:
        if word.place is None:
            waiting.append(word)
            continue
        start, end = (round(sample / SAMPLE_RATE, 3) for sample in (word.place.start, word.place.end))
        yield from _shared(waiting, now, start)
        confidence = round(math.exp(-word.place.regret / max(1, word.place.letters)), 3)
        yield Word(start, end, word.written, confidence)
        now, waiting = end, []
    yield from _shared(waiting, now, max(now, duration_s))


def _shared(words: Sequence[_Placed], start: float, end: float) -> Iterator[Word]:
    for word, timed in zip(words, share([word.written for word in words], start, end), strict=True):
        yield replace(timed, confidence=0.0 if word.spoken else None)


def _unspoken(words: Sequence[_Placed], timed: Sequence[Word]) -> Iterator[Notice]:
    """Runs of words that are not heard."""
    pairs = zip(words, timed, strict=True)
    for is_missing, run in groupby(pairs, key=lambda pair: pair[0].place is None and bool(pair[0].spoken)):
        own = [word for _, word in run]
        if is_missing:
            text = _quoted(word.text for word in own)
            what = "1 word of the text is" if len(own) == 1 else f"{len(own)} words of the text are"
            yield Notice(NOT_SAID, f"{what} not heard: {text}", own[0].start, own[-1].end)


def _unwritten(words: Sequence[_Placed], alignment: TranscriptAlignment, posteriors: Posteriors) -> Iterator[Notice]:
    """Speech before, between and behind words; where a number in digits stands it is said in words."""
    gaps: list[tuple[int, int]] = []
    now, is_known = 0, True
    for word in words:
        if word.place is None:
            is_known = is_known and bool(word.spoken)
            continue
        if is_known:
            gaps.append((now, word.place.start))
        now, is_known = word.place.end, True
    if is_known:
        gaps.append((now, posteriors.spans[-1].end))
    for start, end in gaps:
        if alignment.letters_between(start, end) >= FOREIGN_LETTERS:
            own = [word for word in alignment.decoded if start <= word.start and word.end <= end]
            if own:
                text, times = _quoted(word.text for word in own), (own[0].start, own[-1].end)
                first, last = (round(sample / SAMPLE_RATE, 3) for sample in times)
                yield Notice(NOT_WRITTEN, f"speech that the text does not have, about: {text}", first, last)


def _quoted(words: Iterable[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


class Aligner:
    """Recordings whose texts are known, one after the other, in the manner of `Transcriber.transcribe_each`."""

    def __init__(self, transcriber: Transcriber, texts: Mapping[str, Path], language: str | None = None) -> None:
        """The text of each recording, by the path of that; `transcriber` was loaded with `effort` "draft"."""
        self.transcriber, self.texts, self.language = transcriber, texts, language
        self.misfits = 0
        """Recordings that most of their text does not fit."""

    def transcribe_each(
        self,
        sources: Iterable[str],
        *,
        audio_options: AudioOptions = _USUAL,
        progress: Progress | None = None,
    ) -> Generator[Transcript | RedlineError]:
        """A transcript, or the error in its place, for each recording in order."""
        try:
            for source in sources:
                options: dict[str, Any] = {"audio_options": audio_options, "progress": progress}
                try:
                    result = align_recording(
                        source, self.texts[source], self.transcriber, language=self.language, **options
                    )
                except (RedlineError, OSError) as error:
                    yield error if isinstance(error, RedlineError) else DataError(files.describe_os_error(error))
                    continue
                self.misfits += any(notice.code == MISFIT for notice in result.warnings)
                yield result
        except KeyboardInterrupt:
            raise Interrupted([]) from None
