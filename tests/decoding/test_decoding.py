"""CTC collapse, slots and edits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from redline.decoding import ctc
from redline.decoding import slots as edit
from redline.decoding.align import align_scores
from redline.types import Edit

BLANK = 9
tokens = st.integers(0, 4)
drafts = st.lists(tokens, max_size=8)


@st.composite
def edited(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """A draft and a path over its slots."""
    draft = draw(drafts)
    size = len(edit.with_slots(draft, BLANK))
    return draft, draw(st.lists(st.one_of(tokens, st.just(BLANK)), min_size=size, max_size=size))


def letters(ids: Sequence[int]) -> list[str]:
    return ["abcdefghij"[id] for id in ids]


def edits_of(draft: Sequence[int], path: Sequence[int]) -> list[Edit]:
    return edit.edits(draft, path, BLANK, letters(draft), letters(ctc.collapse(path, BLANK)))


def by_op(draft: Sequence[int], path: Sequence[int]) -> list[tuple[str, str, str, int]]:
    return [(e.op, e.draft, e.text, e.at) for e in edits_of(draft, path)]


def test_collapse_merges_repeats_before_it_drops_blanks() -> None:
    assert ctc.collapse([9, 1, 1, 9, 1, 2, 2, 9, 9], BLANK) == [1, 1, 2]
    assert ctc.collapse([], BLANK) == []
    assert ctc.collapse([9, 9], BLANK) == []


@given(drafts)
def test_collapse_undoes_any_ctc_path_of_a_text(ids: list[int]) -> None:
    path = [step for id in ids for step in (BLANK, id, id)]
    assert ctc.collapse(path, BLANK) == ids


def test_greedy_ignores_steps_past_the_length() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 2], [3, 9, 4]]), 10).float()
    assert ctc.greedy(logits, torch.tensor([2, 3]), BLANK) == [[1], [3, 4]]
    logits[0, 2] = float("nan")
    assert ctc.greedy(logits, torch.tensor([2, 0]), BLANK) == [[1], []]


@pytest.mark.parametrize(
    ("draft", "minimum", "slots"),
    [
        ([], 8, [9] * 8),
        ([1, 2, 3], 8, [9, 1, 9, 2, 9, 3, 9, 9]),
        ([1, 2, 3, 4], 8, [9, 1, 9, 2, 9, 3, 9, 4, 9]),
        ([1], 0, [9, 1, 9]),
    ],
)
def test_slots_surround_every_token(draft: list[int], minimum: int, slots: list[int]) -> None:
    assert edit.with_slots(draft, BLANK, minimum) == slots


@given(drafts)
def test_unchanged_slots_keep_every_token_that_ctc_can_keep(draft: list[int]) -> None:
    path = edit.with_slots(draft, BLANK)
    assert [e.op for e in edits_of(draft, path)] == ["keep"] * len(draft)


def test_each_slot_does_what_it_says() -> None:
    draft = [0, 1, 2]
    assert by_op(draft, [9, 0, 9, 4, 9, 9, 3, 9]) == [
        ("keep", "a", "a", 0),
        ("replace", "b", "e", 1),
        ("delete", "c", "", 2),
        ("insert", "", "d", 3),
    ]
    assert by_op(draft, [3, 0, 4, 1, 9, 2, 9, 3])[-1] == ("insert", "", "d", 3)  # a slot beyond the last token


def test_a_repeat_in_neighbouring_slots_counts_once_and_keep_wins() -> None:
    assert by_op([0], [0, 0, 0, 9, 9, 9, 9, 9]) == [("keep", "a", "a", 0)]
    assert by_op([0, 1], [9, 1, 1, 1, 9, 9, 9, 9]) == [("delete", "a", "", 0), ("keep", "b", "b", 1)]
    assert by_op([0, 1], [2, 2, 2, 2, 9, 9, 9, 9]) == [("replace", "a", "c", 0), ("delete", "b", "", 1)]
    assert by_op([0, 0], [9, 0, 0, 0, 9, 9, 9, 9]) == [("keep", "a", "a", 0), ("delete", "a", "", 1)]


def replay(done: Sequence[Edit], draft: Sequence[int]) -> list[str]:
    """Apply edits to the draft, trusting only op, at and text."""
    out, position = [], 0
    for e in done:
        if e.op == "insert":
            assert e.at == position
            out.append(e.text)
        else:
            assert e.at == position
            assert (e.op == "keep") == (e.text == e.draft)
            out += [] if e.op == "delete" else [e.text]
            position += 1
    assert position == len(draft)
    return out


@given(edited())
def test_replaying_the_edits_gives_the_final_text(case: tuple[list[int], list[int]]) -> None:
    draft, path = case
    done = edits_of(draft, path)
    final = letters(ctc.collapse(path, BLANK))
    assert replay(done, draft) == final
    assert "".join(e.text for e in done) == "".join(final)
    assert "".join(e.draft for e in done) == "".join(letters(draft))


@given(edited())
def test_a_token_that_some_slot_keeps_is_never_reported_as_replaced(case: tuple[list[int], list[int]]) -> None:
    draft, path = case
    kept = {at for at, token in enumerate(draft) if path[2 * at + 1] == token}
    for e in edits_of(draft, path):
        assert not (e.op == "replace" and e.at in kept)


def test_a_slot_keeps_its_token_unless_another_is_likelier_by_more_than_the_bias() -> None:
    slots, other = torch.tensor([[1, 9, 2]]), torch.tensor([[3, 4, 5]])
    own, others = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-0.9, -0.1, -1.0]])
    ids, log_probs = edit.choose(slots, own, other, others)
    assert ids.tolist() == [[3, 4, 2]]
    assert torch.equal(log_probs, torch.tensor([[-0.9, -0.1, -0.5]]))
    assert edit.choose(slots, own, other, others, keep_bias=0.2)[0].tolist() == [[1, 4, 2]]
    assert edit.choose(slots, own, other, others, keep_bias=-0.6)[0].tolist() == [[3, 4, 5]]


def test_a_batch_of_slots_is_filled_up_with_blanks() -> None:
    ids, lengths = edit.slot_batch([[], [7, 8]], BLANK, minimum=1)
    assert ids.tolist() == [[9, 9, 9, 9, 9], [9, 7, 9, 8, 9]] and lengths.tolist() == [1, 5]


def test_each_slot_hears_the_windows_of_its_token_or_between_two() -> None:
    draft, blank = [2, 1], 0
    likely = torch.tensor([[9, 0, 0, 4], [1, 0, 9, 5], [1, 0, 9, 0], [9, 0, 0, 7], [1, 9, 0, 3.0]])
    log_probs = likely.log_softmax(dim=-1)
    (path,) = align_scores(log_probs[None], torch.tensor([5]), [draft], blank)
    scores = edit.sound_scores(log_probs, path, draft, 8, blank)
    gain = (log_probs[:, 3] - log_probs.gather(1, torch.tensor([0, 2, 2, 0, 1])[:, None])[:, 0]).tolist()
    assert scores[:5, 3].tolist() == pytest.approx([gain[0], max(gain[1:3]), gain[3], gain[4], -math.inf])
    assert scores[[0, 1, 2, 3, 4], [0, 2, 0, 1, 0]].tolist() == [0.0] * 5  # what stands there
    deleted = sum(float(log_probs[at, blank] - log_probs[at, 2]) for at in (1, 2))
    assert float(scores[1, blank]) == pytest.approx(deleted)
    assert scores[5:, blank].tolist() == [0.0] * 3 and scores[5:, 1:].isneginf().all()
    untold = edit.sound_scores(log_probs, None, draft, 8, blank)
    assert untold[[1, 3], draft].tolist() == [0.0, 0.0] and untold[:, 3].isneginf().all()
