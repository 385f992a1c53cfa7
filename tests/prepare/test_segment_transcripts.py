"""Utterances out of recordings with transcripts and captions: what fits is found, what does not is dropped and told."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline import audio
from redline.checkpoints import nar
from redline.cli.main import app
from redline.errors import DataError
from redline.models.nar import NarModel
from redline.prepare.align_transcript import anchors
from redline.prepare.segment_transcripts import Harvest, Harvested, HarvestOptions, harvest, words_of, words_of_lines
from redline.prepare.transcripts import CaptionCue, Line, parse_captions, read_text, without_repeats
from redline.train.data.batches import letters_of
from redline.types import Waveform

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
SAID = "And so, my fellow Americans: ask not what your country can do for you - ask what you can do for your country."
OTHER = "The quick brown fox jumps over the lazy dog while seven wizards watch from far away and nobody asks them why."
WORDS = SAID.replace("- ", "").split()


@pytest.fixture(scope="module")
def model() -> NarModel:
    return nar.load("tiny")[0]


@pytest.fixture(scope="module")
def wave() -> Waveform:
    return audio.load(JFK)


def stamp(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}".replace(".", ",")


def srt(cues: Sequence[tuple[float, float, str]]) -> str:
    return "\n".join(f"{n}\n{stamp(a)} --> {stamp(b)}\n{text}\n" for n, (a, b, text) in enumerate(cues, 1))


def prepare(folder: Path, *more: str) -> tuple[int, str, list[dict[str, object]]]:
    """Exit status, what was said, and rows of `redline prepare` for what is in a folder."""
    out = folder / "out" / "mine.jsonl"
    result = CliRunner().invoke(app, ["prepare", str(folder), "--out", str(out), *more])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return result.exit_code, result.output, rows


def kept(result: Harvest) -> list[Harvested]:
    return [row for row in result.rows if not row.dropped]


def test_words_keep_how_they_are_written_and_say_how_they_sound() -> None:
    words = words_of("Well-known \u2014 \u201cYes,\u201d he's 100% O\u2019Neil...")
    assert [(word.written, word.said) for word in words] == [
        ("Well-known", "well known"),
        ("\u201cYes,\u201d", "yes"),
        ("he's", "he's"),
        ("100%", ""),
        ("O\u2019Neil...", "o'neil"),
    ]
    assert [word.said for word in words_of("Straße, übel! 2", "all")] == ["straße", "übel", "2"]
    assert letters_of("en-gb") == letters_of("en") == letters_of("") == "a-z" and letters_of("de") == "all"


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,500 --> 00:00:03,000\nHello <i>there</i>,\nfriend.\n\n"
        "2\n00:01:00,000 --> 00:01:02,250\nBye &amp; thanks\n",
        "WEBVTT\n\nNOTE a comment\n\n00:01.500 --> 00:03.000 align:start\nHello <b>there</b>,\nfriend.\n\n"
        "00:01:00.000 --> 00:01:02.250\nBye &amp; thanks\n",
    ],
)
def test_captions_are_read_without_their_tags(tmp_path: Path, text: str) -> None:
    cues, notes = parse_captions(text)
    assert (
        cues == [CaptionCue(1.5, 3.0, "Hello there,\nfriend."), CaptionCue(60.0, 62.25, "Bye & thanks")] and not notes
    )
    path = tmp_path / "a.srt"
    path.write_text("nothing here", encoding="utf-8")
    with pytest.raises(DataError, match="no captions"):
        read_text(path)


def test_captions_that_cannot_be_read_are_counted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    good = "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n"
    path.write_text(good + "2\n00:00:x2,000 --> 00:00:03,000\nlost\n\n3\n00:00:09,000 --> 00:00:05,000\ngone\n")
    text = read_text(path)
    assert [line.text for line in text.lines] == ["Hello"]
    assert text.notes == ("2 captions cannot be read, first '00:00:x2,000 --> 00:00:03,000'",)
    path.write_text("2\n00:00:x2,000 --> 00:00:03,000\nlost\n")
    with pytest.raises(DataError, match=r"no captions.*1 captions cannot be read"):
        read_text(path)


@pytest.mark.parametrize(
    ("encoding", "mark", "noted"),
    [
        ("utf-8", b"", False),
        ("utf-8-sig", b"", False),
        ("utf-16", b"", False),
        ("utf-16-be", b"\xfe\xff", False),
        ("utf-16-le", b"", True),
        ("cp1252", b"", True),
    ],
)
def test_a_text_is_read_in_the_encoding_it_has(tmp_path: Path, encoding: str, mark: bytes, noted: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(mark + "Grüße, café\nand more".encode(encoding))
    text = read_text(path)
    assert [line.text for line in text.lines] == ["Grüße, café", "and more"] and bool(text.notes) == noted


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x89PNG\0\0\0\rIHDR" + bytes(range(256)))
    with pytest.raises(DataError, match="this is no text"):
        read_text(path)


def test_captions_that_roll_say_everything_once() -> None:
    rolling = [
        CaptionCue(0, 2, "and so my"),
        CaptionCue(2, 4, "and so my\nfellow americans"),
        CaptionCue(4, 4.01, "fellow americans"),
        CaptionCue(4.01, 6, "fellow americans\nask not"),
    ]
    found, repeated = without_repeats(rolling)
    assert " ".join(cue.text for cue in found) == "and so my fellow americans ask not" and repeated == 7
    twice = [cue for number in range(4) for cue in [CaptionCue(number, number + 1, f"line {number} of it")] * 2]
    assert [cue.text for cue in without_repeats(twice)[0]] == [f"line {number} of it" for number in range(4)]
    said = [
        CaptionCue(0, 1, "no no"),
        CaptionCue(1, 2, "no no no"),
        CaptionCue(2, 3, "what is it"),
        CaptionCue(3, 4, "it is he"),
        CaptionCue(4, 5, "ah"),
    ]
    assert without_repeats(said) == (said, 0), "what is said twice stays"


def test_anchors_rise_on_both_sides_and_stand_only_once() -> None:
    said, heard = "abcxyzabcdefghi", "defqabcxyzrdeghi"
    assert anchors(list(said), list(heard)) == [(1, 5), (2, 6), (3, 7), (12, 13)], (
        "a b c comes twice, and d e f would turn the order"
    )


def test_every_row_holds_the_words_of_its_sound(model: NarModel, wave: Waveform) -> None:
    """Wherever captions are cut, and however late they are, rows are cut in pauses and lose no word."""
    for late in (0.0, 0.7, -3.0):
        draw = random.Random(str(late))
        lines, at = [], 0
        while at < len(WORDS):
            count = draw.randint(1, 5)
            lines.append(Line(" ".join(WORDS[at : at + count]), shown=at * 0.45 + late))
            at += count
        rows = kept(harvest(model, wave, words_of_lines(lines), HarvestOptions(longest_s=5)))
        assert [row.text for row in rows] == [
            "And so, my fellow Americans: ask not",
            "what your country can do for you",
            "ask what you can do for your country.",
        ]
        for row, (first, last) in zip(rows, [(0.3, 4.4), (5.3, 7.5), (8.1, 10.5)], strict=True):
            assert row.start <= first and last <= row.end
        assert all(one.end <= two.start for one, two in pairwise(rows))


def test_a_true_transcript_is_kept_and_a_wrong_one_dropped(model: NarModel, wave: Waveform) -> None:
    true = harvest(model, wave, words_of(SAID), HarvestOptions())
    assert [row.text for row in true.rows] == [" ".join(WORDS)] and true.kept == true.given == 22
    wrong = harvest(model, wave, words_of(OTHER), HarvestOptions())
    assert not kept(wrong) and wrong.recognised == 0


def test_a_short_recording_needs_no_anchor(model: NarModel, wave: Waveform) -> None:
    short = Waveform(wave.samples[16_000:42_000])
    found = harvest(model, short, words_of("my fellow Americans"), HarvestOptions())
    assert found.recognised == 0 and [row.text for row in kept(found)] == ["my fellow Americans"]
    assert not kept(harvest(model, short, words_of("your own country"), HarvestOptions()))


def test_speech_that_the_text_lacks_is_in_no_row(model: NarModel, wave: Waveform) -> None:
    lacking = SAID.replace("what your country can do for you - ", "")
    for row in kept(harvest(model, wave, words_of(lacking), HarvestOptions())):
        assert row.end < 5.2 or row.start > 7.5
    added = SAID.replace("for you -", "for you whenever elephants march -")
    assert not any("elephants" in row.text for row in kept(harvest(model, wave, words_of(added), HarvestOptions())))


def test_a_number_in_digits_is_no_silent_word(model: NarModel, wave: Waveform) -> None:
    digits = SAID.replace("fellow", "14")
    (told,) = [row for row in harvest(model, wave, words_of(digits), HarvestOptions(longest_s=5)).rows if row.dropped]
    assert "14" in told.text and "write it in words" in told.dropped


def test_rows_end_where_the_speaker_changes(model: NarModel, wave: Waveform) -> None:
    parts = [" ".join(WORDS[a:b]) for a, b in ((0, 7), (7, 14), (14, 22))]
    lines = [Line(text, name, turn) for turn, (text, name) in enumerate(zip(parts, "ABA", strict=True))]
    rows = kept(harvest(model, wave, words_of_lines(lines), HarvestOptions()))
    assert [(row.text, row.speaker) for row in rows] == list(zip(parts, "ABA", strict=True))
    early = [Line(" ".join(WORDS[:10]), "A", 0), Line(" ".join(WORDS[10:]), "B", 1)]  # no pause between the two
    (_, both, _) = kept(harvest(model, wave, words_of_lines(early), HarvestOptions()))
    assert both.speaker == "" and [turn.speaker for turn in both.turns] == ["A", "B"]
    assert " ".join(turn.text for turn in both.turns) == both.text


def test_the_command_writes_a_manifest_and_tells_what_it_dropped(tmp_path: Path) -> None:
    for name, text in (("talk", f"HOST: {SAID}"), ("false", OTHER)):
        soundfile.write(tmp_path / f"{name}.wav", audio.load(JFK).samples, 16_000)
        (tmp_path / f"{name}.srt").write_text(srt([(0, 11, text)]))
    soundfile.write(tmp_path / "mute.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    code, told, (row,) = prepare(tmp_path, "--longest", "12")
    assert code == 1 and "22 of 43 words" in told
    assert "false.wav: 0 of 21 words" in told and "the text of another recording" in told
    assert row["text"] == " ".join(WORDS) and row["audio"] == str(tmp_path / "talk.wav")
    assert row["speaker"] == "HOST" and "HOST (1)" in told
    (dropped,) = [json.loads(line) for line in (tmp_path / "out" / "mine.dropped.jsonl").read_text().splitlines()]
    assert "does not fit the sound" in dropped["dropped"]
    alone = CliRunner().invoke(app, ["prepare", str(tmp_path / "mute.wav"), "--out", str(tmp_path / "b.jsonl")])
    assert alone.exit_code == 2 and "--text" in alone.output


def test_a_language_is_named_as_people_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int | None] = []
    monkeypatch.setattr("redline.threads.use", used.append)
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    (tmp_path / "talk.txt").write_text(SAID)
    for name in ("English", "en-US", "auto"):
        _, _, (row,) = prepare(tmp_path, "--language", name, "--threads", "1")
        assert row["language"] == "en"
    assert used == [1, 1, 1]
    code, told, _ = prepare(tmp_path, "--language", "klingon")
    assert code == 2 and "no language is called 'klingon'; allowed are en (English)" in told
    code, told, _ = prepare(tmp_path, "--language", "German")
    assert code == 2 and "tiny does not know it; name one of en" in told


def test_a_text_that_fits_nowhere_is_told_and_nothing_is_overwritten(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    (tmp_path / "talk.txt").write_text(SAID)
    assert prepare(tmp_path)[0] == 0
    (tmp_path / "talk.txt").write_text(OTHER)
    code, told, rows = prepare(tmp_path)
    assert code == 1 and "is not written" in told and "redline transcribe" in told and len(rows) == 1


def test_where_no_manifest_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text(SAID)
    (tmp_path / "talk.wav").write_bytes(b"never read")
    for out in (tmp_path, tmp_path / "talk.txt" / "m.jsonl", Path("/proc/nowhere/m.jsonl")):
        result = CliRunner().invoke(app, ["prepare", str(tmp_path / "talk.wav"), "--out", str(out)])
        assert result.exit_code == 2 and "choose another --out" in result.output


def test_late_captions_are_placed_by_their_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", audio.load(JFK).samples, 16_000)
    parts = [(0.3, " ".join(WORDS[:7])), (5.3, " ".join(WORDS[7:14])), (8.2, " ".join(WORDS[14:]))]
    (tmp_path / "talk.srt").write_text(srt([(at + 6.5, at + 8.5, text) for at, text in parts]))
    code, told, (row,) = prepare(tmp_path)
    assert code == 0 and "s late; placed by its words" in told and row["text"] == " ".join(WORDS)


def test_joined_speech_is_counted_at_its_borders(tmp_path: Path) -> None:
    from tests.evaluate.test_readers import script

    joined = script("joined_speech")
    words = [joined.Word(n, n + 0.8, word) for n, word in enumerate("abcd")]
    row = joined.Utterance("x", Path("a"), "B x", 2.0, start=0.9, end=2.9)
    assert joined.compare([row], words) == joined.Count(2, 1, 1, 4)
