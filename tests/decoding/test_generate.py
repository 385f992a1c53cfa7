"""Generation over a step callable, against a naive loop and against all texts there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from redline.decoding.generate import GenerateOptions, Generation, Search, Step, decode, pick, token_budget
from redline.decoding.repetition import RepetitionOptions, repetition_start, repetitions
from redline.errors import ConfigError

EOS = 0
V = 6
OPTIONS = GenerateOptions(EOS)
NO_LOOPS = RepetitionOptions(max_n=0)
History = tuple[int, ...]


@cache
def whole(history: History) -> Tensor:
    """Logits [V] that depend on everything said so far, the first of it being the prompt."""
    generator = torch.Generator().manual_seed(hash(history) % 2**31)
    logits = torch.randn(V, generator=generator) * 2
    logits[EOS] += 0.3 * len(history) - 2.0
    return logits


def recent(history: History) -> Tensor:
    """Logits [V] that depend on the last two tokens only, so that many texts go round for ever."""
    return whole(history[-2:])


class Toy:
    """A language model that remembers the rows' histories."""

    def __init__(self, prompts: Sequence[int], logits: Callable[[History], Tensor] = whole) -> None:
        self.histories: list[History] = [(prompt,) for prompt in prompts]
        self.logits = logits
        self.sizes: list[int] = []

    def read(self) -> Tensor:
        return torch.stack([self.logits(history) for history in self.histories])

    def step(self, ids: Sequence[int], parents: Sequence[int]) -> Tensor:
        self.histories = [(*self.histories[parent], id) for parent, id in zip(parents, ids, strict=True)]
        self.sizes.append(len(ids))
        return self.read()


def generate(logits: Tensor, step: Step, budgets: Sequence[int], options: GenerateOptions) -> list[Generation]:
    return decode([Search(row, budget, options) for row, budget in enumerate(budgets)], logits, step)


def run(
    prompts: Sequence[int],
    budgets: Sequence[int],
    options: GenerateOptions = OPTIONS,
    logits: Callable[[History], Tensor] = whole,
    seed: int | None = None,
) -> list[Generation]:
    toy = Toy(prompts, logits)
    seeds = [None if seed is None else 1000 * seed + prompt for prompt in prompts]
    rows = [Search(row, budget, options, seed=seeds[row]) for row, budget in enumerate(budgets)]
    return decode(rows, toy.read(), toy.step)


def naive(
    prompt: int, budget: int, options: GenerateOptions = OPTIONS, logits: Callable[[History], Tensor] = whole
) -> tuple[tuple[int, ...], str]:
    """Greedy decoding as one would write it down, looking for loops in every window of the text."""
    text: History = ()
    while len(text) < budget:
        scores = logits((prompt, *text)).tolist()
        for id in options.suppress:
            scores[id] = -math.inf
        id = scores.index(max(scores))
        if id == EOS:
            return text, "end"
        text = (*text, id)
        for n in range(1, options.loops.max_n + 1):
            copies = max(options.loops.copies, math.ceil(options.loops.tokens / n))
            if len(text) >= n * copies and text[-n * copies :] == text[-n:] * copies:
                first = min(i for i in range(len(text)) if text[i:-n] == text[i + n :])
                return text[: first + n], "loop"
    return text, "limit"


@pytest.mark.parametrize("logits", [whole, recent])
def test_greedy_is_the_naive_loop_alone_and_in_a_batch(logits: Callable[[History], Tensor]) -> None:
    options = GenerateOptions(EOS, suppress=(3,), loops=RepetitionOptions(max_n=12, copies=3, tokens=8))
    prompts, budgets = range(60), [row % 23 for row in range(60)]
    expected = [naive(prompt, budget, options, logits) for prompt, budget in zip(prompts, budgets, strict=True)]
    together = run(prompts, budgets, options, logits)
    assert [(row.ids, row.stop) for row in together] == expected
    stops = {stop for _, stop in expected}
    assert stops == ({"end", "limit"} if logits is whole else {"end", "limit", "loop"})
    for prompt, budget, row in zip(prompts, budgets, together, strict=True):
        assert run([prompt], [budget], options, logits) == [row]


def test_each_id_has_its_log_probability() -> None:
    options = replace(OPTIONS, suppress=(3,))
    for prompt, row in enumerate(run(range(5), [9] * 5, options)):
        assert len(row.log_probs) == len(row.ids)
        for at, (id, log_prob) in enumerate(zip(row.ids, row.log_probs, strict=True)):
            scores = whole((prompt, *row.ids[:at]))
            others = torch.cat((scores[:3], scores[4:]))
            assert log_prob == pytest.approx(float(scores[id] - others.logsumexp(0)), abs=1e-5)


def test_finished_rows_leave_the_batch() -> None:
    toy = Toy(range(4))
    results = generate(toy.read(), toy.step, [3, 0, 1, 6], OPTIONS)
    lengths = [len(row.ids) + (row.stop == "end") for row in results]
    assert toy.sizes == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_a_row_whose_logits_are_no_numbers_ends_and_harms_only_itself() -> None:
    def broken(history: History) -> Tensor:
        return whole(history) * (math.inf if history[0] == 3 and len(history) > 2 else 1.0)

    for options in (OPTIONS, GenerateOptions(EOS, beams=2), DRAWN):
        alone = run(range(6), [9] * 6, options, seed=1)
        rows = run(range(6), [9] * 6, options, broken, seed=1)
        assert rows[3].stop == "overflow" and len(rows[3].ids) < 3
        assert [*rows[:3], *rows[4:]] == [*alone[:3], *alone[4:]]


def test_a_batch_of_none_and_a_budget_of_none_need_no_step() -> None:
    def never(ids: Sequence[int], parents: Sequence[int]) -> Tensor:
        raise AssertionError("nothing is to be generated")

    for options in (OPTIONS, GenerateOptions(EOS, beams=3)):
        assert generate(torch.zeros(0, V), never, [], options) == []
        assert generate(torch.ones(2, V), never, [0, 0], options) == [Generation((), "limit", ())] * 2


def test_the_budget_of_a_row_is_a_limit() -> None:
    options = replace(OPTIONS, loops=NO_LOOPS)
    long = run([7], [40], options, lambda history: torch.arange(V))[0]
    assert long == Generation((V - 1,) * 40, "limit", long.log_probs)


def test_tokens_of_half_precision_are_chosen_in_full() -> None:
    toy = Toy([1, 2], lambda history: whole(history).bfloat16())
    assert len(generate(toy.read(), toy.step, [5, 5], OPTIONS)) == 2


@pytest.mark.parametrize(("duration_s", "budget"), [(0.0, 16), (0.01, 17), (30.0, 256), (11.06, 105)])
def test_a_clip_may_take_so_many_tokens(duration_s: float, budget: int) -> None:
    assert token_budget(duration_s) == budget


# Loops


def test_a_loop_keeps_its_first_copy() -> None:
    speech, verse = [9, 8, 7, 6], [1, 2, 3, 4, 5, 6, 7]
    assert repetition_start(speech + verse * 6, RepetitionOptions()) == 11
    assert repetition_start(speech + verse * 9 + verse[:3], RepetitionOptions()) == 11
    assert repetition_start(speech + [1] * 32, RepetitionOptions()) == 5
    assert repetition_start(list(range(50, 82)) * 6, RepetitionOptions()) == 32
    assert repetition_start([5, 5, 2, 3, 4] + [5, 2, 3, 4] * 9, RepetitionOptions()) == 5  # the copy that starts first


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [1],
        [4, 2] + [7] * 5,  # no no no no no
        [7] * 31,
        [1, 2] * 15,  # na na
        [1, 2, 3] * 10,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] * 5,  # a chorus
        [1, 2, 3, 4, 5, 6, 7] * 6 + [9],  # over before the end
        list(range(33)) * 8,  # longer than max_n
    ],
)
def test_real_repetition_passes(ids: list[int]) -> None:
    assert repetition_start(ids, RepetitionOptions()) is None


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("copies", [0, 3, 12, 40])
def test_what_is_said_as_often_is_no_loop(n: int, copies: int) -> None:
    """A text may go on as long as other evidence vouches for it, and a loop's worth of copies beyond."""
    options, unit = RepetitionOptions(copies=4, tokens=12), list(range(1, n + 1))
    most = copies + max(options.copies, math.ceil(options.tokens / n))

    def oracle(ids: Sequence[int]) -> int:
        return copies * n // len(ids) if len(ids) % n == 0 else 0

    assert repetition_start([9, *unit * (most - 1)], options, oracle) is None
    assert repetition_start([9, *unit * most], options, oracle) == 1 + n
    assert repetition_start([9, *unit * most], options) == 1 + n


def test_repetition_is_counted_by_letters_and_digits() -> None:
    assert repetitions(" no", "No, no! No-no know") == 5
    assert repetitions("a b", "ab A. B. ba") == 2
    assert repetitions(" --", "-- --") == repetitions("", "a") == repetitions("a", "") == 0


def test_no_loops_are_looked_for_with_max_n_0() -> None:
    assert repetition_start([1] * 100, NO_LOOPS) is None


def test_generation_stops_in_a_loop() -> None:
    script = [4, 4, 1, 2, 3]

    def stuck(history: History) -> Tensor:
        length = len(history) - 1
        next_id = script[length] if length < 5 else script[2 + (length - 2) % 3]
        return torch.nn.functional.one_hot(torch.tensor(next_id), V) * 9.0

    for options in (OPTIONS, GenerateOptions(EOS, beams=2)):
        (row,) = run([0], [400], options, stuck)
        assert (row.ids, row.stop, len(row.log_probs)) == ((4, 4, 1, 2, 3), "loop", 5)
    toy = Toy([0], stuck)
    generate(toy.read(), toy.step, [400], OPTIONS)
    assert len(toy.sizes) == 2 + 33 - 1


# Sampling


DRAWN = GenerateOptions(EOS, temperature=1.3, suppress=(3,))


def test_drawing_is_reproducible_and_rows_draw_for_themselves() -> None:
    once = run(range(8), [20] * 8, DRAWN, seed=1)
    assert run(range(8), [20] * 8, DRAWN, seed=1) == once
    assert run(range(8), [20] * 8, DRAWN, seed=2) != once
    assert run(range(8), [20, 1] + [20] * 6, DRAWN, seed=1)[2:] == once[2:]
    assert run([0, 77, 78, 3], [20] * 4, DRAWN, seed=1)[3] == once[3]


def test_drawing_never_takes_what_is_suppressed() -> None:
    flat = run(range(30), [30] * 30, DRAWN, lambda history: torch.zeros(V), seed=3)
    assert {id for row in flat for id in row.ids} == {1, 2, 4, 5}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.4, 0.0, 0.5]).log() * 2  # temperature 2 gives these probabilities
    draws = (torch.arange(1000) + 0.5) / 1000

    counts = pick(logits.expand(1000, 4), draws, temperature=2.0).bincount(minlength=4) / 1000
    assert [round(share, 2) for share in counts.tolist()] == [0.1, 0.4, 0.0, 0.5]


def test_a_draw_that_rounds_to_one_takes_a_possible_token() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 0.5]])
    assert pick(logits, torch.ones(1), temperature=1.0).tolist() == [2]


def test_drawing_without_heat_is_greedy() -> None:
    cold = replace(DRAWN, temperature=1e-4)
    assert run(range(20), [20] * 20, cold, seed=5) == run(range(20), [20] * 20, replace(DRAWN, temperature=0.0))


# Beam


def best_of_all(prompt: int, budget: int, options: GenerateOptions) -> tuple[History, str]:
    """The text with the highest score among all that end, and all that are as long as the budget."""
    words = [id for id in range(V) if id != EOS and id not in options.suppress]
    banned = list(options.suppress)
    scores: dict[tuple[History, str], float] = {}
    for length in range(budget + 1):
        for text in itertools.product(words, repeat=length):
            path = (*text, EOS) if length < budget else text
            total = 0.0
            for at, id in enumerate(path):
                total += float(
                    whole((prompt, *text[:at])).index_fill(0, torch.tensor(banned), -math.inf).log_softmax(0)[id]
                )
            scores[text, "end" if length < budget else "limit"] = total / len(path)
    return max(scores, key=lambda text: scores[text])


def test_a_wide_beam_finds_the_best_of_all_texts() -> None:
    options = GenerateOptions(EOS, beams=300, suppress=(4, 5))
    prompts, budgets = range(8), [4, 3, 4, 1, 2, 4, 4, 4]
    expected = [best_of_all(prompt, budget, options) for prompt, budget in zip(prompts, budgets, strict=True)]
    assert [(row.ids, row.stop) for row in run(prompts, budgets, options)] == expected
    assert len({len(ids) for ids, _ in expected}) > 1


def test_a_beam_looks_behind_a_bad_start() -> None:
    def trap(history: History) -> Tensor:
        probs = {(): [0, 0.6, 0.4], (1,): [0.4, 0.3, 0.3], (2,): [0.98, 0.01, 0.01]}.get(history[1:], [1, 0, 0])
        return torch.tensor(probs).clamp(min=1e-9).log()

    assert run([0], [5], OPTIONS, trap)[0].ids == (1,)
    row = run([0], [5], GenerateOptions(EOS, beams=2), trap)[0]
    assert (row.ids, row.stop) == ((2,), "end")
    assert row.log_probs == pytest.approx((math.log(0.4),))


def test_an_end_takes_no_place_in_the_beam() -> None:
    def forked(history: History) -> Tensor:
        probs = {(): [0.4, 0.35, 0.25], (2,): [0.98, 0.01, 0.01]}.get(history[1:], [0.34, 0.33, 0.33])
        return torch.tensor(probs).log()

    assert run([0], [5], GenerateOptions(EOS, beams=2), forked)[0].ids == (2,)


@pytest.mark.parametrize(("end", "ids", "stop"), [(1e-6, (4, 5, 1, 2, 3), "loop"), (0.4, (4, 5), "end")])
def test_a_loop_is_judged_by_its_first_copy(end: float, ids: History, stop: str) -> None:
    def circling(history: History) -> Tensor:
        length = len(history) - 1
        probs = torch.full((V,), 1e-9)
        if length == 2:
            probs[EOS] = end
        elif length in (3, 4):
            probs[1:] = 0.1  # in doubt until the first copy is said
        right = (4, 5)[length] if length < 2 else 1 + (length - 2) % 3
        probs[right] += 1 - probs.sum()
        return probs.log()

    (row,) = run([0], [90], GenerateOptions(EOS, beams=2), circling)
    assert (row.ids, row.stop) == (ids, stop)


@pytest.mark.parametrize("logits", [whole, recent])
def test_a_beam_alone_is_as_in_a_batch(logits: Callable[[History], Tensor]) -> None:
    options = GenerateOptions(EOS, beams=3, suppress=(2,))
    budgets = [(5 * row) % 50 for row in range(20)]
    together = run(range(20), budgets, options, logits)
    assert [run([row], [budget], options, logits)[0] for row, budget in enumerate(budgets)] == together
    assert all(2 not in row.ids and len(row.ids) == len(row.log_probs) for row in together)
    assert {"end", "limit"} <= {row.stop for row in together}


def test_a_beam_stops_when_nothing_live_is_better() -> None:
    toy = Toy(range(6), lambda history: whole(history) + torch.eye(V)[EOS] * 3)
    generate(toy.read(), toy.step, [500] * 6, GenerateOptions(EOS, beams=2))
    assert len(toy.sizes) < 30


# Options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beams": 0}, "beams is 0; allowed are 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"beams": 2, "temperature": 0.7}, "choose one"),
        ({"suppress": (4, EOS)}, "no text could ever end"),
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerateOptions(EOS, **wrong)  # type: ignore[arg-type]
