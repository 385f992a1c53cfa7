"""Transcripts for tests of formats: one by hand, and any that hypothesis thinks of."""

from __future__ import annotations

from hypothesis import strategies as st

from redline.types import Edit, Notice, Segment, Transcript, Turn, Word

WORDS = st.text(st.characters(categories=["L", "N", "P"], exclude_characters=">"), min_size=1, max_size=60)
TEXTS = st.lists(WORDS, min_size=1, max_size=60).map(" ".join)
SPEAKERS = st.none() | st.integers(1, 20).map(str)
SHARES = st.none() | st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


def transcript(*segments: tuple[float, float, str]) -> Transcript:
    parts = tuple(Segment(id, start, end, text) for id, (start, end, text) in enumerate(segments))
    return Transcript(" ".join(segment.text for segment in parts), parts, "en", 10.0, "fake")


SHORT = transcript((0.0, 1.5, "And so,"), (3599.9996, 3603.007, "my fellow Americans"))


@st.composite
def spans(draw: st.DrawFn) -> tuple[float, float]:
    """Start and end in seconds, to the millisecond."""
    start = draw(st.integers(0, 10**8))
    return start / 1000, (start + draw(st.integers(0, 10**5))) / 1000


@st.composite
def segments(draw: st.DrawFn, id: int) -> Segment:
    texts, ops = st.text(max_size=20), st.sampled_from(["keep", "replace", "insert", "delete"])
    edits = draw(st.lists(st.builds(Edit, ops, texts, texts, st.integers(0, 99)), max_size=4))
    words = draw(st.lists(WORDS, max_size=4))
    return Segment(
        id,
        *draw(spans()),
        draw(TEXTS),
        draft=draw(st.none() | texts),
        edits=tuple(edits),
        confidence=draw(SHARES),
        speaker=draw(SPEAKERS),
        words=tuple(Word(*draw(spans()), word, draw(SHARES), draw(SPEAKERS)) for word in words),
        accepted=draw(SHARES),
    )


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Any transcript that a recognizer could write."""
    parts = [draw(segments(id)) for id in range(draw(st.integers(0, 3)))]
    turns = [Turn(speaker, *draw(spans()), draw(TEXTS)) for speaker in draw(st.lists(WORDS, max_size=3))]
    places = spans() | st.just((None, None))
    notices = [Notice(code, draw(st.text()), *draw(places)) for code in draw(st.lists(WORDS, max_size=2))]
    return Transcript(
        " ".join(segment.text for segment in parts),
        tuple(parts),
        draw(st.none() | st.sampled_from(["en", "de"])),
        draw(spans())[1],
        draw(st.text(max_size=9)),
        draw(st.sampled_from(["transcribe", "translate"])),
        tuple(turns),
        tuple(notices),
    )
