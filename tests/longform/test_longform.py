"""Long recordings: listening for speech, cutting, batching, stitching."""

from __future__ import annotations

import importlib.util
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redline import audio
from redline.errors import RecognitionError, UnsupportedTaskError
from redline.longform import pipeline, vad, windows
from redline.longform.pipeline import PipelineOptions
from redline.longform.stitch import WindowResult, stitch
from redline.longform.vad import FRAME, VadOptions
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer, silence, tone
from redline.types import SAMPLE_RATE, Edit, Hypothesis, Notice, Span, Task, Transcript, Waveform, Word

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
SPEAK = Task()


@pytest.fixture(scope="module")
def jfk() -> Waveform:
    return audio.load(JFK)


def louder(wave: Waveform, db: float) -> Waveform:
    return Waveform(wave.samples * np.float32(10 ** (db / 20)), wave.source)


def noise(seconds: float, db: float) -> Waveform:
    samples = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)) * 10 ** (db / 20)
    return Waveform(samples.astype(np.float32))


def codes(notices: tuple[Notice, ...]) -> list[str]:
    return [notice.code for notice in notices]


# ---------------------------------------------------------------------------------------------------- speech activity


def test_speech_probabilities_equal_the_packaged_network(jfk: Waveform) -> None:
    found = importlib.util.find_spec("silero_vad")
    assert found is not None and found.origin is not None
    packaged = torch.jit.load(str(Path(found.origin).parent / "data" / "silero_vad.jit"))
    samples = jfk.samples[: 3 * SAMPLE_RATE + 100]
    whole = np.pad(samples, (0, -len(samples) % FRAME))
    with torch.inference_mode():
        frames = [torch.from_numpy(whole[at : at + FRAME]) for at in range(0, len(whole), FRAME)]
        expected = [packaged(frame, SAMPLE_RATE).item() for frame in frames]
    np.testing.assert_allclose(vad.speech_probabilities(samples), expected, atol=1e-4)


def test_speech_probabilities_do_not_depend_on_blocks(jfk: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vad.speech_probabilities(jfk.samples)
    monkeypatch.setattr(vad, "_BLOCK", 50)
    np.testing.assert_allclose(vad.speech_probabilities(jfk.samples), whole, atol=1e-5)


def test_listening_leaves_the_thread_count_alone(jfk: Waveform) -> None:
    before = torch.get_num_threads()
    vad.speech_probabilities(jfk.samples[:SAMPLE_RATE])
    assert torch.get_num_threads() == before


def test_levels_are_decibels_below_full_scale() -> None:
    np.testing.assert_allclose(vad.frame_levels(tone(0.512, 1000, level_db=-20).samples), -20, atol=0.1)
    np.testing.assert_allclose(vad.frame_levels(silence(0.5).samples), -120)
    assert len(vad.frame_levels(silence(0.5).samples)) == len(vad.speech_probabilities(silence(0.5).samples))


def test_speech_spans_follow_the_hysteresis() -> None:
    probabilities = np.repeat(np.float32([0.1, 0.4, 0.6, 0.4, 0.1, 0.9]), 20)
    spans = vad.speech_spans(probabilities, 119 * FRAME + 7, VadOptions(onset=0.5, offset=0.35))
    assert spans == [Span(40 * FRAME, 80 * FRAME), Span(100 * FRAME, 119 * FRAME + 7)]


def test_a_click_is_not_speech_and_a_short_pause_does_not_end_it() -> None:
    probabilities = np.zeros(100, dtype=np.float32)
    probabilities[[10, 50, 51, 52, 53, 56, 57, 58]] = 1
    assert vad.speech_spans(probabilities, 100 * FRAME) == [Span(50 * FRAME, 59 * FRAME)]


# ------------------------------------------------------------------------------------------------------------ windows

pauses = st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 1_500_000)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(pauses, st.floats(1, 30), st.floats(0, 0.5), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_windows_hold_all_speech_and_nothing_twice(
    gaps: list[tuple[int, int]], max_s: float, pad_s: float, join_s: float, seed: int
) -> None:
    speech, at = [], 0
    for gap, length in gaps:
        speech.append(Span(at + gap, at + gap + length))
        at += gap + length
    total = at + 1000
    strength = np.random.default_rng(seed).random(-(-total // FRAME), dtype=np.float32)
    made = windows.cut(speech, strength, FRAME, total, WindowOptions(max_s, pad_s, join_s))
    assert all(0 <= span.start < span.end <= total for span in made)
    assert all(span.end - span.start <= round(max_s * SAMPLE_RATE) for span in made)
    assert all(left.end <= right.start for left, right in pairwise(made))
    covered = windows.join(made, 0)
    assert all(any(one.start <= span.start and span.end <= one.end for one in covered) for span in speech)


def test_long_speech_is_cut_in_its_pause() -> None:
    strength = np.ones(2000, dtype=np.float32)
    strength[900:912] = 0.2
    strength[1100:1102] = 0.0  # one weak frame inside a word is no pause
    left, right = windows.split(Span(0, 2000 * FRAME), strength, FRAME, 40 * SAMPLE_RATE)
    assert left.end == right.start and 900 * FRAME <= left.end <= 912 * FRAME
    assert right.end == 2000 * FRAME


def test_hours_without_a_pause_are_cut() -> None:
    frames = 10 * 3600 * SAMPLE_RATE // FRAME
    made = windows.split(Span(0, frames * FRAME), np.ones(frames, dtype=np.float32), FRAME, 30 * SAMPLE_RATE)
    assert sum(span.end - span.start for span in made) == frames * FRAME
    assert len(made) <= 3 * 10 * 120


def test_short_pauses_join_and_long_ones_part() -> None:
    speech = [Span(16_000, 32_000), Span(40_000, 60_000), Span(100_000, 120_000)]
    made = windows.cut(speech, np.zeros(1000, dtype=np.float32), FRAME, 200_000, WindowOptions(30, 0.2, 0.6))
    assert made == [Span(12_800, 63_200), Span(96_800, 123_200)]


# ----------------------------------------------------------------------------------------------------------- stitching


def test_stitch_puts_segments_in_time_order_and_moves_words_to_the_recording() -> None:
    word = Word(0.1, 0.4, "second", 0.9)
    heard = [
        WindowResult(
            Span(32_000, 48_000), Hypothesis(" second  part ", "draft", (Edit("keep", " a", " a", 0),), 0.5, (word,))
        ),
        WindowResult(Span(0, 16_000), Hypothesis("first")),
    ]
    made = stitch(silence(3), heard, model="m", task=Task(language="en"))
    assert made.text == "first second part" and made.language == "en" and made.model == "m" and made.duration == 3.0
    assert [(one.id, one.start, one.end, one.text) for one in made.segments] == [
        (0, 0.0, 1.0, "first"),
        (1, 2.0, 3.0, "second part"),
    ]
    assert made.segments[1].words == (Word(2.1, 2.4, "second", 0.9),)
    assert made.segments[1].draft == "draft" and made.segments[1].confidence == 0.5 and made.warnings == ()


def test_warnings_of_a_window_get_its_times() -> None:
    warned = Hypothesis("text", warnings=(Notice("a", "whole"), Notice("b", "part", 0.25, 0.5)))
    made = stitch(silence(3), [WindowResult(Span(16_000, 32_000), warned)], model="m", task=SPEAK)
    assert made.warnings == (Notice("a", "whole", 1.0, 2.0), Notice("b", "part", 1.25, 1.5))


def test_speech_without_text_is_told() -> None:
    heard = [WindowResult(Span(16_000, 32_000), Hypothesis(" ", draft="uh"))]
    made = stitch(silence(3), heard, model="m", task=SPEAK)
    assert made.text == "" and made.segments == ()
    (notice,) = made.warnings
    assert (notice.code, notice.start, notice.end) == ("empty-text", 1.0, 2.0) and "'uh'" in notice.message


# ------------------------------------------------------------------------------------------------------------ pipeline


def test_speech_is_found_and_cut_at_pauses(jfk: Waveform) -> None:
    made = pipeline.transcribe(FakeRecognizer(), jfk, SPEAK)
    starts = [segment.start for segment in made.segments]
    assert len(starts) == 3
    np.testing.assert_allclose(starts, [0.2, 3.1, 5.2], atol=0.2)
    assert made.warnings == ()


@pytest.mark.parametrize("db", [-50, -35])
def test_quiet_speech_loses_nothing(jfk: Waveform, db: float) -> None:
    spans, notices = pipeline.listen(louder(jfk, db), 30, PipelineOptions())
    raised, _ = pipeline.listen(louder(jfk, -20), 30, PipelineOptions())
    assert notices == []
    assert [(round(one.start_s, 1), round(one.end_s, 1)) for one in spans] == [
        (round(one.start_s, 1), round(one.end_s, 1)) for one in raised
    ]


@pytest.mark.parametrize(
    "wave", [silence(3), tone(3), noise(3, -20), noise(3, -50)], ids=["silence", "tone", "loud", "soft"]
)
def test_silence_and_noise_give_empty_text_and_say_so(wave: Waveform) -> None:
    recognizer = FakeRecognizer()
    made = pipeline.transcribe(recognizer, wave, SPEAK)
    assert made.text == "" and made.segments == () and recognizer.batches == []
    assert codes(made.warnings) == ["no-speech"] and made.duration == 3.0


def test_doubtful_speech_is_recognized_with_a_warning(jfk: Waveform) -> None:
    strict = PipelineOptions(vad=VadOptions(onset=0.99999999, offset=0.9))
    made = pipeline.transcribe(FakeRecognizer(), jfk, SPEAK, strict)
    assert made.text and codes(made.warnings) == ["faint-speech"]


def test_without_speech_detection_all_is_recognized() -> None:
    recognizer = FakeRecognizer()
    pipeline.transcribe(recognizer, tone(70), SPEAK, PipelineOptions(vad=None))
    assert sum(map(sum, recognizer.batches)) == pytest.approx(70, abs=0.01)
    assert max(map(max, recognizer.batches)) <= 30


@pytest.mark.parametrize("samples", [0, 1, 319])
def test_less_than_20_ms_is_empty_with_a_warning(samples: int) -> None:
    made = pipeline.transcribe(FakeRecognizer(), Waveform(np.ones(samples, dtype=np.float32)), SPEAK)
    assert made.text == "" and codes(made.warnings) == ["too-short"]


@pytest.mark.parametrize("samples", [320, 511, 512, 513, 4000])
@pytest.mark.parametrize("detect", [True, False])
def test_very_short_recordings_do_not_break(samples: int, detect: bool) -> None:
    options = PipelineOptions() if detect else PipelineOptions(vad=None)
    result = pipeline.transcribe(FakeRecognizer(), noise(samples / SAMPLE_RATE, -20), SPEAK, options)
    assert result.duration == round(samples / SAMPLE_RATE, 3)


def test_warnings_of_the_recording_are_kept(jfk: Waveform) -> None:
    torn = Waveform(jfk.samples, "torn.wav", (Notice("truncated", "half is missing"),))
    assert codes(pipeline.transcribe(FakeRecognizer(), torn, SPEAK).warnings) == ["truncated"]


def test_no_window_is_longer_than_the_recognizer_takes(jfk: Waveform) -> None:
    recognizer = FakeRecognizer(max_clip_s=2.0)
    pipeline.transcribe(recognizer, jfk, SPEAK)
    assert max(map(max, recognizer.batches)) <= 2.0


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 5000))
def test_batches_are_bounded_and_complete(lengths: list[int], most: int) -> None:
    groups = pipeline.batches(lengths, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most for group in groups)


def test_recordings_share_batches_and_keep_their_order(jfk: Waveform) -> None:
    recognizer = FakeRecognizer()
    waves = [jfk, silence(1), louder(jfk, -10), Waveform(jfk.samples[: 5 * SAMPLE_RATE])]
    results = pipeline.transcribe_many(recognizer, waves, SPEAK)
    assert len(recognizer.batches) == 1
    alone = [pipeline.transcribe(FakeRecognizer(), wave, SPEAK) for wave in waves]
    assert results == alone


def test_progress_rises_to_the_whole_duration(jfk: Waveform) -> None:
    seen: list[float] = []
    options = PipelineOptions(batch_s=6)
    pipeline.transcribe_many(FakeRecognizer(), [jfk, silence(4)], SPEAK, options, seen.append)
    assert len(seen) > 1 and seen == sorted(seen) and seen[-1] == pytest.approx(15.0)


def picky(clip: Waveform) -> str:
    if clip.duration < 2:
        raise RecognitionError("too\nhard")
    return "heard"


def test_a_bad_window_harms_only_itself(jfk: Waveform) -> None:
    made = pipeline.transcribe(FakeRecognizer(picky), jfk, SPEAK)
    assert made.text == "heard heard"
    (notice,) = made.warnings
    assert notice.code == "failed" and "RecognitionError: too hard" in notice.message
    assert notice.start == pytest.approx(3.1, abs=0.2) and notice.end == pytest.approx(4.6, abs=0.2)


def test_a_recording_of_which_everything_failed_is_an_error_of_its_own(jfk: Waveform) -> None:
    short = Waveform(jfk.samples[: 2 * SAMPLE_RATE], "short.wav")
    failed, fine = pipeline.transcribe_many(FakeRecognizer(picky), [short, jfk], SPEAK)
    assert isinstance(failed, RecognitionError) and "short.wav" in str(failed)
    assert not isinstance(fine, RecognitionError)
    with pytest.raises(RecognitionError, match="too hard"):
        pipeline.transcribe(FakeRecognizer(picky), short, SPEAK)


def test_a_recognizer_that_loses_clips_is_found_out(jfk: Waveform) -> None:
    class Lossy(FakeRecognizer):
        def recognize(self, clips: object, task: Task) -> list[Hypothesis]:
            return []

    with pytest.raises(RecognitionError, match="0 hypotheses"):
        pipeline.transcribe(Lossy(), jfk, SPEAK)


def test_an_unsupported_task_is_not_taken_for_a_bad_window(jfk: Waveform) -> None:
    def refuse(clip: Waveform) -> str:
        raise UnsupportedTaskError("cannot")

    with pytest.raises(UnsupportedTaskError):
        pipeline.transcribe(FakeRecognizer(refuse), jfk, SPEAK)


def test_a_fault_of_the_program_is_not_taken_for_a_bad_window(jfk: Waveform) -> None:
    def fault(clip: Waveform) -> str:
        raise IndexError("list index out of range")

    with pytest.raises(IndexError):
        pipeline.transcribe(FakeRecognizer(fault), jfk, SPEAK)
    with pytest.raises(IndexError):
        list(pipeline.stream(FakeRecognizer(fault), jfk, SPEAK))


def test_a_bad_window_is_logged_with_its_traceback(jfk: Waveform, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="redline"):
        pipeline.transcribe(FakeRecognizer(picky), jfk, SPEAK)
    assert "too\nhard" in caplog.text and "in picky" in caplog.text


def test_an_interruption_keeps_what_is_done_from_the_start(jfk: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_TOGETHER_S", 5.0)
    long = Waveform(np.tile(jfk.samples, 3), "long.wav")
    whole = pipeline.transcribe(FakeRecognizer(), long, SPEAK)
    calls: list[float] = []

    def hear(clip: Waveform) -> str:
        calls.append(clip.duration)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return f"{clip.duration:.2f} seconds"

    with pytest.raises(pipeline.Interrupted) as stop:
        pipeline.transcribe_many(FakeRecognizer(hear), [silence(1.0), long, long], SPEAK)
    quiet, kept, none = stop.value.results
    assert isinstance(kept, Transcript) and none is None
    assert isinstance(quiet, Transcript) and codes(quiet.warnings) == ["no-speech"], "nothing of it is missing"
    assert len(kept.segments) >= 2 and kept.segments == whole.segments[: len(kept.segments)]
    (notice,) = [one for one in kept.warnings if one.code == "interrupted"]
    assert notice.start == whole.segments[len(kept.segments)].start and notice.end == whole.segments[-1].end


def test_stream_equals_transcribe_and_starts_early(jfk: Waveform) -> None:
    recognizer = FakeRecognizer()
    segments = pipeline.stream(recognizer, jfk, SPEAK)
    first = next(segments)
    assert [len(batch) for batch in recognizer.batches] == [1]
    assert (first, *segments) == pipeline.transcribe(FakeRecognizer(), jfk, SPEAK).segments


def test_stream_keeps_batches_bounded(jfk: Waveform) -> None:
    recognizer = FakeRecognizer()
    wave = Waveform(np.tile(jfk.samples, 6))
    list(pipeline.stream(recognizer, wave, SPEAK, PipelineOptions(batch_s=20)))
    assert max(len(batch) * max(batch) for batch in recognizer.batches) <= 20


def test_stream_tells_its_notices(jfk: Waveform) -> None:
    with pytest.warns(UserWarning, match=r"3\.\d+ s to 4\.\d+ s: .*too hard"):
        assert len(list(pipeline.stream(FakeRecognizer(picky), jfk, SPEAK))) == 2
    seen: list[Notice] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(pipeline.stream(FakeRecognizer(), silence(1), SPEAK, notify=seen.append)) == []
    assert codes(tuple(seen)) == ["no-speech"]


def test_stream_raises_when_everything_failed(jfk: Waveform) -> None:
    short = Waveform(jfk.samples[: 2 * SAMPLE_RATE])
    with pytest.raises(RecognitionError):
        list(pipeline.stream(FakeRecognizer(picky), short, SPEAK, notify=lambda notice: None))
