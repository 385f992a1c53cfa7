"""Speculative decoding: exact mode against greedy decoding, fast mode against its thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redline.decoding.generate import GenerateOptions, Generation, greedy
from redline.decoding.repetition import RepetitionOptions, RepetitionOracle
from redline.decoding.speculative import (
    Acceptance,
    SpeculativeOptions,
    accepted,
    frame_entropy,
    rethink,
    trusted,
    verify,
)
from redline.errors import ConfigError
from tests.decoding.test_generate import EOS, History, Toy, V, recent, whole

OPTIONS = GenerateOptions(EOS, suppress=(5,), loops=RepetitionOptions(max_n=6, copies=3, tokens=6))
UNGUARDED = replace(OPTIONS, loops=RepetitionOptions(max_n=0))
EXACT, FAST = SpeculativeOptions(), SpeculativeOptions("fast")


class DraftingToy(Toy):
    """A toy whose prefill reads a draft too, and whose cache can be cut."""

    def prefill(self, drafts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits [K + 1, V] of each row, and a cache that holds its draft."""
        pairs = list(zip(self.histories, drafts, strict=True))
        self.histories = [(*prompt, *draft) for prompt, draft in pairs]
        return [torch.stack([self.logits(all_[: 1 + at]) for at in range(len(all_))]) for all_ in self.histories]

    def truncate(self, lengths: Sequence[int]) -> None:
        self.histories = [all_[: 1 + length] for all_, length in zip(self.histories, lengths, strict=True)]


def plain(
    prompts: Sequence[int],
    budgets: Sequence[int],
    logits: Callable[[History], Tensor],
    options: GenerateOptions = OPTIONS,
    said: Sequence[RepetitionOracle] | None = None,
) -> tuple[list[Generation], int]:
    """Greedy texts and the number of steps."""
    toy = Toy(prompts, logits)
    return greedy(toy.read(), toy.step, budgets, options, said), len(toy.sizes)


def speculate(
    drafts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    speculative: SpeculativeOptions,
    logits: Callable[[History], Tensor] = whole,
    said: Sequence[RepetitionOracle] | None = None,
) -> tuple[list[Generation], list[Acceptance], int]:
    """The whole way of row i with prompt i: texts, acceptances and the number of steps."""
    toy = DraftingToy(range(len(drafts)), logits)
    verdicts = verify(toy.prefill(drafts), drafts, budgets, speculative, OPTIONS, said)
    toy.truncate([len(verdict.ids) for verdict in verdicts])
    texts = rethink(verdicts, toy.step, budgets, OPTIONS, said)
    return texts, [verdict.acceptance for verdict in verdicts], len(toy.sizes)


def tokens(rows: Sequence[Generation]) -> list[tuple[History, str]]:
    return [(row.ids, row.stop) for row in rows]


def assert_same(found: Sequence[Generation], expected: Sequence[Generation]) -> None:
    assert tokens(found) == tokens(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[int], Callable[[History], Tensor]]:
    """Drafts that begin like the greedy text of their row and go on at random, budgets, and a model."""
    logits = recent if draw(st.booleans()) else whole
    drafts, budgets = [], []
    for prompt in range(draw(st.integers(1, 5))):
        (row,), _ = plain([prompt], [30], logits, UNGUARDED)
        known = row.ids[: draw(st.integers(0, 30))]
        drafts.append([*known, *draw(st.lists(st.integers(0, V - 1), max_size=6))])
        budgets.append(draw(st.one_of(st.integers(0, 40), st.integers(0, 8))))
    return drafts, budgets, logits


@settings(deadline=None)
@given(cases())
def test_exact_is_greedy_token_by_token(case: tuple[list[list[int]], list[int], Callable[[History], Tensor]]) -> None:
    drafts, budgets, logits = case
    texts, acceptances, steps = speculate(drafts, budgets, EXACT, logits)
    expected, plain_steps = plain(range(len(drafts)), budgets, logits)
    assert_same(texts, expected)
    assert steps <= plain_steps
    for draft, acceptance, row in zip(drafts, acceptances, expected, strict=True):
        assert acceptance.drafted == len(draft)
        same = [a == b for a, b in zip(draft, row.ids, strict=False)]
        if row.stop == "end":
            assert acceptance.accepted == (same.index(False) if False in same else len(same))


@settings(deadline=None)
@given(cases(), st.integers(0, 5))
def test_exact_is_greedy_with_what_is_known_of_repetition(
    case: tuple[list[list[int]], list[int], Callable[[History], Tensor]], copies: int
) -> None:
    drafts, budgets, _ = case
    said: list[RepetitionOracle] = [lambda unit, row=row: (copies + row) % 6 for row in range(len(drafts))]  # type: ignore[misc]
    texts, _, _ = speculate(drafts, budgets, EXACT, recent, said)
    assert_same(texts, plain(range(len(drafts)), budgets, recent, said=said)[0])


def test_a_draft_that_is_the_text_needs_no_step() -> None:
    texts, _ = plain(range(40), [40] * 40, whole)
    prompts = [prompt for prompt, text in enumerate(texts) if text.stop == "end"]
    expected = [texts[prompt] for prompt in prompts]
    toy = DraftingToy(prompts)
    drafts = [row.ids for row in expected]
    verdicts = verify(toy.prefill(drafts), drafts, [40] * len(drafts), EXACT, OPTIONS)
    assert_same(rethink(verdicts, toy.step, [40] * len(drafts), OPTIONS), expected)
    assert not toy.sizes
    assert {verdict.stop for verdict in verdicts} == {"end"}
    hows = {(len(row.ids) > 0, verdict.acceptance.how) for row, verdict in zip(expected, verdicts, strict=True)}
    assert hows == {(True, "whole"), (False, "none")}


def test_exact_goes_on_behind_a_draft_that_is_too_short() -> None:
    rows, _ = plain(range(10), [12] * 10, whole)
    drafts = [row.ids[:-1] for row in rows]
    texts, acceptances, steps = speculate(drafts, [12] * 10, EXACT)
    assert_same(texts, rows)
    assert [acceptance.accepted for acceptance in acceptances] == [len(draft) for draft in drafts]
    assert steps == 1


def test_padding_behind_a_row_of_logits_is_not_read() -> None:
    toy, draft = DraftingToy([3]), [1, 4]
    (logits,) = toy.prefill([draft])
    padded = torch.cat((logits, torch.full((3, V), math.nan)))
    for speculative in (EXACT, FAST):
        one, other = (verify([rows], [draft], [9], speculative, OPTIONS)[0] for rows in (logits, padded))
        assert (one.ids, one.stop, one.acceptance) == (other.ids, other.stop, other.acceptance)
        assert torch.equal(one.next_logits, other.next_logits)


def probabilities(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows).log()


SURE = probabilities([0.1, 0.5, 0.2, 0.2], [0.1, 0.2, 0.6, 0.1], [0.1, 0.1, 0.15, 0.65], [0.1, 0.7, 0.1, 0.1])
SMALL = GenerateOptions(EOS)


@pytest.mark.parametrize(
    ("draft", "exact", "fast"),
    [
        ([1, 2, 3], 3, 3),
        ([2, 2, 3], 0, 3),  # 0.2 is enough
        ([1, 1, 2], 1, 2),
        ([1, 3, 3], 1, 1),  # what follows a token that falls falls too
        ([1, 2], 2, 2),
        ([], 0, 0),
    ],
)
def test_a_prefix_stands(draft: list[int], exact: int, fast: int) -> None:
    fast_options = replace(FAST, tau_llm=0.1999)
    assert accepted(SURE, draft, EXACT, SMALL) == exact
    assert accepted(SURE, draft, fast_options, SMALL) == fast


def test_the_end_and_suppressed_ids_never_stand() -> None:
    logits = probabilities([0.9, 0.05, 0.05, 0.0], [0.1, 0.8, 0.1, 0.0])
    believing = replace(FAST, tau_llm=0.0)
    for speculative in (EXACT, believing):
        assert accepted(logits, [EOS], speculative, SMALL) == 0
        assert accepted(logits[1:].repeat(2, 1), [1], speculative, GenerateOptions(EOS, suppress=(1,))) == 0
    # Without the first choice, the second is the likeliest.
    assert accepted(SURE, [2, 2], EXACT, GenerateOptions(EOS, suppress=(1, 3))) == 2


def test_fast_takes_a_whole_draft_as_the_text() -> None:
    drafts = [[1, 2, 3, 4], [4, 4, 2], [2, 1]]
    texts, acceptances, steps = speculate(drafts, [20, 20, 1], replace(FAST, tau_llm=0.0))
    assert tokens(texts) == [((1, 2, 3, 4), "end"), ((4, 4, 2), "end"), ((2,), "limit")]
    assert acceptances == [Acceptance(len(draft), len(draft), "whole") for draft in drafts]
    assert steps == 0


def test_without_a_draft_the_text_is_generated() -> None:
    for speculative in (EXACT, FAST):
        texts, acceptances, _ = speculate([[]] * 10, [20] * 10, speculative)
        assert_same(texts, plain(range(10), [20] * 10, whole)[0])
        assert acceptances == [Acceptance(0, 0, "none")] * 10


def test_fast_goes_on_greedily_behind_a_token_that_falls() -> None:
    drafts = [[1 + (row + at) % 4 for at in range(6)] for row in range(60)]
    texts, acceptances, _ = speculate(drafts, [20] * 60, FAST)
    banned = torch.tensor(OPTIONS.suppress)
    for prompt, (draft, acceptance, text) in enumerate(zip(drafts, acceptances, texts, strict=True)):
        probs = [whole((prompt, *draft[:at])).index_fill(0, banned, -math.inf).softmax(0)[draft[at]] for at in range(6)]
        count = [*(float(prob) < 0.2 for prob in probs), True].index(True)
        assert acceptance == Acceptance(6, count, "whole" if count == 6 else "prefix" if count else "none")
        if count < 6:
            start = (prompt, *draft[:count])

            def behind(said: History, start: History = start) -> Tensor:
                return whole(start + said[1:])

            (rest,), _ = plain([0], [20 - count], behind)
            assert (text.ids, text.stop) == ((*draft[:count], *rest.ids), rest.stop)
    assert {"prefix", "none"} <= {acceptance.how for acceptance in acceptances}


def test_a_draft_that_loops_is_cut_like_a_text_that_loops() -> None:
    texts, _, steps = speculate([[4] + [1, 2] * 8], [40], replace(FAST, tau_llm=0.0))
    assert tokens(texts) == [((4, 1, 2), "loop")]
    assert steps == 0


def test_nothing_to_rethink() -> None:
    def never(ids: Tensor, rows: Tensor | None) -> Tensor:
        raise AssertionError("nothing is to be generated")

    assert rethink(verify([], [], [], EXACT, OPTIONS), never, [], OPTIONS) == []


# The draft alone


def test_entropy_is_that_of_the_least_sure_frame() -> None:
    logits = probabilities([0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]).expand(4, 3, 4).clone()
    logits[1] = logits[1, [1, 2, 0]]
    logits[2] = logits[2, [1, 0, 0]]
    logits[2, 1:] = math.nan  # padding
    found = frame_entropy(logits, torch.tensor([3, 2, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([math.log(4), math.log(2), 0.0, math.inf]))
    assert frame_entropy(torch.zeros(2, 0, 4), torch.zeros(2, dtype=torch.int64)).tolist() == [math.inf] * 2


def test_only_fast_mode_trusts_a_draft_unseen() -> None:
    logits = probabilities([0.5, 0.5], [0.99, 0.01]).repeat(3, 1, 1)
    logits[1] = logits[1, [1, 1]]
    lengths = torch.tensor([2, 2, 0])
    assert trusted(logits, lengths, replace(FAST, tau_ctc=0.5)).tolist() == [False, True, False]
    assert trusted(logits, lengths, FAST).tolist() == [True, True, False]
    assert trusted(logits, lengths, EXACT).tolist() == [False] * 3


def test_frames_that_are_not_numbers_are_not_trusted() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, 1] = math.nan
    assert trusted(logits, torch.tensor([3]), FAST).tolist() == [False]


# Options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "faster"}, "allowed are 'exact', 'fast' and 'trust'"),
        ({"tau_ctc": -0.1}, "tau_ctc is -0.1"),
        ({"tau_ctc": math.nan}, "tau_ctc is nan"),
        ({"tau_llm": 1.1}, "tau_llm is 1.1"),
    ],
)
def test_thresholds_that_are_none_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeculativeOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [GenerateOptions(EOS, beams=2), GenerateOptions(EOS, temperature=0.5)])
def test_speculation_is_greedy(options: GenerateOptions) -> None:
    with pytest.raises(ConfigError, match="set beams to 1 and temperature to 0"):
        verify([SURE], [[1]], [5], EXACT, options)
