"""Keywords change what they are found in, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redline
from redline.decoding.biasing import KeywordTrie
from redline.decoding.ctc import collapse
from redline.decoding.keyword_patches import KeywordBias, Patch, patched, splice, zones
from redline.decoding.ngram import DraftOptions, NgramLM
from redline.decoding.speculative import SpeculativeOptions
from redline.keywords import KeywordIndex
from redline.load import load_model
from redline.recognizer import ArRecognizer, NarRecognizer
from redline.testing import tone
from redline.types import Hypothesis, Task, Waveform
from redline_recipes.tiny.ngram import NgramOptions, estimate
from tests.builders import recognize_clips, tiny_ar_checkpoint, tiny_checkpoint

DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"
# Ids 0 to 5 begin words, 6 to 8 go on within them.
STARTS = [True] * 6 + [False] * 3
texts = st.lists(st.integers(0, 8), max_size=14)


def expecting(*words: list[int]) -> KeywordBias:
    def find(ids: Sequence[int]) -> list[tuple[int, int]]:
        def occurs(at: int, word: list[int]) -> bool:
            end = at + len(word)
            return list(ids[at:end]) == word and (end == len(ids) or STARTS[ids[end]]) and (at == 0 or STARTS[ids[at]])

        return [(at, at + len(word)) for at in range(len(ids)) for word in words if occurs(at, word)]

    return KeywordBias(KeywordTrie.build([[0]], [], STARTS, 1.0), STARTS, find)


@given(texts, texts)
@settings(max_examples=300, deadline=None)
def test_a_text_in_which_nothing_expected_is_found_stays(plain: list[int], drawn: list[int]) -> None:
    assert splice(plain, drawn, expecting()) == (plain, [])


@given(texts, texts)
@settings(max_examples=300, deadline=None)
def test_only_changes_that_hold_an_expected_word_are_made(plain: list[int], drawn: list[int]) -> None:
    expected = expecting([0, 6], [1])
    ids, changes = splice(plain, drawn, expected)
    assert patched(plain, ids, changes) == ids
    spans = expected.find(drawn)
    for change in changes:
        assert any(list(drawn[a:b]) in ([0, 6], [1]) for a, b in spans)
        assert any(id in (0, 1, 6) for id in ids[change.first : change.last])
    if not spans:
        assert ids == plain and not changes
    # Taken back, the changes leave the plain text.
    back = [Patch(change.first, change.last, change.plain_first, change.plain_last) for change in changes]
    assert patched(ids, plain, back) == plain


def test_the_text_away_from_a_keyword_stays() -> None:
    plain, drawn = [2, 3, 4, 6, 5, 2], [3, 3, 0, 6, 5, 4]  # three changes, in the middle one the word
    assert splice(plain, drawn, expecting([0, 6])) == ([2, 3, 0, 6, 5, 2], [Patch(2, 4, 2, 4)])
    assert splice(plain, drawn, expecting([4])) == ([2, 3, 4, 6, 5, 4], [Patch(5, 6, 5, 6)])
    assert splice([2, 3], [2, 0, 6, 3], expecting([0, 6])) == ([2, 0, 6, 3], [Patch(1, 1, 1, 3)])
    assert splice([2, 0, 6, 3], [2, 3], expecting([0, 6])) == ([2, 0, 6, 3], [])  # nothing found: nothing is lost


@given(st.lists(st.integers(1, 4), max_size=6), st.lists(st.integers(1, 4), max_size=6), st.randoms())
@settings(max_examples=300, deadline=None)
def test_decisions_beyond_a_slot_of_agreement_stay(plain: list[int], other: list[int], draw: random.Random) -> None:
    """Drafts of random words with one change; whatever the editor decides, agreements bound what one pass decides."""
    first, last = sorted(draw.choices(range(len(plain) + 1), k=2))
    draft = [*plain[:first], *other, *plain[last:]]
    paths = [[draw.randint(0, 4) for _ in range(max(8, 2 * len(ids) + 1))] for ids in (plain, draft)]
    (zone,) = zones([Patch(first, last, first, first + len(other))], *paths)
    merged = patched(paths[0], paths[1], [zone])
    assert merged[: zone.plain_first] == paths[0][: zone.plain_first]
    tail = len(paths[0]) - zone.plain_last
    assert merged[len(merged) - tail :] == paths[0][zone.plain_last :] and len(merged) >= 2 * len(draft) + 1
    if zone.plain_first:
        assert paths[0][zone.plain_first - 1] == paths[1][zone.first - 1]
    if tail:
        assert paths[0][zone.plain_last] == paths[1][zone.last]
    assert collapse(merged, 0) is not None


def test_terms_are_found_as_whole_words_in_any_case() -> None:
    pieces = [" an", " Oat", " mil", "k", " and", " art", "icle"]
    assert sorted(KeywordIndex(["oat milk", "art", "AND", "nothing"]).spans(pieces)) == [(1, 4), (4, 5)]
    assert KeywordIndex(["a"]).spans([]) == KeywordIndex([]).spans(pieces) == []


def chirp(seconds: float, seed: int) -> Waveform:
    torch.manual_seed(seed)
    parts = [tone(0.1, float(hertz)).samples for hertz in torch.randint(100, 4000, (round(seconds * 10),))]
    return Waveform(torch.cat([torch.from_numpy(part) for part in parts]).numpy())


CLIPS = [chirp(seconds, seed) for seed, seconds in enumerate([1.3, 4.0, 2.2])]
PAIRS = [f"{prefix}{letter}" for prefix, letter in product(("", "q "), "aeorvx")]


def reader(vocabulary: int, blank: int) -> NgramLM:
    torch.manual_seed(0)
    stream = torch.randint(0, vocabulary, (500,))
    stream[::10] = blank
    return estimate(stream.numpy(), vocabulary, blank, NgramOptions(order=3), DraftOptions(width=6, keep_bias=1e4))


@pytest.fixture(scope="module", params=["nar", "nar with n-grams", "trusted", "trusted with n-grams"])
def recognizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    if request.param.startswith("nar"):
        loaded = load_model(tiny_checkpoint(folder / "m")).recognizer
        assert isinstance(loaded, NarRecognizer)
        holder: Any
        vocabulary, blank, holder = loaded.model.config.text.vocab_size, loaded.model.config.blank_token_id, loaded
    else:
        loaded = load_model(tiny_ar_checkpoint(folder / "m", "granite_speech_plus", drafts=True)).recognizer
        assert isinstance(loaded, ArRecognizer)
        loaded.drafts = SpeculativeOptions("trust")
        vocabulary, blank, holder = loaded.model.config.text.vocab_size, 0, loaded
    if request.param.endswith("n-grams"):
        holder.draft_lm = reader(vocabulary, blank)
    loaded.is_sure = request.param != "nar"  # that editor of random weights leaves no word as it was drafted
    return loaded


def occurrences(text: str, keyword: str) -> int:
    return len(KeywordIndex([keyword]).spans([text]))


def test_a_keyword_that_is_never_spoken_changes_nothing(recognizer: Any) -> None:
    plain = recognize_clips(recognizer, CLIPS, Task())
    count = 0
    for keyword in PAIRS:
        hypotheses = recognize_clips(recognizer, CLIPS, Task(keywords=(keyword,)))
        for hypothesis, other in zip(plain, hypotheses, strict=True):
            more = occurrences(other.text, keyword) - occurrences(hypothesis.text, keyword)
            assert more > 0 or other == hypothesis, keyword
            count += more
    assert count or not recognizer.is_sure, "no keyword was ever found: the test proves nothing"


def test_a_list_of_keywords_is_as_good_in_a_batch_as_alone(recognizer: Any) -> None:
    task = Task(keywords=tuple(PAIRS[::3]))
    together = recognize_clips(recognizer, CLIPS, task)
    assert together == [recognize_clips(recognizer, [clip], task)[0] for clip in CLIPS]


@pytest.mark.parametrize(("n_grams", "keyword"), [("none", "fellow American"), ("own", "ask not")])
def test_keywords_nobody_says_change_nothing_that_a_real_model_hears(n_grams: str, keyword: str) -> None:
    model = load_model("tiny", draft_lm=n_grams)
    plain = model.transcribe(DEMO, words=True)
    assert model.transcribe(DEMO, words=True, keywords="Priya, cortado, oat milk, Quilter") == plain
    transcript = model.transcribe(DEMO, words=True, keywords=["Priya", keyword])
    assert occurrences(transcript.text, keyword) and not occurrences(plain.text, keyword)
    # The words away from it are the same, to the letter and the millisecond.
    assert transcript.words[-9:] == plain.words[-9:] and transcript.words[:3] == plain.words[:3]


def test_edits_lead_to_the_text_where_keywords_change_it(recognizer: Any) -> None:
    plain: list[Hypothesis] = recognize_clips(recognizer, CLIPS, Task())
    hypotheses = [
        hypothesis
        for keyword in PAIRS[::2]
        for hypothesis in recognize_clips(recognizer, CLIPS, Task(keywords=(keyword,)))
    ]
    assert any(hypothesis not in plain for hypothesis in hypotheses) or not recognizer.is_sure
    for other in hypotheses:
        if other.edits:
            assert "".join(edit.draft for edit in other.edits).strip() == other.draft
            assert "".join(edit.text for edit in other.edits).strip() == other.text
