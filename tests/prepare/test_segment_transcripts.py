"""Utterances out of recordings with transcripts: what fits is found, what does not is dropped and told."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from redline import audio
from redline.checkpoints import nar
from redline.models.nar import NarModel
from redline.prepare.segment_transcripts import (
    PreparedRow,
    SegmentationOptions,
    SegmentedTranscript,
    TranscriptWord,
    segment_transcript,
    transcript_words,
)
from redline.prepare.transcripts import Line
from redline.types import Waveform
from tests.prepare.speech import JFK, OTHER, TEXT, WORDS


@pytest.fixture(scope="module")
def model() -> NarModel:
    return nar.load_nar("tiny")[0]


@pytest.fixture(scope="module")
def wave() -> Waveform:
    return audio.load(JFK)


def kept(result: SegmentedTranscript) -> list[PreparedRow]:
    return [row for row in result.rows if not row.dropped]


def spoken_words_of(text: str) -> list[TranscriptWord]:
    return list(transcript_words([Line(text)]))


def test_words_keep_how_they_are_written_and_say_how_they_sound() -> None:
    words = spoken_words_of("Well-known \u2014 \u201cYes,\u201d he's 100% O\u2019Neil...")
    assert [(word.written, word.spoken) for word in words] == [
        ("Well-known", "well known"),
        ("\u201cYes,\u201d", "yes"),
        ("he's", "he's"),
        ("100%", ""),
        ("O\u2019Neil...", "o'neil"),
    ]
    assert [word.spoken for word in transcript_words([Line("Straße, übel! 2")], "all")] == ["straße", "übel", "2"]


def test_silence_says_nothing_of_a_text(model: NarModel) -> None:
    result = segment_transcript(
        model, Waveform(np.zeros(16_000 * 40, np.float32)), spoken_words_of(TEXT), SegmentationOptions()
    )
    assert [row.dropped for row in result.rows] == [
        "no three words of it are recognised in a row anywhere in the recording"
    ]


def test_every_row_holds_the_words_of_its_sound(model: NarModel, wave: Waveform) -> None:
    """Wherever captions are cut, and however late they are, rows are cut in pauses and lose no word."""
    for late in (0.0, 0.7, -3.0):
        draw = random.Random(str(late))
        lines, at = [], 0
        while at < len(WORDS):
            count = draw.randint(1, 5)
            lines.append(Line(" ".join(WORDS[at : at + count]), shown=at * 0.45 + late))
            at += count
        rows = kept(segment_transcript(model, wave, list(transcript_words(lines)), SegmentationOptions(longest_s=5)))
        assert [row.text for row in rows] == [
            "And so, my fellow Americans: ask not",
            "what your country can do for you",
            "ask what you can do for your country.",
        ]
        for row, (first, last) in zip(rows, [(0.3, 4.4), (5.3, 7.5), (8.1, 10.5)], strict=True):
            assert row.start <= first and last <= row.end
        assert all(left.end <= right.start for left, right in pairwise(rows))


def test_a_true_transcript_is_kept_and_a_wrong_one_dropped(model: NarModel, wave: Waveform) -> None:
    true = segment_transcript(model, wave, spoken_words_of(TEXT), SegmentationOptions())
    assert [row.text for row in true.rows] == [" ".join(WORDS)] and true.kept == true.num_words == 22
    wrong = segment_transcript(model, wave, spoken_words_of(OTHER), SegmentationOptions())
    assert not kept(wrong) and wrong.anchored == 0


def test_a_short_recording_needs_no_anchor(model: NarModel, wave: Waveform) -> None:
    short = Waveform(wave.samples[16_000:42_000])
    result = segment_transcript(model, short, spoken_words_of("my fellow Americans"), SegmentationOptions())
    assert result.anchored == 0 and [row.text for row in kept(result)] == ["my fellow Americans"]
    assert not kept(segment_transcript(model, short, spoken_words_of("your own country"), SegmentationOptions()))


def test_speech_that_the_text_lacks_is_in_no_row(model: NarModel, wave: Waveform) -> None:
    lacking = TEXT.replace("what your country can do for you - ", "")
    for row in kept(segment_transcript(model, wave, spoken_words_of(lacking), SegmentationOptions())):
        assert row.end < 5.2 or row.start > 7.5
    added = TEXT.replace("for you -", "for you whenever elephants march -")
    assert not any(
        "elephants" in row.text
        for row in kept(segment_transcript(model, wave, spoken_words_of(added), SegmentationOptions()))
    )


def test_a_number_in_digits_is_no_silent_word(model: NarModel, wave: Waveform) -> None:
    digits = TEXT.replace("fellow", "14")
    (row,) = [
        row
        for row in segment_transcript(model, wave, spoken_words_of(digits), SegmentationOptions(longest_s=5)).rows
        if row.dropped
    ]
    assert "14" in row.text and "write it in words" in row.dropped


def test_rows_end_where_the_speaker_changes(model: NarModel, wave: Waveform) -> None:
    parts = [" ".join(WORDS[a:b]) for a, b in ((0, 7), (7, 14), (14, 22))]
    lines = [Line(text, name, turn) for turn, (text, name) in enumerate(zip(parts, "ABA", strict=True))]
    rows = kept(segment_transcript(model, wave, list(transcript_words(lines)), SegmentationOptions()))
    assert [(row.text, row.speaker) for row in rows] == list(zip(parts, "ABA", strict=True))
    early = [Line(" ".join(WORDS[:10]), "A", 0), Line(" ".join(WORDS[10:]), "B", 1)]  # no pause between the two
    (_, both, _) = kept(segment_transcript(model, wave, list(transcript_words(early)), SegmentationOptions()))
    assert both.speaker == "" and [turn.speaker for turn in both.turns] == ["A", "B"]
    assert " ".join(turn.text for turn in both.turns) == both.text
