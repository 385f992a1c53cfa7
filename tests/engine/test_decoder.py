"""The running decode against its plain twin, and each text in it against itself alone, to the bit."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.decoding.generate import GenerateOptions, Generation
from redline.decoding.repetition import RepetitionOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.engine.decoder import ContinuousDecoder
from redline.engine.lane import DecoderOptions, Lane
from redline.models.ar import ArModel
from redline.models.invariant import KEYS
from redline.recognizer.ar_batch import Decoding
from tests.builders import tiny_ar_config
from tests.engine.plain_decoder import Asked, write

EOS = 0
GREEDY = GenerateOptions(EOS, suppress=(1,), loops=RepetitionOptions(max_n=6, copies=3, tokens=8))
WAYS = {
    "greedy": GREEDY,
    "beams": replace(GREEDY, beams=3),
    "many ends": replace(GREEDY, beams=2, other_eos_ids=tuple(range(20, 30))),
    "sampled": replace(GREEDY, temperature=1.2, other_eos_ids=tuple(range(20, 26))),
}
DRAFTS = {"none": None, "exact": SpeculativeOptions(), "fast": SpeculativeOptions("fast", tau_llm=0.02)}
SMALL = DecoderOptions(rows=3, reserved=1)


@cache
def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> ArModel:
    """Random weights that say many things: logits far apart, ends among them."""
    torch.manual_seed(seed)
    made = ArModel(tiny_ar_config(vocab_size=64)).eval()
    with torch.no_grad():
        for parameter in made.language_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return made.to(dtype)


def result(text: Decoding) -> tuple[Generation, float | None]:
    assert not text.search.live
    return text.search.best, text.accepted


def assert_same(got: tuple[Generation, float | None], wanted: tuple[Generation, float | None]) -> None:
    """The same text; sums over the places of a beam in another order may have other last bits."""
    assert (got[0].ids, got[0].stop, got[1]) == (wanted[0].ids, wanted[0].stop, wanted[1])
    assert got[0].log_probs == pytest.approx(wanted[0].log_probs, abs=1e-4)


def asked(options: GenerateOptions, seeds: Sequence[int], drafts: bool = False, **shape: Any) -> list[Asked]:
    """Texts of different lengths and budgets; drafts begin as the text does."""
    texts = []
    for seed in seeds:
        one = Asked(model(**shape), seed, options, budget=(3 * seed) % 17)
        if drafts:
            known = write(model(), replace(one.text()))
            chosen = random.Random(seed)
            one.draft = [*known.ids[: chosen.randrange(12)], *(chosen.randrange(2, 60) for _ in range(seed % 4))]
        texts.append(one)
    return texts


def run(
    all_: Sequence[Asked], limits: DecoderOptions, drafts: SpeculativeOptions | None, joins: Sequence[int] = ()
) -> list[tuple[Generation, float | None]]:
    """Let texts join a decode in turn, `joins` of them before each step, until all have left."""
    decoder = ContinuousDecoder(all_[0].model, all_[0].options, drafts, limits)
    texts = [one.text() for one in all_]
    waiting, counts, left = list(texts), iter(joins), []
    while waiting or decoder.busy:
        count = next(counts, len(waiting))
        decoder.join(waiting[:count])
        del waiting[:count]
        left += decoder.step()
    assert sorted(map(id, left)) == sorted(map(id, texts)), "each leaves once"
    return [result(text) for text in texts]


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_running_decode_equals_the_plain_loop(way: str, lag: int) -> None:
    texts = asked(WAYS[way], range(lag, lag + 9))
    wanted = [(write(model(), one.text()), None) for one in texts]
    for got, other in zip(run(texts, replace(SMALL, lag=lag), None), wanted, strict=True):
        assert_same(got, other)
    assert len({generation.stop for generation, _ in wanted}) > 1 and len({row.ids for row, _ in wanted}) > 4


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_drafts_verified_in_a_prefill_of_many_equal_the_plain_loop(mode: str, lag: int) -> None:
    texts, wanted = asked(GREEDY, range(12), drafts=True), []
    for one in texts:
        text = one.text()
        wanted.append((write(model(), text, DRAFTS[mode]), text.accepted))
    for got, other in zip(run(texts, replace(SMALL, lag=lag), DRAFTS[mode]), wanted, strict=True):
        assert_same(got, other)
    assert len({accepted for _, accepted in wanted}) > 3
    if mode == "exact":
        assert [row.ids for row, _ in wanted] == [write(model(), replace_draft(one)).ids for one in texts]


def replace_draft(one: Asked) -> Decoding:
    return replace(one.text(), draft=[])


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from(sorted(WAYS)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(sorted(DRAFTS)),
    st.lists(st.integers(0, 30), min_size=2, max_size=7),
    st.lists(st.integers(0, 3), max_size=12),
    st.builds(DecoderOptions, st.integers(1, 5), st.integers(0, 2), st.integers(0, 3)),
)
def test_a_text_is_to_the_bit_what_it_is_alone_whoever_joins_and_leaves_and_when(
    way: str, dtype: torch.dtype, mode: str, seeds: list[int], joins: list[int], limits: DecoderOptions
) -> None:
    mode = "none" if WAYS[way] is not GREEDY else mode
    texts = asked(WAYS[way], seeds, drafts=mode != "none", dtype=dtype)
    together = run(texts, limits, DRAFTS[mode], joins)
    for one, got in zip(texts, together, strict=True):
        assert got == run([one], SMALL, DRAFTS[mode])[0]


def test_texts_of_all_sizes_run_side_by_side_each_in_a_lane_of_its_size() -> None:
    texts = asked(GREEDY, range(1, 7))
    for one, filler in zip(texts, (0, 480, 530, 0, 700, 100), strict=True):
        one.prompt = [*[9] * filler, *one.prompt]
    decoder = ContinuousDecoder(model(), GREEDY, None, SMALL)
    writing = [one.text() for one in texts]
    decoder.write(writing)
    assert sorted(decoder.lanes) == [KEYS, 2 * KEYS] and not decoder.busy
    for one, text in zip(texts, writing, strict=True):
        assert_same(result(text), (write(model(), one.text()), None))


def test_nothing_is_copied_when_a_text_joins_leaves_or_a_beam_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or value is written once, at its place, and stays there as long as its text does."""
    for way in ("greedy", "beams"):
        decoder = ContinuousDecoder(model(), WAYS[way], None, DecoderOptions(rows=4, reserved=0))
        decoder.join([one.text() for one in asked(WAYS[way], range(5, 17))])
        decoder.step()
        (lane,) = decoder.lanes.values()
        place = lane.cache.keys.data_ptr()
        while decoder.busy:
            before, was = lane.cache.keys.clone(), list(lane.texts)
            decoder.step()
            for slot, text in enumerate(was):
                if text is not None and lane.texts[slot] is text:
                    changed = (lane.cache.keys[:, slot] != before[:, slot]).any(dim=-1).any(dim=0).any(dim=0)
                    assert int(changed.sum()) <= WAYS[way].beams
        assert lane.cache.keys.data_ptr() == place


def test_a_text_that_overflows_harms_nobody_who_is_there_or_comes_after_it() -> None:
    for way in ("greedy", "beams", "sampled"):
        texts = asked(WAYS[way], range(7, 14))
        wanted = [run([one], SMALL, None)[0] for one in texts]
        texts[1].audio = torch.full_like(texts[1].audio, math.inf)
        got = run(texts, DecoderOptions(rows=2, reserved=0, lag=1), None)
        assert got[1][0].stop == "overflow"
        assert [*got[:1], *got[2:]] == [*wanted[:1], *wanted[2:]]


def test_who_is_forgotten_gives_the_slot_back_and_changes_nothing() -> None:
    texts = asked(GREEDY, [29, 30, 28, 27])
    wanted = [run([one], SMALL, None)[0] for one in texts]
    decoder = ContinuousDecoder(model(), GREEDY, None, DecoderOptions(rows=2, reserved=0, lag=2))
    writing = [one.text() for one in texts]
    decoder.join(writing)
    left = decoder.step()
    decoder.leave(writing[0])
    decoder.leave(writing[2])  # still waiting
    while decoder.busy:
        left += decoder.step()
    assert {id(text) for text in left} == {id(writing[1]), id(writing[3])}
    assert [result(writing[at]) for at in (1, 3)] == [wanted[at] for at in (1, 3)]


def test_who_goes_first_is_in_the_next_step_however_full_it_is() -> None:
    options = replace(GREEDY, loops=RepetitionOptions(max_n=0))
    texts = [Asked(model(), seed, options, budget=60) for seed in range(20)]
    decoder = ContinuousDecoder(model(), options, None, DecoderOptions(rows=4, reserved=2))
    decoder.join([one.text() for one in texts])
    decoder.step()
    (lane,) = decoder.lanes.values()
    assert lane.used == 4, "the others wait, two slots are kept"
    assert not decoder.wants(0) and decoder.wants(1)
    live = [one.text() for one in texts[:2]]
    decoder.join(live, priority=1)
    decoder.step()
    assert all(any(text is other for other in lane.texts) for text in live if text.search.live) and lane.used > 4


def test_a_lane_has_no_more_slots_than_its_memory_holds() -> None:
    config = model().config.text
    each = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * KEYS
    for held, rows, slots in ((0.5, 1, 1), (3.2, 3, 3), (9.0, 4, 6)):
        lane = Lane(model(), GREEDY, DecoderOptions(rows=4, reserved=2, cache_bytes=int(held * each)), KEYS)
        assert (lane.rows, len(lane.texts)) == (rows, slots)
    one = asked(GREEDY, [9])
    assert run(one, DecoderOptions(cache_bytes=1), None) == run(one, SMALL, None)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_a_fixed_number_of_slots_as_a_launch_is_the_step_of_those_in_use(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is captured on CUDA computes all places of slots that nobody is in, too."""
    texts = asked(WAYS[way], range(5, 12))
    wanted = run(texts, SMALL, None)
    plain = Lane.__init__

    def launching(self: Lane, *given: Any) -> None:
        plain(self, *given)
        self._launches = {n: self.launch(n) for n in (2, 4)}

    monkeypatch.setattr(Lane, "__init__", launching)
    assert run(texts, SMALL, None) == wanted


def test_limits_that_let_nobody_in_are_refused() -> None:
    for wrong in ({"rows": 0}, {"reserved": -1}, {"lag": -1}):
        with pytest.raises(ValueError, match="a lane needs a row"):
            DecoderOptions(**wrong)
