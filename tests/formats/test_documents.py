"""Documents of a transcript: docx and md hold all text as it was said, and the edits as changes that can be undone."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from redline import formats
from redline.formats.tracked_changes import segment_changes
from redline.types import Edit, Notice, Segment, Transcript
from tests.cli.commands import EDITED
from tests.formats.transcripts import transcripts

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
SHARP = st.sampled_from("\x00\x08\x1b\ufffe\uffff\ud800]>&<\"'😀\u202eשלום \t\n")
HOSTILE = st.lists(st.characters() | SHARP | st.just("]]>"), max_size=30).map("".join)
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\x7f")  # XML 1.0 has no other characters
TOKENS = st.sampled_from(["", "a", "b", " a", " b", " ab", ",", " <", "]]>", " *", "~", " _", " "])
EDITS = st.lists(st.tuples(TOKENS, TOKENS), max_size=20)
TALK = Transcript(
    f"{EDITED.text} *yes* yes no",
    (
        Segment(0, 0.32, 3.2, EDITED.text, EDITED.draft, EDITED.edits),
        Segment(1, 59.9, 62.0, "*yes*", speaker="1"),
        Segment(2, 62.0, 64.0, "yes", speaker="1"),
        Segment(3, 3661.0, 3662.0, "no", speaker="2_b"),
    ),
    *("en", 3662.5, "tiny"),
    warnings=(Notice("truncated", "ends\nearly", 62.0, 64.0), Notice("clipped", "1. too loud")),
)


def docx_parts(rendered: str | bytes) -> dict[str, bytes]:
    assert isinstance(rendered, bytes)
    with zipfile.ZipFile(io.BytesIO(rendered)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def docx_paragraphs(rendered: str | bytes, *, accept: bool = True) -> list[str]:
    """Texts of a docx, all of its tracked changes accepted or rejected."""
    left_out, kept = ("del", "ins") if accept else ("ins", "del")
    paragraphs = []
    for paragraph in ElementTree.fromstring(docx_parts(rendered)["word/document.xml"]).iter(f"{W}p"):
        text = ""
        for child in paragraph:
            runs = [child] if child.tag == f"{W}r" else list(child) if child.tag == f"{W}{kept}" else []
            assert runs or child.tag in (f"{W}pPr", f"{W}{left_out}")
            text += "".join(each.text or "" for run in runs for each in run if each.tag in (f"{W}t", f"{W}delText"))
        paragraphs.append(text)
    return paragraphs


def edited(rows: list[tuple[str, str]]) -> Segment:
    """A segment whose edits lead from its draft to its text."""
    edits = []
    for at, (draft, text) in enumerate(rows):
        op = "keep" if draft == text else "insert" if not draft else "delete" if not text else "replace"
        edits.append(Edit(op, draft, text, at))  # type: ignore[arg-type]
    draft, text = (" ".join("".join(row[side] for row in rows).split()) for side in (0, 1))
    return Segment(0, 0.0, 1.0, text, draft, tuple(edits))


# ---------------------------------------------------------------------------------------------------------------- docx


def test_a_docx_has_title_facts_turns_and_warnings() -> None:
    assert docx_paragraphs(formats.render_transcript(TALK, "docx", "my talk")) == [
        "my talk",
        "Model: tiny, Language: en, Duration: 1:01:02",
        "[0:00:00] And so, my fellow Americans",
        "[0:00:59] Speaker 1: *yes* yes",
        "[1:01:01] 2_b: no",
        "Warnings",
        "– 0:01:02: ends early",
        "– 1. too loud",
    ]


def test_without_show_edits_nothing_is_tracked() -> None:
    document = docx_parts(formats.render_transcript(TALK, "docx"))["word/document.xml"]
    assert b"<w:ins" not in document and b"<w:del" not in document


def test_a_docx_shows_the_edits_as_tracked_changes_of_redline() -> None:
    rendered = formats.render_transcript(TALK, "docx", show_edits=True)
    assert docx_paragraphs(rendered)[2] == f"[0:00:00] {EDITED.text}"
    assert docx_paragraphs(rendered, accept=False)[2] == f"[0:00:00] {EDITED.draft}"
    root = ElementTree.fromstring(docx_parts(rendered)["word/document.xml"])
    changes = [each for tag in ("ins", "del") for each in root.iter(f"{W}{tag}")]
    assert {each.get(f"{W}author") for each in changes} == {"Redline"}
    assert len({each.get(f"{W}id") for each in changes}) == len(changes) == 9
    assert all(each.get(f"{W}date") is None for each in changes), "the clock would make each file another"


@given(EDITS, st.booleans(), st.sampled_from([None, "1"]))
def test_changes_accepted_are_the_text_and_rejected_the_draft(
    rows: list[tuple[str, str]], saved: bool, speaker: str | None
) -> None:
    segment = replace(edited(rows), speaker=speaker)
    if saved:  # as json holds it, without the tokens that were kept
        segment = replace(segment, edits=tuple(edit for edit in segment.edits if edit.op != "keep"))
    talk = Transcript(segment.text, (segment, replace(segment, id=1)))
    rendered = formats.render_transcript(talk, "docx", show_edits=True)
    for accept, words in ((True, segment.text), (False, segment.draft)):
        shown = "".join(f" {text}" for text in docx_paragraphs(rendered, accept=accept)[2:])
        assert re.sub(r" \[0:00:00\]( Speaker 1:)?", "", shown).split() == (f"{words} " * 2).split()


def test_a_draft_that_has_no_edits_is_compared_word_by_word() -> None:
    segment = Segment(0, 0.0, 1.0, "i have 23 cats", "i have twenty three cats")
    assert segment_changes(segment) == [
        ("keep", *["i have"] * 2),
        ("replace", "twenty three", "23"),
        ("keep", *["cats"] * 2),
    ]
    assert segment_changes(replace(segment, draft=None)) == [("keep", *["i have 23 cats"] * 2)]
    assert segment_changes(Segment(0, 0.0, 1.0, "", "um")) == [("delete", "um", "")]


@given(st.lists(HOSTILE, max_size=4), HOSTILE, HOSTILE, st.booleans())
def test_any_text_is_a_docx_that_xml_can_hold(texts: list[str], name: str, warning: str, show_edits: bool) -> None:
    segments = tuple(Segment(id, 0.0, 1.0, text, warning) for id, text in enumerate(texts))
    talk = Transcript(" ".join(texts), segments, warnings=(Notice("c", warning),))
    rendered = formats.render_transcript(talk, "docx", name, show_edits=show_edits)
    title, _, *shown, heading, notice = docx_paragraphs(rendered)

    def plain(text: str) -> str:
        return NOT_XML.sub("\ufffd", " ".join(text.split()))

    assert title == plain(name) and heading == "Warnings" and notice == f"– {plain(warning)}".rstrip()
    assert " ".join(text.removeprefix("[0:00:00]") for text in shown).split() == plain(" ".join(texts)).split()
    for part in docx_parts(rendered).values():
        ElementTree.fromstring(part)


@given(transcripts())
def test_a_docx_is_the_same_to_the_byte_whenever_it_is_written(talk: Transcript) -> None:
    rendered = formats.render_transcript(talk, "docx", show_edits=True)
    assert rendered == formats.render_transcript(talk, "docx", show_edits=True)
    assert isinstance(rendered, bytes)
    for part in zipfile.ZipFile(io.BytesIO(rendered)).infolist():
        assert part.date_time == (1980, 1, 1, 0, 0, 0) and part.compress_type == zipfile.ZIP_STORED


def test_save_writes_a_docx_that_another_library_reads(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx", reason="python-docx, of redline[test], is not installed")
    path = TALK.save(tmp_path / "my talk.docx", show_edits=True)
    read = docx.Document(str(path))
    assert [(each.style.name, each.text) for each in read.paragraphs][:2] == [
        ("Title", "my talk"),
        ("Normal", "Model: tiny, Language: en, Duration: 1:01:02"),
    ]
    assert read.paragraphs[3].runs[0].bold and read.paragraphs[3].text == "[0:00:59] Speaker 1: *yes* yes"
    assert read.paragraphs[5].style.name == "Heading 1"


def test_a_translation_says_what_it_is_translated_into() -> None:
    talk = Transcript("hi", (), "en", 1.0, "2b", "translate")
    assert docx_paragraphs(formats.render_transcript(talk, "docx", "a")) == [
        "a",
        "Model: 2b, Translated into: en, Duration: 0:00:01",
        "hi",
    ]


# ------------------------------------------------------------------------------------------------------------------ md


def test_an_md_has_heading_facts_turns_and_warnings() -> None:
    assert formats.render_transcript(TALK, "md", "my_talk") == (
        "# my\\_talk\n\nModel: tiny, Language: en, Duration: 1:01:02\n\n"
        "**[0:00:00]** And so, my fellow Americans\n\n"
        "**[0:00:59] Speaker 1:** \\*yes\\* yes\n\n"
        "**[1:01:01] 2\\_b:** no\n\n"
        "## Warnings\n\n- 0:01:02: ends early\n- 1\\. too loud\n"
    )


def inline(rendered: str | bytes) -> list[list[Token]]:
    """The pieces of each block of a Markdown text, as GitHub's reading of it has them."""
    assert isinstance(rendered, str)
    parser = MarkdownIt("commonmark").enable(["strikethrough", "table"])
    tokens = parser.parse(rendered)
    known = {"heading", "paragraph", "bullet_list", "list_item"}
    assert {re.sub("_(open|close)$", "", token.type) for token in tokens} <= {*known, "inline"}
    return [token.children or [] for token in tokens if token.type == "inline"]


def words_outside(tokens: list[Token], left_out: str) -> str:
    """The text of what is not inside of a mark: `s` for deletions, `strong` for insertions and labels."""
    depth, text = 0, ""
    for token in tokens:
        depth += token.nesting if token.type.startswith(left_out) else 0
        text += token.content if token.nesting == 0 and not depth else ""
    return text


SPOKEN = st.lists(st.text("*_#<>[]()!`~|&\\-+=1.$aé \u3000", min_size=1, max_size=8).filter(str.strip), min_size=1)


@given(SPOKEN, SPOKEN)
def test_no_word_is_markup(texts: list[str], names: list[str]) -> None:
    segments = tuple(Segment(id, 0.0, 1.0, text) for id, text in enumerate(texts))
    warnings = tuple(Notice("c", text) for text in names)
    for talk in (
        Transcript("".join(texts), segments, warnings=warnings),
        Transcript(" ".join(texts), warnings=warnings),
    ):
        title, _, *blocks = inline(formats.render_transcript(talk, "md", names[0]))
        assert {token.type for block in blocks for token in block} <= {
            "text",
            "text_special",
            "strong_open",
            "strong_close",
        }
        said = [words_outside(block, "strong").strip() for block in [title, *blocks]]
        paragraphs = texts if talk.segments else [" ".join(texts)]
        wanted = [" ".join(text.split()) for text in [names[0], *paragraphs, "Warnings", *names]]
        assert said == wanted


def spoken_edits() -> st.SearchStrategy[list[tuple[str, str]]]:
    tokens = st.sampled_from(["", " a", " *", " ~~", "~", "_", " **", "b", " \\", ",", " 1.", " -"])
    return st.lists(st.tuples(tokens, tokens), min_size=1, max_size=9)


@given(spoken_edits())
def test_struck_and_bold_words_lead_from_the_draft_to_the_text(rows: list[tuple[str, str]]) -> None:
    segment = edited(rows)
    rendered = formats.render_transcript(Transcript(segment.text, (segment,)), "md", show_edits=True)
    blocks = inline(rendered)[2:]
    assert bool(blocks) == bool(segment.text or segment.draft)
    for block in blocks:
        assert words_outside(block, "strong").split() == (segment.draft or "").split()
        assert words_outside(block, "s_").removeprefix("[0:00:00]").split() == segment.text.split()


def test_an_md_is_text_that_save_writes(tmp_path: Path) -> None:
    TALK.save(tmp_path / "my_talk.md", show_edits=True)
    assert "~~fello~~ **fellow**" in (tmp_path / "my_talk.md").read_text(encoding="utf-8")
