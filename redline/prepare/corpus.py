"""Recordings with their transcripts -> the rows of a manifest, those that were dropped, and what a user should know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redline import audio, files
from redline.audio.containers import SUFFIXES
from redline.errors import DataError
from redline.models.nar import NarModel
from redline.prepare.segment_transcripts import (
    SegmentationOptions,
    SegmentedTranscript,
    segment_transcript,
    transcript_words,
)
from redline.prepare.transcripts import read_transcript

TRANSCRIPT_SUFFIXES = (".srt", ".vtt", ".txt")
LEAST_FITTING = 0.5  # a text of which a smaller share of words is kept is said not to fit
LEAST_ANCHORED = 0.03  # below is the text of another recording: a weak model finds 0.2 of the words, chance 0.01
LATE_S = 1.0  # captions that are off by less are not reported


def recordings_with_texts(source: Path, text: Path | None) -> list[tuple[Path, Path]]:
    """Recordings and what belongs to each; raises `DataError` when there are none."""
    if source.is_dir():
        if text is not None:
            raise DataError(
                "--text belongs to a single recording; in a folder each recording has its own text beside it"
            )
        recordings = [file for file in files.files_under(source) if file.suffix.lower() in SUFFIXES]
        pairs = [(recording, beside) for recording in recordings if (beside := _beside(recording)) is not None]
        if not pairs:
            raise DataError(
                f"{source}: {len(recordings)} recordings, none with a text beside it; "
                "talk.mp3 needs talk.srt, talk.vtt or talk.txt"
            )
        return pairs
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    beside = text or _beside(source)
    if beside is None or not beside.is_file():
        raise DataError(f"{beside or source}: no text; name a transcript or captions with --text")
    if beside.suffix.lower() not in TRANSCRIPT_SUFFIXES:
        raise DataError(f"{beside}: known texts are {', '.join(TRANSCRIPT_SUFFIXES)}")
    return [(source, beside)]


def _beside(recording: Path) -> Path | None:
    texts = (recording.with_suffix(suffix) for suffix in TRANSCRIPT_SUFFIXES)
    return next((file for file in texts if file.is_file()), None)


@dataclass
class PreparedCorpus:
    """What became of all recordings so far, with the model that aligns them."""

    model: NarModel
    language: str
    options: SegmentationOptions
    recordings: int = 0  # that are done
    kept: list[dict[str, Any]] = field(default_factory=list)  # rows of the manifest
    dropped: list[dict[str, Any]] = field(default_factory=list)  # rows that do not fit their sound, with the reason
    words: int = 0  # of all texts
    kept_words: int = 0
    speakers: Counter[str] = field(default_factory=Counter)  # what was taken for speakers, with the number of turns
    notes: list[str] = field(default_factory=list)  # what was odd about a recording or a text, each with its file
    failures: list[str] = field(default_factory=list)  # texts of which less than half fits, with what to try

    def add(self, recording: Path, text: Path, progress: Callable[..., None]) -> None:
        """Segment one recording by its text; `progress` gets the seconds by which to `advance`, of a `total`.

        Raises `AudioError`, `DataError` or `OSError` for a recording or text that cannot be read.
        """
        wave, material = audio.load(recording), read_transcript(text)
        self.notes += [f"{recording}: {notice.message}" for notice in wave.warnings]
        self.notes += [f"{text}: {note}" for note in material.notes]
        self.speakers.update(dict(material.speakers))
        words = list(transcript_words(material.lines, self.options.letters))
        result = segment_transcript(
            self.model, wave, words, self.options, lambda seconds: progress(advance=seconds, total=wave.duration)
        )
        self.words += result.num_words
        self.kept_words += result.kept
        if abs(result.late_s) >= LATE_S:
            way = "late" if result.late_s > 0 else "early"
            self.notes.append(f"{text}: {abs(result.late_s):.1f} s {way}; placed by its words")
        if not result.num_words:
            self.failures.append(f"{text}: no words in it")
        elif result.kept < LEAST_FITTING * result.num_words:
            self.failures.append(_unfitting(recording, text, result))
        about = {"audio": str(recording.resolve()), "language": self.language, "source": recording.stem}
        for row in result.rows:
            rows = self.dropped if row.dropped else self.kept
            rows.append(about | row.to_dict())
        self.recordings += 1


def _unfitting(recording: Path, text: Path, result: SegmentedTranscript) -> str:
    """What is said where a text and a recording hardly belong together."""
    line = f"{recording}: {result.kept} of {result.num_words} words of {text.name} fit what is said"
    if result.anchored < LEAST_ANCHORED * result.num_words:
        return (
            f"{line}, and only {result.anchored} are recognised in their order; is it the text of another recording, "
            "or in another language (--language)? Try `redline transcribe` on the recording to compare"
        )
    # Reasons of one kind differ in their words and numbers.
    reasons = [re.sub(r"^.*: (?=how a number)", "", row.dropped) for row in result.rows if row.dropped]
    kinds = Counter(re.sub(r"'[^']*'|\d[\d.]*", "...", reason) for reason in reasons)
    return (
        f"{line} (most often: {kinds.most_common(1)[0][0]}); is it an abridged text, or the sound too hard for the "
        "model? Try a larger --tolerance, another --model, or correct the text where the list of what was dropped says "
        "so"
    )
