"""Keywords as users write them, and where they stand in a text."""

from __future__ import annotations

import time

import pytest

from redline.errors import UnsupportedTaskError
from redline.keywords import Keyword, KeywordIndex
from redline.prompts import PromptRequest, checked_keywords, instruction


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("oat milk", Keyword("oat milk")),
        (" Siobhan => shivawn ", Keyword("Siobhan", ("shivawn",))),
        ("Nguyen=>win | new yen :2.5", Keyword("Nguyen", ("win", "new yen"), 2.5)),
        ("cortado :0.5", Keyword("cortado", (), 0.5)),
        ("ratio 3:2", Keyword("ratio 3:2")),
        ("a | b", Keyword("a | b")),
    ],
)
def test_a_keyword_says_how_it_is_said_and_how_much_it_counts(text: str, keyword: Keyword) -> None:
    assert Keyword.parse(text) == keyword


@pytest.mark.parametrize(
    "text",
    ["=> win", "Nguyen =>", "a => b => c", "a => b |", "a :0", "a :-1", "a :11", "a :nan", "a :x", "a => b :inf"],
)
def test_what_cannot_be_read_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(UnsupportedTaskError, match=r"the keyword .*(write PHRASE|allowed are numbers)"):
        checked_keywords([text])


def test_parts_of_a_keyword_have_the_limits_of_one() -> None:
    with pytest.raises(UnsupportedTaskError, match=r"keyword 1 .* 65 characters"):
        checked_keywords(["a => " + "x" * 65])
    long = "x" * 64
    assert checked_keywords([f"{long} => {long}"]) == (f"{long} => {long}",)


def test_a_prompt_has_the_phrases_alone() -> None:
    request = PromptRequest(keywords=("Nguyen => win :2", "cortado"))
    assert instruction(request, "granite_speech").endswith("Keywords: Nguyen, cortado")


@pytest.mark.parametrize(
    ("text", "terms", "expected"),
    [
        ("we met priya, and mcdonald.", ["Priya", "McDonald"], "we met Priya, and McDonald."),
        ("the new york times", ["New  York"], "the New York times"),
        ("priyanka was in newyork", ["Priya", "York"], "priyanka was in newyork"),
        ("NATO and Nato and nato", ["NATO", "oat milk"], "NATO and NATO and NATO"),
        ("die gro\u00dfe stra\u00dfe", ["GRO\u00dfE STRA\u00dfE"], "die GRO\u00dfE STRA\u00dfE"),
        ("a (b) c", ["(B)", ""], "a (B) c"),
    ],
)
def test_terms_keep_the_capitals_they_are_given_with(text: str, terms: list[str], expected: str) -> None:
    assert "".join(KeywordIndex(terms).restore([text])) == expected
    cut = len(text) // 3
    assert "".join(KeywordIndex(terms).restore([text[:cut], "", text[cut:]])) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([" so", " shiv", "awn", " came."], [" so", " Siobhan", "", " came."]),
        ([" so", " shiv", "awn,"], [" so", " Siobhan", ","]),
        (["Shivawn came"], ["Siobhan came"]),
        ([" shivawns", " Siobhan"], [" shivawns", " Siobhan"]),
        ([" a new", " yen", " bill, win", "-win"], [" a Nguyen", "", " bill, Nguyen", "-Nguyen"]),
        ([" New y", "en"], [" Nguyen", ""]),
        ([" oat", " milk"], [" oat", " milk"]),
    ],
)
def test_what_is_said_is_written_as_the_phrase_in_its_first_piece(pieces: list[str], expected: list[str]) -> None:
    index = KeywordIndex(["Siobhan => shivawn", "Nguyen => win | new yen", "yen => yen", "oat milk"])
    assert index.write(pieces) == expected
    assert index.write(index.write(pieces)) == expected


def test_small_phrases_begin_with_a_capital_where_what_is_said_does() -> None:
    index = KeywordIndex(["café => ka fay"])
    assert index.write(["Ka", " fay and ka fay"]) == ["Café", " and café"]


def test_twenty_thousand_phrases_are_found_as_fast_as_a_few() -> None:
    many = KeywordIndex([f"name{number} surname{number}" for number in range(20_000)])
    text = "we met name7 surname7 and nobody else in the whole of the long and windy afternoon " * 20
    assert len(list(many.find(text))) == 20
    started = time.perf_counter()
    many.restore([text])
    assert time.perf_counter() - started < 1.0, "one look at each word, not at each phrase"
