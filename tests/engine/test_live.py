"""Live streams: what they commit depends on the sound alone, and comes as soon as a pause is certain."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import redline
from redline import audio
from redline.engine.live import MAX_LIVE_BATCH_S, LiveEvent, LiveOptions, LiveStream
from redline.errors import AudioError, ConfigError, RecognitionError
from redline.testing import FakeRecognizer, silence
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Request, Transcript, Waveform


@pytest.fixture(scope="module")
def speech(jfk: Path) -> NDArray[np.float32]:
    return audio.load(jfk).samples[: 6 * SAMPLE_RATE]


def heard(clip: Waveform) -> str:
    """A text that tells every sample of a clip."""
    return f"{clip.duration:.3f} {hash(clip.samples.tobytes())}"


def run(live: LiveStream, sound: NDArray[np.float32], piece: int) -> list[LiveEvent]:
    with live:
        events = [event for at in range(0, len(sound), piece) for event in live.feed(sound[at : at + piece])]
    return events + live.close()


def committed(events: Sequence[LiveEvent]) -> list[LiveEvent]:
    return [event for event in events if event.kind == "committed"]


@pytest.mark.parametrize("piece", [160, 1536, 4001, SAMPLE_RATE, 10**9])
def test_committed_text_does_not_depend_on_the_pieces(speech: NDArray[np.float32], piece: int) -> None:
    expected = run(Transcriber(FakeRecognizer(heard)).live(), speech, 3200)
    live = Transcriber(FakeRecognizer(heard)).live()
    events = run(live, speech, piece)
    assert len(committed(events)) > 1 and committed(events) == committed(expected)
    assert [segment.text for segment in live.transcript().segments] == [event.text for event in committed(events)]


def test_a_real_model_writes_the_same_in_any_pieces_alone_and_among_others(
    random_checkpoint: Path, speech: NDArray[np.float32]
) -> None:
    model = redline.load_model(random_checkpoint, device="cpu")

    def transcripts(pieces: Sequence[int]) -> list[Transcript]:
        streams = [model.live(words=True) for _ in pieces]
        for at in range(0, len(speech), 8000):
            for live, piece in zip(streams, pieces, strict=True):
                for start in range(at, min(at + 8000, len(speech)), piece):
                    live.push(speech[start : min(start + piece, at + 8000)])
            for live in streams:
                live.events()
        for live in streams:
            live.close()
        return [live.transcript() for live in streams]

    (alone,) = transcripts([500])
    assert alone.text and alone.words and transcripts([8000, 320, 3000]) == [alone] * 3


def test_a_window_is_answered_as_its_own_recording_would_be(
    random_checkpoint: Path, speech: NDArray[np.float32]
) -> None:
    model = redline.load_model(random_checkpoint, device="cpu")
    live = model.live(language="en")
    events = committed(run(live, speech, 4000))
    rest = silence(LiveOptions().silence_s).samples
    windows, lead = live._session.windows, round(LiveOptions().lead_s * SAMPLE_RATE)
    sound = int(np.argmax(speech != 0))  # digital silence in front is passed over
    for number, (event, window) in enumerate(zip(events, windows, strict=True)):
        assert event.segment is not None and (event.start, event.end) == (window.start_s, window.end_s)
        first = window.start if number - 1 in live._session.cut else max(sound, window.start - lead)
        clip = Waveform(np.concatenate((speech[first : window.end], rest)))
        (alone,) = model.recognizer.recognize([Request(clip, redline.Task(language="en"))])
        assert isinstance(alone, Hypothesis) and alone.text == event.text


def test_text_is_committed_when_the_pause_is_certain(speech: NDArray[np.float32]) -> None:
    live, seen = Transcriber(FakeRecognizer(heard)).live(), list[tuple[float, LiveEvent]]()
    for at in range(0, len(speech), 320):
        seen += [(live.seconds, event) for event in live.feed(speech[at : at + 320])]
    texts = [(now, event) for now, event in seen if event.kind == "committed" and event.pause]
    assert texts and all(event.end is not None and now - event.end < 0.3 for now, event in texts)
    partials = [(now, event) for now, event in seen if event.kind == "partial" and event.text]
    assert partials and all(event.end is not None and now - event.end < 0.15 for now, event in partials)


def test_partials_are_of_the_speech_behind_committed_text(speech: NDArray[np.float32]) -> None:
    last_end = 0.0
    for event in run(Transcriber(FakeRecognizer(heard)).live(), speech, 1600):
        assert event.start is not None and event.end is not None and event.start >= last_end
        last_end = event.end if event.kind == "committed" else last_end


def windows_asked_late(model: Transcriber, speech: NDArray[np.float32]) -> list[bool]:
    """Of each window behind which there is a pause, whether it was recognized only when the pause was certain."""
    live, late, batches = model.live(words=True), list[bool](), model.recognizer.batches  # type: ignore[attr-defined]
    for at in range(0, len(speech), 320):
        before = len(batches)
        events = live.feed(speech[at : at + 320])
        late += [len(batches) > before for event in committed(events) if event.pause]
    live.close()
    return late


def test_the_text_in_front_of_a_pause_is_known_when_the_pause_is_certain(speech: NDArray[np.float32]) -> None:
    late = windows_asked_late(Transcriber(FakeRecognizer(heard)), speech)
    assert len(late) > 1 and not any(late)


def test_likely_windows_are_left_out_where_windows_take_the_time(speech: NDArray[np.float32]) -> None:
    clock = 0.0

    def slow(clip: Waveform) -> str:
        nonlocal clock
        clock += 5.0
        return heard(clip)

    model = Transcriber(FakeRecognizer(slow))
    model.live_engine.now = lambda: clock
    first, *rest = windows_asked_late(model, speech)
    assert not first and rest and all(rest)


def test_a_likely_window_is_the_window_or_nothing(speech: NDArray[np.float32]) -> None:
    options = LiveOptions(partial_s=0.01)
    events = run(Transcriber(FakeRecognizer(heard)).live(live_options=options), speech, 160)
    pairs = [(a, b) for a, b in pairwise(events) if (a.kind, b.kind) == ("partial", "committed") and b.pause]
    assert len(pairs) > 1
    for partial, final in pairs[:-1]:  # the last one is ended by the end of the sound
        assert (partial.start, partial.end, partial.text) == (final.start, final.end, final.text)


def test_an_error_of_a_likely_window_is_none_of_its_window(speech: NDArray[np.float32]) -> None:
    asked = list[tuple[float, bytes]]()

    def picky(clip: Waveform) -> str:
        asked.append((clip.duration, clip.samples.tobytes()))
        if len(asked) == len(set(asked)):
            raise RecognitionError("not the first time")
        return "fine"

    live = Transcriber(FakeRecognizer(picky)).live(live_options=LiveOptions(partial_s=math.inf))
    run(live, speech, 1600)
    fine = [event for event in live.transcript().segments if event.text == "fine"]
    assert fine and len(asked) > len(set(asked))


def test_no_partials_where_none_are_wanted(speech: NDArray[np.float32]) -> None:
    model = Transcriber(FakeRecognizer(heard))
    events = run(model.live(live_options=LiveOptions(partial_s=math.inf)), speech, 1600)
    assert {event.kind for event in events} == {"committed"}


def test_long_speech_is_committed_while_it_goes_on(speech: NDArray[np.float32]) -> None:
    model = Transcriber(FakeRecognizer(heard))
    events = committed(run(model.live(vad=False, live_options=LiveOptions(max_s=2.0)), speech, 1600))
    assert len(events) > 3 and all(left.end == right.start for left, right in pairwise(events))
    assert [event.pause for event in events] == [False] * (len(events) - 1) + [True]
    assert all(event.end is not None and event.start is not None and event.end - event.start <= 2 for event in events)


def test_partial_text_of_which_nothing_came_is_taken_back(speech: NDArray[np.float32]) -> None:
    asked = 0

    class Shy(FakeRecognizer):
        def answer(self, request: Request) -> Hypothesis | redline.RedlineError:
            nonlocal asked
            asked += 1
            return Hypothesis("" if asked == 2 else "heard")

    live = Transcriber(Shy()).live(live_options=LiveOptions(partial_s=1.5))
    events = run(live, speech[: round(2.8 * SAMPLE_RATE)], 1600)
    assert [(event.kind, event.text) for event in events[:2]] == [("partial", "heard"), ("partial", "")]
    assert [event.code for event in events[2:]] == ["empty-text"] and live.transcript().text == ""


def test_silence_and_nothing_give_no_text() -> None:
    live = Transcriber(FakeRecognizer()).live()
    events = run(live, silence(5.0).samples, 1600)
    assert [event.code for event in events] == ["no-speech"] and live.transcript().text == ""
    empty = Transcriber(FakeRecognizer()).live()
    assert [event.code for event in empty.close()] == ["too-short"] and empty.transcript().text == ""


def test_speech_that_the_stream_cuts_off_is_in_the_text(speech: NDArray[np.float32]) -> None:
    live = Transcriber(FakeRecognizer()).live()
    live.feed(speech[: round(0.7 * SAMPLE_RATE)])
    (event,) = live.close()
    assert event.kind == "committed" and event.pause and event.end == 0.7


def test_streams_share_batches(speech: NDArray[np.float32]) -> None:
    model = Transcriber(FakeRecognizer(heard))
    streams = [model.live() for _ in range(5)]
    for at in range(0, len(speech), 4800):
        for live in streams:
            live.push(speech[at : at + 4800])
        assert len({tuple(event.text for event in committed(live.events())) for live in streams}) == 1
    batches = model.recognizer.batches  # type: ignore[attr-defined]
    assert max(map(len, batches)) == 5 and sum(map(sum, batches)) > 0
    assert all(len(batch) == 5 or 5 * max(batch) > 10 for batch in batches), "less only where it would be too much"
    assert all(len(batch) * max(batch) <= MAX_LIVE_BATCH_S for batch in batches if len(batch) > 1)


def test_streams_in_threads_of_their_own_give_what_each_gives_alone(speech: NDArray[np.float32]) -> None:
    model, events = Transcriber(FakeRecognizer(heard)), dict[int, list[LiveEvent]]()
    sounds = [np.roll(speech, 4000 * number) for number in range(4)]

    def speak(number: int) -> None:
        events[number] = run(model.live(), sounds[number], 1600)

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, sound in enumerate(sounds):
        alone = run(Transcriber(FakeRecognizer(heard)).live(), sound, 1600)
        assert committed(events[number]) == committed(alone)


def test_a_failed_window_is_a_warning_and_the_stream_goes_on(speech: NDArray[np.float32]) -> None:
    first = list[bytes]()

    def picky(clip: Waveform) -> str:
        first.append(clip.samples.tobytes())
        if first[-1] == first[0]:  # as a likely window, and as the window
            raise RecognitionError("too hard")
        return "heard"

    live = Transcriber(FakeRecognizer(picky)).live(live_options=LiveOptions(partial_s=math.inf))
    events = run(live, speech, 1600)
    assert events[0].code == "failed" and len(committed(events)) > 0
    assert [notice.code for notice in live.transcript().warnings] == ["failed"]


def test_other_rates_channels_and_types_give_the_same_windows(speech: NDArray[np.float32]) -> None:
    model = Transcriber(FakeRecognizer())
    expected = [event.text for event in committed(run(model.live(), speech, 1600))]
    ints = np.round(speech * 32768).astype(np.int16)
    stereo = np.stack((ints, ints), axis=1)
    live = model.live(channels=2)
    events = [event for at in range(0, len(ints), 1001) for event in live.feed(stereo[at : at + 1001])]
    assert [event.text for event in committed(events + live.close())] == expected
    live, data, events = model.live(), ints.astype("<i2").tobytes(), []
    for at in range(0, len(data), 3333):
        events += live.feed(data[at : at + 3333])
    assert [event.text for event in committed(events + live.close())] == expected
    half = [np.convolve(speech, [0.25, 0.5, 0.25], "same")[::2].astype(np.float32)][0]
    texts = {tuple(e.text for e in committed(run(model.live(sample_rate=8000), half, piece))) for piece in (77, 5000)}
    assert len(texts) == 1 and len(next(iter(texts))) == len(expected)


def test_wrong_sound_is_told() -> None:
    model = Transcriber(FakeRecognizer())
    with pytest.raises(AudioError, match="sample rate 100 Hz; allowed are 4000"):
        model.live(sample_rate=100)
    with pytest.raises(AudioError, match="channels is 'two'"):
        model.live(channels="two")  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"shape \(5, 2\), and channels is 1; allowed are \[N, 1\] and \[N\]"):
        model.live().feed(np.zeros((5, 2), np.float32))
    with pytest.raises(AudioError, match="a list; allowed are arrays"):
        model.live().feed([0.0])  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="NaN"):
        model.live().feed(np.full(5, np.nan, np.float32))
    with pytest.raises(ConfigError, match="partial_s is 0"):
        LiveOptions(partial_s=0.0)
    live = model.live()
    live.feed(b"\0" * 40_001)
    assert [event.code for event in live.close()] == ["truncated", "no-speech"]
    with pytest.raises(ValueError, match="closed"):
        live.feed(b"\0\0")


def test_a_stream_that_is_left_by_an_error_is_forgotten(speech: NDArray[np.float32]) -> None:
    model = Transcriber(FakeRecognizer())
    with pytest.raises(KeyError), model.live() as live:
        live.push(speech)
        raise KeyError
    other = model.live()
    run(other, silence(1.0).samples, 1600)
    assert model.recognizer.batches == []  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the stream goes on"):
        live.transcript()


def test_a_fault_in_one_stream_ends_that_one_and_no_other(speech: NDArray[np.float32]) -> None:
    def respond(clip: Waveform) -> Any:
        return None if clip.source == "<bad>" else "fine"  # None cannot be stitched

    model = Transcriber(FakeRecognizer(respond))
    bad, good = model.live(), model.live()
    bad._session.source = "<bad>"
    for stream in (bad, good):
        stream.push(speech)
        stream.end()
    assert {event.text for event in committed(good.events())} == {"fine"} and good.transcript().text
    for ask in (bad.events, bad.poll, bad.close):
        with pytest.raises(AttributeError):
            ask()
    assert bad.is_over and not good.is_over


def test_an_event_is_one_json_object_with_all_keys(speech: NDArray[np.float32]) -> None:
    (event, *_) = committed(run(Transcriber(FakeRecognizer()).live(), speech, 1600))
    values = event.to_dict()
    assert list(values) == ["kind", "text", "start", "end", "pause", "confidence", "speaker", "words", "code"]
    assert values["kind"] == "committed" and values["words"] == [] and values["pause"] is True


def test_words_and_keywords_work_live(tiny: redline.Model, jfk: Path) -> None:
    rest = audio.load(jfk).samples[round(4.5 * SAMPLE_RATE) : round(8.5 * SAMPLE_RATE)]
    without, with_keywords = (
        committed(
            run(tiny.live(words=True, keywords=keywords, live_options=LiveOptions(partial_s=math.inf)), rest, 3200)
        )
        for keywords in ([], ["can dew for you :4", "zebra"])
    )
    assert "can dew for you" not in without[0].text and "can dew for you" in with_keywords[0].text
    for event in with_keywords:
        assert [word.text for word in event.words] == event.text.split()
        starts = [word.start for word in event.words]
        assert starts == sorted(starts) and event.start is not None and starts[0] >= event.start


def test_speakers_are_told_live(tiny_plus: redline.Model, speech: NDArray[np.float32]) -> None:
    options = LiveOptions(partial_s=math.inf)
    live = tiny_plus.live(speakers=True, live_options=options)
    events = committed(run(live, speech[: 3 * SAMPLE_RATE], 3200))
    assert events and all(event.speaker == "1" for event in events)
    assert [turn.speaker for turn in live.transcript().turns] == ["1"]


def test_numbers_become_digits(speech: NDArray[np.float32]) -> None:
    live = Transcriber(FakeRecognizer(lambda clip: "twenty three")).live(digits=True)
    events = run(live, speech, 1600)
    assert {event.text for event in events} == {"23"} and live.transcript().text == "23 23 23"
