"""A known text gets the times of its words; what nobody says and what is not written are told, and the text stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline import Transcriber, Transcript, align_recording, audio, load_model
from redline.cli.main import app
from redline.errors import AudioError, DataError
from redline.prepare.transcripts import Line
from redline.testing import FakeRecognizer
from redline.types import Notice

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
TEXT = "And so, my fellow Americans: ask not what your country can do for you. Ask what you can do for your country!"
FOREIGN = "Seventeen purple elephants marched quietly across the parking lot."


@pytest.fixture(scope="module")
def model() -> Transcriber:
    return load_model("tiny", effort="draft", device="cpu")


def aligned(model: Transcriber, *lines: str) -> Transcript:
    return align_recording(JFK, [Line(line) for line in lines], model)


def notices(transcript: Transcript, code: str) -> list[Notice]:
    return [notice for notice in transcript.warnings if notice.code == code]


def test_every_word_of_the_text_is_timed_and_the_text_stays(model: Transcriber) -> None:
    transcript = aligned(model, TEXT)
    assert transcript.text == TEXT and [segment.text for segment in transcript.segments] == [TEXT[:70], TEXT[71:]]
    words = transcript.words
    assert [word.text for word in words] == TEXT.split() and not transcript.warnings
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= transcript.duration == 11.0
    first_s = {word.text: word.start for word in words}
    for text, start_s in (("And", 0.3), ("fellow", 1.3), ("country", 5.9), ("Ask", 8.2), ("country!", 10.0)):
        assert first_s[text] == pytest.approx(start_s, abs=0.25)
    assert all(word.confidence is not None and 0 < word.confidence <= 1 for word in words)
    assert Transcript.from_dict(transcript.to_dict()) == transcript


def test_what_nobody_says_takes_no_time_from_its_neighbours(model: Transcriber) -> None:
    plain, mixed = aligned(model, TEXT[:70], TEXT[71:]), aligned(model, TEXT[:70], FOREIGN, TEXT[71:])
    (told,) = notices(mixed, "not-said")
    assert told.message == f"9 words of the text are not heard: {FOREIGN!r}"
    foreign = mixed.segments[1]
    assert foreign.text == FOREIGN and {word.confidence for word in foreign.words} == {0.0}
    for own, alone in zip((mixed.segments[0], mixed.segments[2]), plain.segments, strict=True):
        for word, before in zip(own.words, alone.words, strict=True):
            assert abs(word.start - before.start) < 0.1 and abs(word.end - before.end) < 0.1
    assert not notices(mixed, "not-written") and not notices(mixed, "misfit")


def test_speech_that_the_text_does_not_have_is_told(model: Transcriber) -> None:
    transcript = aligned(model, TEXT[:70])
    (told,) = notices(transcript, "not-written")
    assert told.start is not None and told.start > 7.5 and told.end is not None and told.end > 10
    assert "can do" in told.message and not notices(transcript, "not-said")


def test_a_number_in_digits_stands_between_its_neighbours_and_is_as_certain_as_they_are(model: Transcriber) -> None:
    transcript = aligned(model, TEXT.replace("fellow", "4"))
    at = next(at for at, word in enumerate(transcript.words) if word.text == "4")
    before, number, after = transcript.words[at - 1 : at + 2]
    assert before.confidence is not None and after.confidence is not None
    assert number.confidence == min(before.confidence, after.confidence) and 1.1 < number.start < number.end < 1.8
    assert not transcript.warnings


def test_signs_are_part_of_the_text_and_speakers_of_the_lines(model: Transcriber) -> None:
    lines = [Line("— And so, my fellow Americans:", "Ann"), Line("ask not …", "Bob"), Line(TEXT[43:], "Bob")]
    transcript = align_recording(JFK, lines, model)
    assert transcript.text == " ".join(line.text for line in lines[:2]) + f" {TEXT[43:]}"
    assert [turn.speaker for turn in transcript.turns] == ["Ann", "Bob"]


def test_a_text_of_another_recording_is_told(model: Transcriber) -> None:
    transcript = aligned(model, FOREIGN)
    (told,) = notices(transcript, "misfit")
    assert "of 9 words of the text fit the sound" in told.message
    silence = {"array": np.zeros(16_000 * 40, np.float32), "sampling_rate": 16_000}
    with pytest.raises(DataError, match="no three words of the text"):
        align_recording(silence, [Line(TEXT)], model)


def test_what_cannot_be_aligned_is_refused(model: Transcriber, tmp_path: Path) -> None:
    (tmp_path / "signs.txt").write_text("— … !\n")
    with pytest.raises(DataError, match="has no words"):
        align_recording(JFK, tmp_path / "signs.txt", model)
    with pytest.raises(AudioError, match="gone"):
        align_recording(tmp_path / "gone.wav", [Line(TEXT)], model)
    with pytest.raises(DataError, match="character head"):
        align_recording(JFK, [Line(TEXT)], Transcriber(FakeRecognizer(lambda clip: "a")))


def test_the_command_writes_subtitles_and_tells_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"{TEXT[:70]}\n{FOREIGN}\n{TEXT[71:]}\n")
    result = CliRunner().invoke(app, ["align", str(JFK), "--text", str(tmp_path / "text.txt"), "--quiet"])
    assert result.exit_code == 0 and "Ask what you can do" in result.stdout and "-->" in result.stdout
    assert "9 words of the text are not heard" in result.stderr
    out = ["--format", "json,vtt", "--output-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["align", str(JFK), "--text", str(tmp_path / "text.txt"), *out])
    assert result.exit_code == 0 and (tmp_path / "out" / "jfk.vtt").exists()
    values = json.loads((tmp_path / "out" / "jfk.json").read_text())
    assert [notice["code"] for notice in values["warnings"]] == ["not-said"]
    assert all(segment["words"] for segment in values["segments"])


def test_subtitles_of_a_known_text_have_a_style_and_names(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(f"ANN: {TEXT[:70]}\nBOB: {TEXT[71:]}\n")
    style = ["--subtitles", "bbc", "--max-line-count", "1", "--speaker-names", "ANN=Anna"]
    result = CliRunner().invoke(app, ["align", str(JFK), "--text", str(tmp_path / "text.txt"), "--quiet", *style])
    cues = [block.split("\n")[2:] for block in result.stdout.strip().split("\n\n")]
    assert result.exit_code == 0 and all(len(lines) == 1 and len(lines[0]) <= 37 for lines in cues)
    assert {line.partition(":")[0] for lines in cues for line in lines if ":" in line} >= {"Anna", "BOB"}


def test_many_warnings_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.cli.job.MOST_NOTICES", 1)
    words = TEXT.split()
    for at in (12, 8, 4):
        words.insert(at, "thermostat")
    (tmp_path / "text.txt").write_text(" ".join(words))
    command = ["align", str(JFK), "--text", str(tmp_path / "text.txt"), "--format", "json"]
    result = CliRunner().invoke(app, command)
    assert result.stderr.count("1 word of the text is not heard: 'thermostat'") == 1
    assert "2 more warnings of the code 'not-said'; all of them are in json" in result.stderr
    assert result.stdout.count('"not-said"') == 3


def test_the_command_takes_a_folder_and_fails_where_the_text_is_anothers(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    for name, text in (("right", TEXT), ("wrong", FOREIGN)):
        soundfile.write(folder / f"{name}.wav", audio.load(JFK).samples, 16_000)
        (folder / f"{name}.txt").write_text(text)
    result = CliRunner().invoke(app, ["align", str(folder), "--output-dir", str(tmp_path / "out")])
    assert (
        result.exit_code == 1 and "wrong.wav" in result.output and "is it the text of this recording?" in result.output
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"right.srt", "wrong.srt"}
    again = CliRunner().invoke(app, ["align", str(folder), "--output-dir", str(tmp_path / "out")])
    assert again.exit_code == 2 and "is there already" in again.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no text"),
        (["--text", "gone.txt"], "no text"),
        (["--text", "{text}", "--format", "mp3"], "allowed are"),
        (["--text", "{text}", "--model", "none-of-ours"], "none-of-ours"),
        (["--text", "{text}", "--language", "xx"], "xx"),
    ],
)
def test_the_command_says_what_is_wrong(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    soundfile.write(tmp_path / "talk.wav", np.zeros(16_000, np.float32), 16_000)
    given = [option.replace("{text}", str(tmp_path / "text.txt")) for option in options]
    result = CliRunner().invoke(app, ["align", str(tmp_path / "talk.wav"), *given])
    assert result.exit_code == 2 and said in result.output
