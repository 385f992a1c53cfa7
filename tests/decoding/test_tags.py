"""Tagged text: speaker tags, time tags, silences; both ways."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.decoding.tags import NOBODY, Tagged, parse_tagged, render_turns, render_words, speaker_turns, strip_tags
from redline.types import Turn, Word

STREAMS = 10_000
MANY_STREAMS = 100_000
MALFORMED = ("[T:]", "[T:abc]", "[T: 4 5]", "[t:NaN]", "[T:-3]", "[T45]", "[T:12345678]", "[Speaker ]:", "[speaker x]:")


def timed(tagged: Tagged) -> list[tuple[float, float, str]]:
    return [(word.start, word.end, word.text) for word in tagged.words]


def by_speaker(tagged: Tagged) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in tagged.turns]


def times(tagged: Tagged) -> list[float]:
    return [edge for word in tagged.words for edge in (word.start, word.end)]


def ends(text: str, duration_s: float | None = None) -> list[float]:
    return [word.end for word in parse_tagged(text, duration_s).words]


# Reading times


def test_a_tag_is_the_end_of_its_word_and_the_start_of_the_next() -> None:
    tagged = parse_tagged("_ [T:30] and [T:57] so [T:95] my [T:125] _ [T:140] fellow [T:160]")
    assert tagged.text == "and so my fellow"
    assert timed(tagged) == [(0.3, 0.57, "and"), (0.57, 0.95, "so"), (0.95, 1.25, "my"), (1.4, 1.6, "fellow")]
    assert (tagged.turns, tagged.tags, tagged.malformed, tagged.warnings) == ((), 6, 0, ())


def test_the_first_word_starts_with_the_clip() -> None:
    assert timed(parse_tagged("hello [T:45] world [T:82]")) == [(0.0, 0.45, "hello"), (0.45, 0.82, "world")]


@pytest.mark.parametrize(
    "text",
    [
        "hello[T:45]world[T:82]",
        "hello [T: 45] world [t:82]",
        "hello\n[ T : 45 ]\tworld  [T:82]",
        "hello[T:45][T:45]world[T:82]",
        "[T:0][T:0]hello[T:45]world[T:82][T:82]",
        "hello [T:045] world [T:82] _",
    ],
)
def test_odd_and_glued_tags_are_read(text: str) -> None:
    tagged = parse_tagged(text)
    assert timed(tagged) == [(0.0, 0.45, "hello"), (0.45, 0.82, "world")]
    assert tagged.malformed == 0


def test_tags_that_start_over_are_unwrapped() -> None:
    assert ends("a [T:950] b [T:20] c [T:700] d [T:100]") == [9.5, 10.2, 17.0, 21.0]
    assert ends("a [T:990] b [T:0] _ [T:800] c [T:999] d [T:3]") == [9.9, 10.0, 19.99, 20.03]


def test_a_small_fall_is_jitter_and_holds_the_time() -> None:
    assert ends("a [T:500] b [T:499] c [T:510] d [T:200] e [T:520]") == [5.0, 5.0, 5.1, 5.1, 5.2]
    assert ends("a [T:500] b [T:0]") == [5.0, 5.0]
    assert ends("a [T:501] b [T:0]") == [5.01, 10.0]


def test_a_tag_without_a_word_moves_the_start_of_the_next() -> None:
    assert timed(parse_tagged("a [T:45][T:60] b [T:82]")) == [(0.0, 0.45, "a"), (0.6, 0.82, "b")]


def test_jitter_over_the_start_of_a_lap_is_no_leap() -> None:
    assert ends("a [T:990] b [T:3] c [T:998] d [T:30]") == [9.9, 10.03, 10.03, 10.3]


def test_a_first_tag_never_falls_back_before_the_clip() -> None:
    assert timed(parse_tagged("_ [T:990] a [T:20]")) == [(9.9, 10.2, "a")]
    assert ends("a [T:3] b [T:999]") == [0.03, 9.99]


def test_silences_advance_the_time_over_several_laps() -> None:
    assert timed(parse_tagged("a [T:100] _ [T:900] _ [T:700] _ [T:500] b [T:530]")) == [
        (0.0, 1.0, "a"),
        (25.0, 25.3, "b"),
    ]


def test_a_silence_may_last_longer_than_a_word() -> None:
    assert ends("a [T:400] _ [T:200] b [T:230]") == [4.0, 12.3]
    assert ends("a [T:400] b [T:200] c [T:430]") == [4.0, 4.0, 4.3]
    assert ends("a [T:400] _ [T:300] b [T:430]") == [4.0, 4.3]


def test_times_that_do_not_start_over_are_read() -> None:
    assert ends("if[T:7962]you[T:7970]got[T:7969]it[T:8000]") == [79.62, 79.7, 79.7, 80.0]
    assert ends("a [T:990] b [T:1000] c [T:40] d [T:1000]") == [9.9, 10.0, 10.4, 10.4]


def test_times_stay_within_the_clip() -> None:
    assert ends("a [T:400] b [T:455]", 4.5) == [4.0, 4.5]
    # What is far beyond the end is not believed: another lap, or a leap.
    assert ends("a [T:540] b [T:20] c [T:560]", 6.0) == [5.4, 5.4, 5.6]
    assert ends("a [T:100] b [T:900] c [T:150]", 3.0) == [1.0, 1.0, 1.5]
    assert ends("a [T:999] b [T:8]", 10.0) == [9.99, 10.0]
    assert ends("a [T:999999] b [T:8]", 0.0) == [0.0, 0.0]
    assert ends("a [T:1] b", 1.0015) == [0.01, 1.001]
    assert ends("a [T:1] b", 1.001) == [0.01, 1.001]
    assert ends("a [T:1] b", 10.379999999999999) == [0.01, 10.379]


def test_words_that_share_a_tag_share_its_time_by_their_characters() -> None:
    assert timed(parse_tagged("_ [T:100] abc d [T:140]")) == [(1.0, 1.3, "abc"), (1.3, 1.4, "d")]
    assert timed(parse_tagged("abc _ [T:40] d [T:50]")) == [(0.0, 0.3, "abc"), (0.4, 0.5, "d")]


def test_words_after_the_last_tag_last_until_the_end() -> None:
    assert timed(parse_tagged("a [T:100] bc d", 4.0)) == [(0.0, 1.0, "a"), (1.0, 3.0, "bc"), (3.0, 4.0, "d")]
    assert timed(parse_tagged("a [T:100] bc d")) == [(0.0, 1.0, "a"), (1.0, 1.0, "bc"), (1.0, 1.0, "d")]


def test_without_time_tags_no_times_are_invented() -> None:
    tagged = parse_tagged("hello world", 3.0)
    assert (tagged.text, tagged.words, tagged.turns, tagged.tags) == ("hello world", (), (), 0)
    assert parse_tagged("", 3.0) == Tagged("", (), (), 0, 0)
    assert parse_tagged("_ [T:30]", 3.0) == Tagged("", (), (), 1, 0)


# Reading speakers


def test_turns_without_times_span_the_clip() -> None:
    tagged = parse_tagged("[Speaker 1]: how are you [Speaker 2]: fine", 2.5)
    assert tagged.turns == (Turn("1", 0.0, 2.5, "how are you"), Turn("2", 0.0, 2.5, "fine"))
    assert (tagged.text, tagged.words) == ("how are you fine", ())
    assert parse_tagged("[Speaker 1]: yes").turns == (Turn("1", 0.0, 0.0, "yes"),)


def test_turns_with_times_span_their_words() -> None:
    tagged = parse_tagged("[Speaker 1]: _ [T:20] hi [T:40] _ [T:90] [Speaker 2]: hello [T:130] there [T:150]")
    assert tagged.turns == (Turn("1", 0.2, 0.4, "hi"), Turn("2", 0.9, 1.5, "hello there"))
    assert [word.speaker for word in tagged.words] == ["1", "2", "2"]


@pytest.mark.parametrize(
    "tag", ["[Speaker 7]:", "[speaker 7]:", "[ Speaker7 ] :", "[SPEAKER  7]", "[Speaker 7 cluster 42]:"]
)
def test_odd_speaker_tags_are_read(tag: str) -> None:
    assert parse_tagged(f"{tag}hello").turns == (Turn("7", 0.0, 0.0, "hello"),)
    assert parse_tagged(f"{tag} hello").malformed == 0


def test_neighbouring_turns_of_one_speaker_are_one() -> None:
    text = "[Speaker 1]: a [Speaker 1]: b [Speaker 2]: [Speaker 1]: c [Speaker 2]: d"
    assert by_speaker(parse_tagged(text)) == [("1", "a b c"), ("2", "d")]


def test_words_that_no_tag_gives_to_anybody_are_nobodys() -> None:
    tagged = parse_tagged("so [T:10] [Speaker 1]: a [T:20] [Speaker ]: b [T:30]")
    assert by_speaker(tagged) == [(NOBODY, "so"), ("1", "a"), (NOBODY, "b")]
    assert [word.speaker for word in tagged.words] == [None, "1", None]


def test_words_make_turns_by_their_speakers() -> None:
    words = [Word(0.0, 0.5, "so", speaker="1"), Word(0.6, 0.9, "it", speaker="1"), Word(1.2, 1.5, "no")]
    assert speaker_turns(words) == (Turn("1", 0.0, 0.9, "so it"), Turn(NOBODY, 1.2, 1.5, "no"))
    assert speaker_turns(words[2:]) == speaker_turns([]) == ()


# Malformed tags and plain text


@pytest.mark.parametrize("tag", MALFORMED)
def test_malformed_tags_are_counted_and_never_words(tag: str) -> None:
    for text in (f"hello {tag} world [T:82]", f"hello{tag}world[T:82]"):
        tagged = parse_tagged(text)
        assert [word.text for word in tagged.words] == ["hello", "world"]
        assert (tagged.tags, tagged.malformed) == (2, 1)
        assert [notice.code for notice in tagged.warnings] == ["malformed-tags"]
        assert tagged.words[-1].end == 0.82


@pytest.mark.parametrize("tail", ["[", "[T", "[T:", "[T:4", "[T:45", "[Spe", "[Speaker", "[Speaker 1", "[ speaker"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_text_cut_within_a_tag_loses_only_the_tag(tail: str, space: str) -> None:
    tagged = parse_tagged(f"hello [T:45] world{space}{tail}")
    assert timed(tagged) == [(0.0, 0.45, "hello"), (0.45, 0.45, "world")]
    assert tagged.malformed == 1


def test_a_tag_without_its_end_does_not_swallow_the_next_word() -> None:
    for text in ("a [T:45 b [T:90]", "a[T:45b[T:90]", "a [T: b [T:90]", "[Speaker 1: a [Speaker 2 b [T:90]"):
        assert [word.text for word in parse_tagged(text).words] == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["[laughs]", "a [Tom] b", "[T]", "[Speaker coughs]", "[Speakers]: x", "x_y __ ]: [[ x"]
)
def test_other_brackets_are_text(text: str) -> None:
    assert strip_tags(text) == parse_tagged(text).text == text
    assert parse_tagged(text).tags == 0


def test_hostile_text_costs_linear_time() -> None:
    begin = time.perf_counter()
    for piece in ("[T:", "[T: ", "[T:1", "[", " ", "[Speaker ", "[Speaker 1 cluster ", "[T:] ", "_ ", "1"):
        parse_tagged(f"[T:{piece * 20_000}")
        parse_tagged(f"[speaker {piece * 20_000}")
    assert time.perf_counter() - begin < 20


# Writing


def test_words_are_written_with_their_silences() -> None:
    words = [Word(0.3, 0.57, "and"), Word(0.57, 0.95, "so"), Word(1.0, 1.25, "my")]
    assert render_words(words) == "_ [T:30] and [T:57] so [T:95] _ [T:100] my [T:125]"
    assert render_words(words, min_silence_s=0.06) == "_ [T:30] and [T:57] so [T:95] my [T:125]"
    assert render_words([]) == ""


def test_a_long_silence_is_written_in_parts() -> None:
    assert render_words([Word(25.0, 25.3, "a")]) == "_ [T:899] _ [T:798] _ [T:500] a [T:530]"


def test_speakers_are_written_with_words_and_with_turns() -> None:
    words = [Word(0, 0.1, "so"), Word(0.1, 0.2, "a", speaker="1"), Word(0.5, 0.6, "b", speaker="2")]
    assert render_words(words) == "so [T:10] [Speaker 1]: a [T:20] _ [T:50] [Speaker 2]: b [T:60]"
    turns = [Turn(NOBODY, 0, 1, "so"), Turn("1", 0, 1, "a  b"), Turn("1", 1, 2, "c"), Turn("2", 2, 3, "[laughs]")]
    assert render_turns(turns) == "so [Speaker 1]: a b c [Speaker 2]: [laughs]"


@pytest.mark.parametrize("text", ["_", "[T:5]", "x[T:5]", "[T:", "[Speaker1]", "two words", " a", ""])
def test_a_word_that_would_be_read_otherwise_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^word .* would be read otherwise"):
        render_words([Word(0, 1, text)])


@pytest.mark.parametrize("text", ["a _ b", "a [T:5]", "a [Speaker 2]: b", "", " ", "a ["])
def test_a_turn_that_would_be_read_otherwise_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^turns .* would be read otherwise"):
        render_turns([Turn("1", 0, 1, text)])


def test_turns_that_make_a_tag_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="would be read otherwise"):
        render_turns([Turn("1", 0, 1, "[speaker x"), Turn("1", 1, 2, "y]: b")])


@pytest.mark.parametrize(
    ("start", "end"), [(0.5, 2.0), (2.0, 1.9), (float("nan"), 2.0), (1.0, float("nan")), (1.0, float("inf"))]
)
def test_times_that_tags_cannot_hold_are_an_error(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"from 0 s on|do not overlap"):
        render_words([Word(0.0, 1.0, "a"), Word(start, end, "b")])
    with pytest.raises(ValueError, match="from 0 s on"):
        render_words([Word(-1.0, 1.0, "a")])


def test_a_word_too_long_for_tags_is_an_error() -> None:
    assert ends(render_words([Word(8.0, 12.99, "a")])) == [12.99]
    with pytest.raises(ValueError, match="less than 5 s"):
        render_words([Word(8.0, 13.0, "a")])


@pytest.mark.parametrize("speaker", ["Ann", "1]:", NOBODY])
def test_a_speaker_that_tags_cannot_name_is_an_error(speaker: str) -> None:
    with pytest.raises(ValueError, match="numbers"):
        render_turns([Turn("1", 0, 1, "a"), Turn(speaker, 1, 2, "b")])
    with pytest.raises(ValueError, match="numbers"):
        render_words([Word(0, 1, "a", speaker="1"), Word(1, 2, "b", speaker=speaker)])


# Laws

texts = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=6)
pieces = st.one_of(
    st.sampled_from(
        ["[", "]", "T", ":", "_", "[T:", "[Speaker ", "Speaker", "cluster", " ", "5", "1", "a", "é", *MALFORMED]
    ),
    st.integers(0, 1200).map("[T:{}]".format),
    st.integers(0, 3).map("[Speaker {}]:".format),
    st.text(max_size=3),
)
scraps = st.lists(pieces, max_size=20).map("".join)
durations = st.one_of(st.none(), st.floats(0, 700))


@given(scraps, durations)
def test_any_text_is_read_and_nothing_of_it_is_lost(text: str, duration_s: float | None) -> None:
    tagged = parse_tagged(text, duration_s)
    assert tagged.text == strip_tags(text)
    if tagged.words:
        assert " ".join(word.text for word in tagged.words) == tagged.text
    if tagged.turns:
        assert " ".join(turn.text for turn in tagged.turns) == tagged.text
    edges = times(tagged)
    assert edges == sorted(edges)
    assert all(0 <= edge <= (duration_s if duration_s is not None else math.inf) for edge in edges)
    assert 0 <= tagged.malformed <= tagged.tags


@given(st.text(st.characters(exclude_characters="[]_")))
def test_text_without_tags_is_kept(text: str) -> None:
    assert strip_tags(text) == " ".join(text.split())


@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 499), texts, st.sampled_from("12")), max_size=8))
def test_parse_inverts_render_of_words(rows: list[tuple[int, int, str, str]]) -> None:
    words, now = [], 0
    for gap, length, text, speaker in rows:
        if strip_tags(text) != text:
            continue
        words.append(Word((now + gap) / 100, (now + gap + length) / 100, text, speaker=speaker))
        now += gap + length
    assert parse_tagged(render_words(words)).words == tuple(words)
    assert parse_tagged(render_words(words), duration_s=now / 100).words == tuple(words)


@given(st.lists(st.tuples(st.sampled_from("123"), st.lists(texts, min_size=1, max_size=4).map(" ".join)), max_size=6))
def test_parse_inverts_render_of_turns(rows: list[tuple[str, str]]) -> None:
    try:
        text = render_turns([Turn(speaker, 0, 0, words) for speaker, words in rows])
    except ValueError:
        return
    merged = [(speaker, " ".join(t for _, t in group)) for speaker, group in groupby(rows, key=lambda row: row[0])]
    assert by_speaker(parse_tagged(text)) == merged


@given(scraps)
def test_what_was_read_can_be_written_and_read_again(text: str) -> None:
    tagged = parse_tagged(text)
    try:
        again = parse_tagged(render_words(tagged.words))
    except ValueError:
        return
    assert again.words == tagged.words


def written(words: Sequence[tuple[int, int, str]], drift: Sequence[int], scraps: Sequence[str]) -> str:
    """What a model may write: silences of up to 8.9 s, tags that drift, scraps of tags glued to some words."""
    parts: list[str] = []
    now = 0
    for (start, end, text), off, scrap in zip(words, drift, scraps, strict=True):
        if start > now:
            parts += [f"_ [T:{at % 1000}]" for at in (*range(now + 890, start, 890), start)]
        parts.append(f"{scrap}{text}[T:{(end + off) % 1000}]")
        now = end
    return " ".join(parts)


@pytest.mark.parametrize("streams", [STREAMS, pytest.param(MANY_STREAMS, marks=pytest.mark.laws)])
def test_random_streams_lose_nothing_and_keep_their_times(streams: int) -> None:
    """Half of them as they are rendered, half with jitter and malformed tags; many reach 10 s and 20 s, some 600 s."""
    dice = random.Random(20260411)
    pick, below = dice.choice, dice.randrange
    names = [f"w{number}" for number in range(50)] + ["[laughs]", "x_y", "naïve", "T:45", "[Ann]:"]
    reached = [0, 0, 0]
    for stream in range(streams):
        now, rows = below(20) + (pick((0, 950, 990, 1980)) if stream % 199 else 59_970), []
        begin = now
        for _ in range(1 + below(5)):
            start = now + (below(890) if below(4) == 0 else 0)
            now = start + 7 + below(150)
            rows.append((start, now, pick(names)))
        for which, rollover in enumerate((1_000, 2_000, 60_000)):
            reached[which] += begin < rollover <= now
        duration_s = pick((None, now / 100, (now + below(300)) / 100))
        if stream % 2:
            drift = [below(7) - 3 for _ in rows]
            scraps = [pick(MALFORMED) if below(4) == 0 else "" for _ in rows]
            tagged = parse_tagged(written(rows, drift, scraps), duration_s)
            assert tagged.malformed == len(rows) - scraps.count("")
            close = 0.035  # the drift and half a step
        else:
            words = [Word(start / 100, end / 100, text) for start, end, text in rows]
            tagged = parse_tagged(render_words(words), duration_s)
            assert tagged.malformed == 0
            close = 0.005
        last = 0.0
        for word, (start, end, text) in zip(tagged.words, rows, strict=True):
            assert word.text == text
            assert last <= word.start <= word.end
            assert abs(word.start - start / 100) < close and abs(word.end - end / 100) < close
            last = word.end
        assert duration_s is None or last <= duration_s
    assert min(reached) > streams / 1000, reached
