"""The index: what is found, in both databases alike, and what of a text is shown."""

from __future__ import annotations

import pytest

from redline.serve.store.search_index import folded_words, snippet
from redline.serve.store.store import Store
from redline.types import Segment, Transcript

TEXTS = ("Über die Straße", "東京へ行きます", "don't stop: foo.com, a-b", "été_indien", "naïve NAÏVE naive", "")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("uber", [0]),
        ("ÜBER strasse", [0]),
        ("東京", [1]),
        ("京東", []),
        ("行き", [1]),
        ("don't", [2]),
        ("foo.com", [2]),
        ("a-b", [2]),
        ("b a", [2]),
        ('"b a"', []),
        ("ete", [3]),
        ("indien", [3]),
        ("naive", [4]),
        ("stopp", []),
        ("NOT stop", []),
        ("stop OR uber", []),
        ('"', []),
    ],
)
def test_both_databases_find_the_same(store: Store, query: str, found: list[int]) -> None:
    segments = tuple(Segment(at, float(at), at + 1.0, text) for at, text in enumerate(TEXTS))
    with store.database.write() as connection:
        store.archive.add(connection, Transcript(" ".join(TEXTS), segments), owner="ana", name="a.wav")
        store.archive.add(connection, Transcript("uber", (Segment(0, 0.0, 1.0, "uber"),)), owner="ben", name="b.wav")
    assert [hit.segment for hit in store.archive.search(query, "ana")] == found
    assert all(hit.marks for hit in store.archive.search(query))


def test_a_snippet_shows_the_words_around_and_marks_what_was_found() -> None:
    text = " ".join(f"w{at}" for at in range(100))
    told, marks = snippet(text, "w50 w51")
    assert told.startswith("… w38") and told.endswith("w62 …")
    assert [told[start:end] for start, end in marks] == ["w50", "w51"]
    assert snippet("Ein Café!", "cafe") == ("Ein Café!", [(4, 8)])
    assert snippet("", "cafe") == ("", []) and snippet("a b", "") == ("a b", [])


def test_folding_keeps_words_apart_and_signs_alone() -> None:
    assert folded_words("Ça va? L'été, 3.5 % — 東京") == ["ca", "va", "l", "ete", "3", "5", "東", "京"]
