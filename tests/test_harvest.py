"""Utterances out of recordings with transcripts and captions: what fits is found, what does not is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline import audio
from redline.cli.main import app
from redline.errors import DataError
from redline.models import checkpoint
from redline.models.editor import NarEditor
from redline.train.data import letters_of
from redline.train.harvest import Cue, HarvestOptions, from_captions, from_transcript, harvest, read_captions, words_of
from redline.types import Span, Waveform

JFK = Path(__file__).parent / "data" / "jfk.flac"
SAID = "And so, my fellow Americans: ask not what your country can do for you - ask what you can do for your country."


@pytest.fixture(scope="module")
def model() -> NarEditor:
    return checkpoint.load("tiny")[0]


@pytest.fixture(scope="module")
def wave() -> Waveform:
    return audio.load(JFK)


def test_words_keep_how_they_are_written_and_say_how_they_sound() -> None:
    words = words_of("Well-known \u2014 \u201cYes,\u201d he's 100% O\u2019Neil...")
    assert [(word.written, word.said) for word in words] == [
        ("Well-known", "well known"),
        ("\u201cYes,\u201d", "yes"),
        ("he's", "he's"),
        ("O\u2019Neil...", "o'neil"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,500 --> 00:00:03,000\nHello <i>there</i>,\nfriend.\n\n"
        "2\n00:01:00,000 --> 00:01:02,250\nBye &amp; thanks\n",
        "WEBVTT\n\nNOTE a comment\n\n00:01.500 --> 00:03.000 align:start\nHello <v Ann>there</v>,\nfriend.\n\n"
        "00:01:00.000 --> 00:01:02.250\nBye &amp; thanks\n",
    ],
)
def test_captions_are_read_without_their_tags(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(text, encoding="utf-8")
    assert read_captions(path) == [Cue(1.5, 3.0, "Hello there, friend."), Cue(60.0, 62.25, "Bye & thanks")]
    path.write_text("nothing here", encoding="utf-8")
    with pytest.raises(DataError, match="no captions"):
        read_captions(path)


def test_neighbouring_captions_are_joined_up_to_the_longest_utterance() -> None:
    cues = [Cue(0.5, 3, "a"), Cue(3.2, 6, "b"), Cue(9, 10, "c"), Cue(10, 29, "d")]
    found = from_captions(cues, 30 * 16_000, HarvestOptions(longest_s=10, margin_s=0.5))
    assert [(one.span.start / 16_000, one.span.end / 16_000, one.written) for one in found] == [
        (0.0, 6.5, "a b"),
        (8.5, 10.5, "c"),
        (9.5, 29.5, "d"),
    ]


def test_a_transcript_is_divided_by_the_words_that_were_heard() -> None:
    words = words_of("One two three four five six seven.")
    spans = [Span(0, 10), Span(10, 20), Span(20, 30)]
    first, third = from_transcript(words, spans, ["one too", "", "fore five six"], most=5)
    assert (first.span, first.written, first.leading, first.trailing) == (spans[0], "One two three four", 0, 3)
    assert (third.span, third.written, third.leading, third.trailing) == (
        spans[2],
        "two three four five six seven.",
        3,
        1,
    )


def test_a_true_transcript_is_kept_and_a_wrong_one_dropped(model: NarEditor, wave: Waveform) -> None:
    kept = [one for one in harvest(model, wave, words_of(SAID), HarvestOptions()) if not one.dropped]
    assert kept and set(" ".join(one.text for one in kept).split()) <= set(SAID.split())
    assert sum(len(one.text) for one in kept) > len(SAID) / 2
    assert all(0 <= one.start < one.end <= wave.duration for one in kept)
    wrong = "The quick brown fox jumps over the lazy dog while seven wizards watch " * 2
    (told,) = harvest(model, wave, [Cue(0.0, 11.0, wrong)], HarvestOptions())
    (good,) = harvest(model, wave, [Cue(0.0, 11.0, SAID)], HarvestOptions())
    assert "does not fit the sound" in told.dropped
    assert good.text == SAID.replace("- ", "") and good.regret < told.regret / 2
    (long,) = harvest(model, wave, [Cue(0.0, 1.0, SAID)], HarvestOptions())
    assert long.dropped


def test_the_command_writes_a_manifest_and_tells_what_it_dropped(tmp_path: Path) -> None:
    for name, text in (("talk", SAID), ("false", "nothing like it at all here or anywhere else in the world")):
        soundfile.write(tmp_path / f"{name}.wav", audio.load(JFK).samples, 16_000)
        (tmp_path / f"{name}.srt").write_text(f"1\n00:00:00,000 --> 00:00:11,000\n{text}\n")
    soundfile.write(tmp_path / "mute.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    out = tmp_path / "data" / "mine.jsonl"
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), "--out", str(out), "--longest", "12"])
    assert result.exit_code == 0, result.output
    assert "22 of 35 words" in result.stderr, "12 that do not fit, and a dash that nobody says"
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["text"] == SAID.replace("- ", "") and row["audio"] == str(tmp_path / "talk.wav")
    (dropped,) = [json.loads(line) for line in out.with_suffix(".dropped.jsonl").read_text().splitlines()]
    assert "does not fit" in dropped["dropped"]
    alone = CliRunner().invoke(app, ["prepare", str(tmp_path / "mute.wav"), "--out", str(out)])
    assert alone.exit_code == 2 and "--text" in alone.output


def test_words_of_other_languages_keep_their_letters() -> None:
    assert [word.said for word in words_of("Straße, übel!", "all")] == ["straße", "übel"]
    assert letters_of("en-gb") == letters_of("en") == letters_of("") == "a-z" and letters_of("de") == "all"
