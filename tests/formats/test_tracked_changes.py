"""Tracked changes: edits of tokens as changes of words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redline.formats.tracked_changes import tracked_changes
from redline.types import Edit


def edits(*rows: tuple[str, str]) -> list[Edit]:
    changes = []
    for at, (draft, text) in enumerate(rows):
        op = "keep" if draft == text else "insert" if not draft else "delete" if not text else "replace"
        changes.append(Edit(op, draft, text, at))  # type: ignore[arg-type]
    return changes


def test_pieces_of_a_word_are_shown_as_the_word() -> None:
    assert tracked_changes(edits((" my", " my"), (" fell", " fell"), ("o", "ow"))) == [
        ("keep", "my", "my"),
        ("replace", "fello", "fellow"),
    ]


def test_a_word_that_loses_its_start_joins_the_word_before() -> None:
    assert tracked_changes(edits((" to", " to"), (" day", "day"), (" is", " is"))) == [
        ("replace", "to day", "today"),
        ("keep", "is", "is"),
    ]


def test_deleted_and_inserted_words_stand_apart_from_kept_ones() -> None:
    rows = [(" a", " a"), (" um", ""), (" uh", ""), (" b", " b"), ("", " new"), (" c", " c")]
    assert tracked_changes(edits(*rows)) == [
        ("keep", "a", "a"),
        ("delete", "um uh", ""),
        ("keep", "b", "b"),
        ("insert", "", "new"),
        ("keep", "c", "c"),
    ]


def test_a_deleted_word_beside_an_inserted_one_was_replaced() -> None:
    assert tracked_changes(edits((" cat", ""), ("", " dog"))) == [("replace", "cat", "dog")]
    assert tracked_changes(edits(("", " dog"), (" cat", ""))) == [("replace", "cat", "dog")]


def test_a_word_deleted_and_inserted_again_is_kept() -> None:
    assert tracked_changes(edits(("", " a"), (" a", ""))) == [("keep", "a", "a")]


def test_punctuation_changes_the_word_it_follows() -> None:
    assert tracked_changes(edits((" so", " so"), ("", ","), (" my", " my"))) == [
        ("replace", "so", "so,"),
        ("keep", "my", "my"),
    ]


TOKENS = st.sampled_from(["", "a", "b", " a", " b", " ab", ",", " "])


@given(st.lists(st.tuples(TOKENS, TOKENS), max_size=20))
def test_changes_hold_all_words_of_both_sides(rows: list[tuple[str, str]]) -> None:
    changes = tracked_changes(edits(*rows))
    for side in (0, 1):
        words = "".join(row[side] for row in rows).split()
        assert " ".join(change[1 + side] for change in changes).split() == words
    for change in changes:
        assert (change.draft == change.text) == (change.op == "keep")
        assert (not change.draft) == (change.op == "insert") and (not change.text) == (change.op == "delete")
