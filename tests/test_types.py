"""The data of the package: JSON of a transcript is what it was, and is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from redline import formats
from redline.errors import DataError
from redline.types import Edit, Notice, Segment, Transcript, Turn, Word
from tests.conftest import SCHEMA
from tests.formats.transcripts import SHORT, transcripts

FULL = Transcript(
    "And so, my fellow “Americans” Grüße",
    (
        Segment(
            *(0, 0.32, 4.1, "And so,", "and so"),
            (Edit("replace", " and", " And", 0), Edit("keep", " so", " so", 1), Edit("insert", "", ",", 2)),
            *(0.93, None, (Word(0.32, 0.55, "And", 0.98), Word(0.6, 0.95, "so,", None, "1")), 0.667),
        ),
        Segment(1, 4.1, 10.4, 'my fellow "Americans" Grüße', None, (), None, "2", (), None),
        Segment(2, 10.4, 11.0, "", timing=lambda: ()),
    ),
    *("en", 11.0, "tiny", "transcribe"),
    (Turn("1", 0.32, 4.1, "And so,"), Turn("2", 4.1, 10.4, "my fellow \\ Grüße")),
    (Notice("truncated", "ends before it says it does"), Notice("unaligned", "a\nb", 1.5, 2.0)),
)


@pytest.mark.parametrize(("name", "all_edits"), [("edits", False), ("every-edit", True)])
def test_json_of_a_transcript_never_changes_by_a_byte(golden: Path, name: str, all_edits: bool) -> None:
    expected = (golden / "transcript" / f"{name}.json").read_bytes()
    assert formats.render_transcript(FULL, "json", all_edits=all_edits).encode() == expected


def test_json_has_every_key() -> None:
    values = json.loads(formats.render_transcript(SHORT, "json"))
    assert list(values) == ["text", "language", "duration", "model", "task", "segments", "turns", "warnings"]
    assert list(values["segments"][0]) == [
        *("id", "start", "end", "text", "draft", "confidence", "speaker", "edits", "words", "accepted")
    ]


def test_the_schema_has_the_keys_of_the_types() -> None:
    def keys(schema: dict[str, Any]) -> list[str]:
        always = [key for key in schema["properties"] if key != "overlaps"]  # which is left out where it is empty
        assert schema["required"] == always and not schema["additionalProperties"]
        return always

    values, parts = FULL.to_dict(), SCHEMA["properties"]
    assert keys(SCHEMA) == list(values)
    assert keys(parts["turns"]["items"]) == list(values["turns"][0])
    assert keys(parts["warnings"]["items"]) == list(values["warnings"][0])
    segment = parts["segments"]["items"]
    assert keys(segment) == list(values["segments"][0])
    for name in ("edits", "words"):
        assert keys(segment["properties"][name]["items"]) == list(values["segments"][0][name][0])


@given(transcripts())
def test_a_transcript_is_read_back_from_its_dictionary_and_from_json(transcript: Transcript) -> None:
    values = transcript.to_dict(all_edits=True)
    assert Transcript.from_dict(values) == transcript
    assert Transcript.from_dict(json.loads(json.dumps(values))) == transcript
    assert formats.parse_transcript(formats.render_transcript(transcript, "json", all_edits=True), "json") == transcript


def test_json_lists_what_was_edited_and_every_token_only_when_asked() -> None:
    kept, changed = Edit("keep", " a", " a", 0), Edit("replace", " b", " c", 1)
    transcript = Transcript("a c", (Segment(0, 0.0, 1.0, "a c", "a b", (kept, changed)),))
    assert json.loads(formats.render_transcript(transcript, "json"))["segments"][0]["edits"] == [changed.to_dict()]
    every = json.loads(formats.render_transcript(transcript, "json", all_edits=True))["segments"][0]["edits"]
    assert every == [kept.to_dict(), changed.to_dict()] == transcript.to_dict(all_edits=True)["segments"][0]["edits"]


def test_keys_that_have_a_default_may_be_missing() -> None:
    assert Transcript.from_dict({"text": "a", "segments": [{"id": 0, "start": 0, "end": 1, "text": "a"}]}) == (
        Transcript("a", (Segment(0, 0.0, 1.0, "a"),))
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"transcript is \[\]"),
        ({"text": 5}, "transcript.text is 5"),
        ({"text": "a", "txet": "b"}, "transcript.txet is 'b'"),
        ({"text": "a", "timing": "now"}, "transcript.timing is 'now'"),
        ({"language": "en"}, "missing.*'text'"),
        ({"text": "a", "task": "sing"}, "transcript.task is 'sing'"),
        ({"text": "a", "duration": True}, "transcript.duration is True"),
        ({"text": "a", "segments": {"id": 0}}, "transcript.segments is"),
        (
            {"text": "a", "segments": [{"id": 0, "start": 0, "end": 1, "text": "a", "words": ["a"]}]},
            r"\[0\].words\[0\]",
        ),
        ({"text": "a", "turns": [{"speaker": "1"}]}, "missing"),
    ],
)
def test_what_is_no_transcript_is_refused_by_the_name_of_its_value(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*transcript.schema.json says what is allowed"):
        Transcript.from_dict(values)
