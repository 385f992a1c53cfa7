"""Expected words: what they give while a text is written, and what is taken back."""

from __future__ import annotations

import random

import pytest
import torch

from redline.decoding.biasing import KeywordTrie
from redline.decoding.ctc_beam import BeamOptions, FrameCandidates, search
from redline.decoding.ngram import ALONE
from redline.errors import ConfigError
from tests.decoding.plain_search import bias_score, search_plain

# Ids 0 to 3 begin words, 4 to 7 go on within them; 8 is the blank.
STARTS = [True] * 4 + [False] * 4
BLANK = len(STARTS)


def occurrences(text: list[int], word: list[int]) -> int:
    """How often a word is said, as a word."""
    count = 0
    for at in range(len(text) - len(word) + 1):
        after = at + len(word)
        count += text[at:after] == word and (after == len(text) or STARTS[text[after]])
    return count


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ([0, 4], 2),
        ([0, 4, 5], 0),  # another word that begins like it
        ([0], 0),
        ([1, 0, 4, 2], 2),
        ([0, 4, 0, 4], 4),
        ([0, 0, 4], 2),
        ([1, 2, 3, 1, 2, 5], 3),  # the phrase, then only its beginning
        ([1, 2, 1, 2, 3], 3),
        ([1, 2, 0, 4], 2),
        ([], 0),
    ],
)
def test_only_whole_words_are_worth_something(text: list[int], tokens: int) -> None:
    words = KeywordTrie.build([[0, 4], [1, 2, 3]], [], STARTS, boost=0.5)
    assert bias_score(words, text) == pytest.approx(0.5 * tokens)


def test_a_word_inside_a_longer_one_keeps_its_worth() -> None:
    words = KeywordTrie.build([[0], [0, 1, 2], [1, 3]], [], STARTS, boost=1.0)
    assert bias_score(words, [0, 1, 2]) == 3
    assert bias_score(words, [0, 1]) == 1  # the phrase is not finished, its first word is
    assert bias_score(words, [0, 1, 3]) == 3  # both: the phrase turned into another
    assert bias_score(words, [0, 4]) == 0


def test_random_texts_get_what_is_said_in_them() -> None:
    draw = random.Random(3)
    words = [[0, 4], [1, 5, 6], [2, 3]]  # none is part of another, none ends as another begins
    tree = KeywordTrie.build(words, [], STARTS, boost=1.0)
    for _ in range(3000):
        text = [draw.randrange(BLANK) for _ in range(draw.randint(0, 9))]
        assert bias_score(tree, text) == sum(len(word) * occurrences(text, word) for word in words), text


def test_weights_say_what_each_keyword_is_worth() -> None:
    words, weights = [[0, 4], [0, 5, 6], [1]], [0.5, 2.0, 3.0]
    tree = KeywordTrie.build(words, words, STARTS, 2.0, weights)
    assert bias_score(tree, [2, 0, 4, 2]) == 2.0 * 0.5 * 2, "the light one gets its own worth, whatever it shares"
    assert bias_score(tree, [0, 5, 6]) == 2.0 * 2.0 * 3 and bias_score(tree, [0, 5]) == 0.0
    assert bias_score(tree, [1, 0, 4, 1]) == 2.0 * (3.0 + 1.0 + 3.0)
    plain, equal = (KeywordTrie.build(words, words, STARTS, 2.0, given) for given in (None, [1.0] * 3))
    draw = random.Random(1)
    for _ in range(500):
        text = [draw.randrange(BLANK) for _ in range(6)]
        assert bias_score(plain, text) == bias_score(equal, text)


def test_twenty_thousand_keywords_make_tables_of_their_tokens() -> None:
    starts = [True] * 500 + [False] * 500
    draw = random.Random(0)
    words = [[draw.randrange(500), *(draw.randrange(500, 1000) for _ in range(3))] for _ in range(20_000)]
    words += [[*word[2:], *word[:2]] for word in words[:50]]  # that begin as others end
    tree = KeywordTrie.build(words, words, starts, boost=1.0)
    assert len(tree.keys) <= 2 * sum(map(len, words)) and tree.hops <= 5
    assert all(bias_score(tree, [*word, 0]) >= 4 for word in words[:5])


def test_the_first_word_may_be_spelled_otherwise() -> None:
    words = KeywordTrie.build([[0, 4]], [[7, 4]], STARTS, boost=1.0)
    assert bias_score(words, [7, 4, 1]) == 2
    assert bias_score(words, [1, 7, 4]) == 0
    assert bias_score(words, [7, 5, 0, 4]) == 2


def test_thousands_of_words_grow_the_table_by_their_tokens_only() -> None:
    """2,000 keywords of three tokens with 500 first tokens: not a row for each of those at every place."""
    starts = [True] * 500 + [False] * 500
    draw = random.Random(0)
    words = [[draw.randrange(500), draw.randrange(500, 1000), draw.randrange(500, 1000)] for _ in range(2000)]
    tree = KeywordTrie.build(words, words, starts, boost=1.0)
    assert len(tree.keys) <= 2 * sum(map(len, words))
    assert all(bias_score(tree, [*word, 0]) >= 3 for word in words[:20])


def test_a_beam_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="no keywords"):
        KeywordTrie.build([[]], [], STARTS, boost=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_fast_search_is_drawn_as_its_readable_twin_is(seed: int) -> None:
    torch.manual_seed(seed)
    options = BeamOptions(width=6, candidates=4, margin=5.0, lm_weight=0.0, token_bonus=0.3)
    words = KeywordTrie.build([[0, 4], [1, 5, 6], [1]], [], STARTS, boost=1.5)
    logits = torch.randn(4, 10, BLANK + 1) * 2
    candidates = FrameCandidates.of(logits, torch.tensor([10, 7, 1, 0]), BLANK, options)
    assert search(candidates, None, options, words) == search_plain(candidates, None, options, words)


def test_rows_with_keywords_of_their_own_are_searched_together_as_each_alone() -> None:
    torch.manual_seed(0)
    options = BeamOptions(width=6, candidates=4, margin=5.0, lm_weight=0.0)
    tries = [KeywordTrie.build(words, words[:1], STARTS, boost=1.5) for words in ([[0, 4]], [[1, 5, 6], [1]], [[3]])]
    mixed = [tries[1], tries[0], tries[1], tries[2]]
    joined = KeywordTrie.join(mixed)
    assert len(joined.failures) == sum(len(trie.failures) for trie in tries), (
        "keywords that are the same stand there once"
    )
    logits, lengths = torch.randn(4, 12, BLANK + 1) * 2, torch.tensor([12, 7, 9, 1])
    candidates = FrameCandidates.of(logits, lengths, BLANK, options)
    alone = [search(candidates.rows([row]), None, options, trie)[0] for row, trie in enumerate(mixed)]
    assert search(candidates, None, options, joined) == alone
    assert len({tuple(search(candidates.rows([0]), None, options, trie)[0]) for trie in tries}) > 1


def test_an_expected_word_is_heard_where_it_nearly_was() -> None:
    log_probs = torch.full((1, 4, BLANK + 1), 0.001)
    for frame, (likely, nearly) in enumerate([(1, 0), (BLANK, BLANK), (5, 4), (BLANK, BLANK)]):
        log_probs[0, frame, likely], log_probs[0, frame, nearly] = 0.6, 0.3
    candidates = FrameCandidates.of(log_probs.log(), torch.tensor([4]), BLANK, ALONE)
    assert search(candidates, None, ALONE) == [[1, 5]]
    assert search(candidates, None, ALONE, KeywordTrie.build([[0, 4]], [], STARTS, boost=2.0)) == [[0, 4]]
    assert search(candidates, None, ALONE, KeywordTrie.build([[0, 6]], [], STARTS, boost=2.0)) == [[1, 5]]
