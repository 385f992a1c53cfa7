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

from redline.decoding.generate import GenerateOptions, Generation, Search, decode
from redline.decoding.repetition import RepetitionOptions, RepetitionOracle
from redline.decoding.speculative import SpeculativeOptions, frame_entropy, judge, trusted, verify
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


def begun(budgets: Sequence[int], options: GenerateOptions, oracles: Sequence[RepetitionOracle]) -> list[Search]:
    return [Search(row, budget, options, oracles[row] if oracles else None) for row, budget in enumerate(budgets)]


def plain(
    prompts: Sequence[int],
    budgets: Sequence[int],
    logits: Callable[[History], Tensor],
    options: GenerateOptions = OPTIONS,
    oracles: Sequence[RepetitionOracle] = (),
) -> tuple[list[Generation], int]:
    """Greedy texts and the number of steps."""
    toy = Toy(prompts, logits)
    return decode(begun(budgets, options, oracles), toy.read(), toy.step), len(toy.sizes)


def checked(search: Search, logits: Tensor, draft: Sequence[int], speculative: SpeculativeOptions) -> int:
    """How many tokens of a draft stand, given logits [K, V] or more rows."""
    ids = torch.tensor(draft, dtype=torch.int64)
    return verify(search, draft, judge(logits[: len(draft)], ids, search.options).tolist(), speculative)


def speculate(
    drafts: Sequence[Sequence[int]],
    budgets: Sequence[int],
    speculative: SpeculativeOptions,
    logits: Callable[[History], Tensor] = whole,
    oracles: Sequence[RepetitionOracle] = (),
    prompts: Sequence[int] = (),
) -> tuple[list[Generation], list[int], int]:
    """The whole way of row i with prompt i: texts, numbers of accepted tokens and the number of steps."""
    toy = DraftingToy(prompts or range(len(drafts)), logits)
    searches = begun(budgets, OPTIONS, oracles)
    rows = list(zip(searches, toy.prefill(drafts), drafts, strict=True))
    counts = [checked(*row, speculative) for row in rows]
    toy.truncate(counts)
    last = torch.stack([own[count] for (_, own, _), count in zip(rows, counts, strict=True)])
    return decode(searches, last, toy.step), counts, len(toy.sizes)


def tokens(rows: Sequence[Generation]) -> list[tuple[History, str]]:
    return [(row.ids, row.stop) for row in rows]


def assert_same(rows: Sequence[Generation], expected: Sequence[Generation]) -> None:
    assert tokens(rows) == tokens(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.log_probs == pytest.approx(other.log_probs, abs=1e-5)


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
    texts, counts, steps = speculate(drafts, budgets, EXACT, logits)
    expected, plain_steps = plain(range(len(drafts)), budgets, logits)
    assert_same(texts, expected)
    assert steps <= plain_steps
    for draft, count, row in zip(drafts, counts, expected, strict=True):
        same = [a == b for a, b in zip(draft, row.ids, strict=False)]
        if row.stop == "end":
            assert count == (same.index(False) if False in same else len(same))


@settings(deadline=None)
@given(cases(), st.integers(0, 5))
def test_exact_is_greedy_with_what_is_known_of_repetition(
    case: tuple[list[list[int]], list[int], Callable[[History], Tensor]], copies: int
) -> None:
    drafts, budgets, _ = case
    oracles: list[RepetitionOracle] = [lambda unit, row=row: (copies + row) % 6 for row in range(len(drafts))]  # type: ignore[misc]
    texts, _, _ = speculate(drafts, budgets, EXACT, recent, oracles)
    assert_same(texts, plain(range(len(drafts)), budgets, recent, oracles=oracles)[0])


def test_a_draft_that_is_the_text_needs_no_step() -> None:
    texts, _ = plain(range(40), [40] * 40, whole)
    prompts = [prompt for prompt, text in enumerate(texts) if text.stop == "end"]
    expected = [texts[prompt] for prompt in prompts]
    rows, counts, steps = speculate([row.ids for row in expected], [40] * len(prompts), EXACT, prompts=prompts)
    assert_same(rows, expected)
    assert not steps and counts == [len(row.ids) for row in expected]


def test_exact_goes_on_behind_a_draft_that_is_too_short() -> None:
    rows, _ = plain(range(10), [12] * 10, whole)
    drafts = [row.ids[:-1] for row in rows]
    texts, counts, steps = speculate(drafts, [12] * 10, EXACT)
    assert_same(texts, rows)
    assert counts == [len(draft) for draft in drafts]
    assert steps == 1


def probabilities(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows).clamp(min=1e-9).log()


CONFIDENT = probabilities([0.1, 0.5, 0.2, 0.2], [0.1, 0.2, 0.6, 0.1], [0.1, 0.1, 0.15, 0.65], [0.1, 0.7, 0.1, 0.1])
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
    assert checked(Search(0, 9, SMALL), CONFIDENT, draft, EXACT) == exact
    assert checked(Search(0, 9, SMALL), CONFIDENT, draft, replace(FAST, tau_llm=0.1999)) == fast


def test_the_end_and_suppressed_ids_never_stand() -> None:
    logits = probabilities([0.9, 0.05, 0.05, 0.0], [0.1, 0.8, 0.1, 0.0])
    believing = replace(FAST, tau_llm=0.0)
    for speculative in (EXACT, believing):
        assert checked(Search(0, 9, SMALL), logits, [EOS], speculative) == 0
        suppressing = Search(0, 9, GenerateOptions(EOS, suppress=(1,)))
        assert checked(suppressing, logits[1:].repeat(2, 1), [1], speculative) == 0
    # Without the first choice, the second is the likeliest.
    assert checked(Search(0, 9, GenerateOptions(EOS, suppress=(1, 3))), CONFIDENT, [2, 2], EXACT) == 2


def test_fast_takes_a_whole_draft_as_the_text() -> None:
    drafts = [[1, 2, 3, 4], [4, 4, 2], [2, 1]]
    texts, counts, steps = speculate(drafts, [20, 20, 1], replace(FAST, tau_llm=0.0))
    assert tokens(texts) == [((1, 2, 3, 4), "end"), ((4, 4, 2), "end"), ((2,), "limit")]
    assert counts == [len(draft) for draft in drafts]
    assert steps == 0


def test_without_a_draft_the_text_is_generated() -> None:
    for speculative in (EXACT, FAST):
        texts, counts, _ = speculate([[]] * 10, [20] * 10, speculative)
        assert_same(texts, plain(range(10), [20] * 10, whole)[0])
        assert counts == [0] * 10


def test_fast_goes_on_greedily_behind_a_token_that_falls() -> None:
    drafts = [[1 + (row + at) % 4 for at in range(6)] for row in range(60)]
    texts, counts, _ = speculate(drafts, [20] * 60, FAST)
    banned = torch.tensor(OPTIONS.suppress)
    for prompt, (draft, accepted, text) in enumerate(zip(drafts, counts, texts, strict=True)):
        probs = [whole((prompt, *draft[:at])).index_fill(0, banned, -math.inf).softmax(0)[draft[at]] for at in range(6)]
        count = [*(float(prob) < 0.2 for prob in probs), True].index(True)
        assert accepted == count
        if count < 6:
            start = (prompt, *draft[:count])

            def behind(history: History, start: History = start) -> Tensor:
                return whole(start + history[1:])

            (rest,), _ = plain([0], [20 - count], behind)
            assert (text.ids, text.stop) == ((*draft[:count], *rest.ids), rest.stop)
    assert {0, 1} <= set(counts)


def test_a_draft_that_loops_is_cut_like_a_text_that_loops() -> None:
    texts, _, steps = speculate([[4] + [1, 2] * 8], [40], replace(FAST, tau_llm=0.0))
    assert tokens(texts) == [((4, 1, 2), "loop")]
    assert steps == 0


def test_a_draft_token_behind_logits_that_are_no_numbers_never_stands() -> None:
    broken = CONFIDENT.clone()
    broken[1] = math.nan
    for speculative in (EXACT, replace(FAST, tau_llm=0.0)):
        assert checked(Search(0, 9, SMALL), broken, [1, 0, 3], speculative) == 1


# The draft alone


def test_entropy_is_that_of_the_frame() -> None:
    logits = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]).log()
    torch.testing.assert_close(frame_entropy(logits), torch.tensor([math.log(4), 0.0, math.log(2)]))


def test_the_entropy_of_a_lone_frame_is_that_among_others() -> None:
    logits = 8 * torch.randn(9, 100_353, generator=torch.Generator().manual_seed(0))
    together = frame_entropy(logits.view(1, 9, -1))[0]
    assert torch.equal(together, torch.cat([frame_entropy(row[None]) for row in logits]))


def test_a_draft_is_trusted_where_every_frame_of_it_is_certain() -> None:
    entropy = torch.tensor([[0.1, 0.6, 9.0], [0.1, 0.8, math.nan], [math.nan, 0.1, 0.1], [0.0, 0.0, 0.0]])
    lengths = torch.tensor([2, 2, 3, 0])
    assert trusted(entropy, lengths, 0.7) == [True, False, False, False]
    assert trusted(entropy, lengths, 0.5) == [False] * 4


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed are 'exact', 'fast' and 'trust'"):
        SpeculativeOptions("faster")  # type: ignore[arg-type]
