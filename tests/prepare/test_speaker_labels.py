"""Speaker labels: what is one, and what is only a text with a colon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from redline.prepare.speaker_labels import find_labels, without_labels
from redline.prepare.transcripts import read_transcript


def turns(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Speaker and text of each line without its labels; empty texts are left out."""
    unlabelled = without_labels([(line, "") for line in lines], find_labels(lines))
    return [(speaker, text) for _, text, speaker, _ in unlabelled if text]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["HOST: Welcome back.", "JANE DOE: Thank you. He said: go home.", "More of Jane.", "HOST: And so?"],
            [("HOST", "Welcome back."), ("JANE DOE", "Thank you. He said: go home."), ("JANE DOE", "More of Jane.")]
            + [("HOST", "And so?")],
        ),
        (["Hi. HOST: Yes. JANE: No."], [("", "Hi."), ("HOST", "Yes."), ("JANE", "No.")]),
        (["Jane: hello", "Tom: Hi.", "Jane: bye"], [("Jane", "hello"), ("Tom", "Hi."), ("Jane", "bye")]),
        (["Speaker 1 (00:12):", "hello", "Speaker 2:", "Hi."], [("Speaker 1", "hello"), ("Speaker 2", "Hi.")]),
        (["[Jane] Hello.", "[Tom] hi", "[Jane] bye"], [("Jane", "Hello."), ("Tom", "hi"), ("Jane", "bye")]),
        ([">> Hello.", ">> JANE: Hi. >> What?"], [("", "Hello."), ("JANE", "Hi."), ("", "What?")]),
        (["HOST: OK", "JANE DOE: YES", "JANE DOE: NO"], [("HOST", "OK"), ("JANE DOE", "YES"), ("JANE DOE", "NO")]),
        (["Dr. Smith: Hello", "Mrs. O'Neil: Hi", "Dr. Smith: Bye"], [("Dr. Smith", "Hello"), ("Mrs. O'Neil", "Hi")]
         + [("Dr. Smith", "Bye")]),
        (["Q: What?", "A: That.", "Q: Why?", "A: So."], [("Q", "What?"), ("A", "That."), ("Q", "Why?"), ("A", "So.")]),
        (["HOST: Hello.", "- Who is it?", "- HOST: Me."], [("HOST", "Hello."), ("", "Who is it?"), ("HOST", "Me.")]),
    ],
)  # fmt: skip
def test_labels_become_speakers(lines: list[str], expected: list[tuple[str, str]]) -> None:
    assert turns(lines) == expected


@pytest.mark.parametrize(
    "lines",
    [
        ["Note: buy milk.", "Note: call home.", "Remember: all is well.", "Note: sleep."],
        ["He said: no.", "She said: yes.", "He said: maybe.", "And he said: go."],
        ["The time is 10:30 and all is well.", "Genesis 1:2 says: let there be light."],
        ["Paris: a city of lights.", "London: a city of fog.", "Both are nice."],
        ["it is simple: go home", "it is simple: stay here", "so we stayed"],
        ["NOTE: This is loud.", "Step One: go. Step Two: stay."],
        ["I like three things: cats, dogs and [sic] birds.", "My answer: none."],
    ],
)
def test_text_with_a_colon_stays_text(lines: list[str]) -> None:
    assert turns(lines) == [("", line) for line in lines]


def test_voices_of_captions_are_speakers_of_their_cue_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.vtt"
    cues = ["<v Ann Lee>Hello there</v>", "<v.loud Tom>Hi &amp; bye", "nobody said", "[music]", "[applause] thanks"]
    blocks = [f"00:0{n}.000 --> 00:0{n}.900\n{cue}\n" for n, cue in enumerate(cues)]
    path.write_text("WEBVTT\n\n" + "\n".join(blocks))
    text = read_transcript(path)
    assert [(line.speaker, line.text) for line in text.lines] == [
        ("Ann Lee", "Hello there"),
        ("Tom", "Hi & bye"),
        ("", "nobody said"),
        ("", "thanks"),
    ]
    assert text.speakers == (("Ann Lee", 1), ("Tom", 1)) and "2 notes of sounds" in text.notes[0]


def test_a_transcript_tells_whom_it_took_for_speakers(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("[00:00:01] HOST: Welcome.\n[00:00:04] JANE DOE: Thanks.\n00:09 HOST: Bye.\n")
    text = read_transcript(path)
    assert text.speakers == (("HOST", 2), ("JANE DOE", 1))
    assert [line.text for line in text.lines] == ["Welcome.", "Thanks.", "Bye."]


def test_marks_that_nobody_says_are_no_words(tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"
    path.write_text("# Part *one*\n**HOST:** Is __5 * 3__ in _snake_case_?\n* 5*3, **yes**\n", encoding="utf-8")
    text = read_transcript(path)
    assert [(line.text, line.speaker) for line in text.lines] == [
        ("Part one", ""),
        ("Is 5 * 3 in snake_case?", "HOST"),
        ("5*3, yes", "HOST"),
    ]
