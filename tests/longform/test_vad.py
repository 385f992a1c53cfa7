"""Voice activity detection: the network, hysteresis, and what a recording that is still being read decides."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redline.longform import silero
from redline.longform.detector import SpeechDetector
from redline.longform.vad import VAD_BLOCK, VAD_FRAME, SileroVad, SpeechSpans, VadOptions, frame_levels
from redline.testing import silence, tone
from redline.types import SAMPLE_RATE, Notice, Span, Waveform


def spans_of(probabilities: NDArray[np.float32], end: int, options: VadOptions | None = None) -> list[Span]:
    return SpeechSpans(options or VadOptions()).push(probabilities, end)


def test_gates_that_are_shut_are_zero_and_warn_nobody() -> None:
    clicks = np.random.default_rng(0).normal(0.0, 1e4, (40, silero.CONTEXT + VAD_FRAME)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        speech, _ = silero.silero_net()(clicks, silero.ZERO_STATE)
        with np.errstate(over="ignore"):
            assert silero._sigmoid(np.array([-200.0, 0.0, 200.0], dtype=np.float32)).tolist() == [0.0, 0.5, 1.0]
    assert ((speech >= 0.0) & (speech <= 1.0)).all()


def test_speech_probabilities_equal_the_packaged_network(jfk: Waveform) -> None:
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    packaged = torch.jit.load(str(spec.submodule_search_locations[0]) + "/data/silero_vad.jit")  # type: ignore[index]
    samples = jfk.samples[: 3 * SAMPLE_RATE + 100]
    whole = np.pad(samples, (0, -len(samples) % VAD_FRAME))
    with torch.inference_mode():
        frames = [torch.from_numpy(whole[at : at + VAD_FRAME]) for at in range(0, len(whole), VAD_FRAME)]
        expected = [packaged(frame, SAMPLE_RATE).item() for frame in frames]
    np.testing.assert_allclose(SileroVad().probabilities(samples), expected, atol=1e-4)


@pytest.mark.parametrize("block", [1, 3, 7, 8, 50, 65])
def test_a_frame_is_the_same_to_the_bit_whatever_frames_come_with_it(block: int, jfk: Waveform) -> None:
    vad, size = SileroVad(), block * VAD_FRAME
    parts = [vad.probabilities(jfk.samples[at : at + size]) for at in range(0, 200 * VAD_FRAME, size)]
    end = size * len(parts)
    np.testing.assert_array_equal(np.concatenate(parts), SileroVad().probabilities(jfk.samples[:end]))


def test_listening_leaves_the_thread_count_alone(jfk: Waveform) -> None:
    before = torch.get_num_threads()
    SileroVad().probabilities(jfk.samples[:SAMPLE_RATE])
    assert torch.get_num_threads() == before


def test_levels_are_decibels_below_full_scale() -> None:
    np.testing.assert_allclose(frame_levels(tone(0.512, 1000, level_db=-20).samples), -20, atol=0.1)
    np.testing.assert_allclose(frame_levels(silence(0.5).samples), -120)
    assert len(frame_levels(silence(0.5).samples)) == len(SileroVad().probabilities(silence(0.5).samples))


def test_speech_spans_follow_the_hysteresis() -> None:
    probabilities = np.repeat(np.float32([0.1, 0.4, 0.6, 0.4, 0.1, 0.9]), 20)
    spans = spans_of(probabilities, 119 * VAD_FRAME + 7, VadOptions(onset=0.5, offset=0.35))
    assert spans == [Span(40 * VAD_FRAME, 80 * VAD_FRAME), Span(100 * VAD_FRAME, 119 * VAD_FRAME + 7)]


def test_a_click_is_not_speech_and_a_short_pause_does_not_end_it() -> None:
    probabilities = np.zeros(100, dtype=np.float32)
    probabilities[[10, 50, 51, 52, 53, 56, 57, 58]] = 1
    assert spans_of(probabilities, 100 * VAD_FRAME) == [Span(50 * VAD_FRAME, 59 * VAD_FRAME)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.0, 0.4, 1.0])), max_size=20), st.integers(1, 40))
def test_spans_that_come_in_pieces_are_those_of_the_whole(runs: list[tuple[int, float]], size: int) -> None:
    probabilities = np.float32([value for count, value in runs for _ in range(count)])
    detector, seen = SpeechSpans(VadOptions()), dict[int, Span]()
    for at in range(0, len(probabilities), size):
        part = probabilities[at : at + size]
        settled = detector.settled
        for span in detector.push(part, (at + len(part)) * VAD_FRAME):
            known = seen.get(span.start)
            assert known is not None or span.start >= settled, "what is new begins where nothing was settled"
            assert known is None or known.end <= span.end
            seen[span.start] = span
    assert [*seen.values()] == spans_of(probabilities, len(probabilities) * VAD_FRAME)


# --------------------------------------------------------------------------------------------- rules over whole blocks


def detect(samples: NDArray[np.float32]) -> tuple[list[Span], list[Notice]]:
    """Speech and notices of a recording that comes block by block."""
    detector, speech, notices = SpeechDetector(VadOptions()), dict[int, Span](), list[Notice]()
    for at in range(0, len(samples), VAD_BLOCK):
        detection = detector.push(samples[at : at + VAD_BLOCK], last=at + VAD_BLOCK >= len(samples))
        speech |= {span.start: span for span in detection.speech}
        notices += detection.notices
    return [*speech.values()], notices


def louder(samples: NDArray[np.float32], db: float) -> NDArray[np.float32]:
    return samples * np.float32(10 ** (db / 20))


@pytest.mark.parametrize("db", [-50, -35])
def test_quiet_speech_loses_nothing(jfk: Waveform, db: float) -> None:
    quiet, notices = detect(louder(jfk.samples, db))
    assert notices == [] and quiet == detect(louder(jfk.samples, -20))[0]


def test_the_gain_is_that_of_the_loudest_so_far(jfk: Waveform) -> None:
    minute = np.resize(jfk.samples, 2 * VAD_BLOCK)
    spans, notices = detect(np.concatenate((louder(minute[:VAD_BLOCK], -50), minute[VAD_BLOCK:])))
    usual, _ = detect(minute)
    assert notices == [], "a quiet beginning is heard before anything louder is known"
    assert sum(span.end - span.start for span in spans) > 0.95 * sum(span.end - span.start for span in usual)


def test_speech_after_minutes_of_silence_is_found(jfk: Waveform) -> None:
    wave = np.concatenate((np.zeros(2 * VAD_BLOCK + 5000, np.float32), jfk.samples, np.zeros(VAD_BLOCK, np.float32)))
    spans, notices = detect(wave)
    assert notices == [] and len(spans) >= 3
    assert spans[0].start >= 2 * VAD_BLOCK and spans[-1].end <= 2 * VAD_BLOCK + 5000 + len(jfk.samples) + SAMPLE_RATE


def test_a_short_rest_is_judged_with_what_comes_before_it(jfk: Waveform) -> None:
    quiet = louder(np.resize(jfk.samples, VAD_BLOCK), -75)  # a rest alone could be taken for the noise of a converter
    rest = louder(jfk.samples[SAMPLE_RATE // 2 : SAMPLE_RATE], -75)
    detector = SpeechDetector(VadOptions())
    detector.push(quiet)
    last = detector.push(rest, last=True)
    assert last.speech[-1].end == VAD_BLOCK + len(rest) and last.notices == []


@pytest.mark.parametrize(("minutes", "notices"), [(1, 1), (12, 2)])
def test_faint_speech_is_found_at_a_second_look(minutes: int, notices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubtful(self: SileroVad, samples: NDArray[np.float32], gain: float = 1.0) -> NDArray[np.float32]:
        return np.tile(np.repeat(np.float32([0.2, 0.0]), 64), len(samples) // VAD_FRAME // 128 + 1)[
            : -(-len(samples) // VAD_FRAME)
        ]

    monkeypatch.setattr(SileroVad, "probabilities", doubtful)
    monkeypatch.setattr("redline.longform.detector.is_silent", lambda samples: False)
    spans, faint = detect(tone(60.0 * minutes).samples)
    assert [notice.code for notice in faint] == ["faint-speech"] * notices and len(spans) > 10 * minutes
    assert (faint[0].start, faint[-1].end) == (spans[0].start_s, spans[-1].end_s)
    assert all(notice.end - notice.start <= 600 for notice in faint)  # type: ignore[operator]


def test_clear_speech_makes_the_second_look_needless(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(self: SileroVad, samples: NDArray[np.float32], gain: float = 1.0) -> NDArray[np.float32]:
        values = np.full(-(-len(samples) // VAD_FRAME), 0.0, np.float32)
        values[100:200] = 0.2 if samples[0] < 0.15 else 0.9
        return values

    monkeypatch.setattr(SileroVad, "probabilities", later)
    monkeypatch.setattr("redline.longform.detector.is_silent", lambda samples: False)
    blocks = [np.tile(np.float32([value, -value]), VAD_BLOCK // 2) for value in (0.1, 0.1, 0.2, 0.1)]
    spans, notices = detect(np.concatenate(blocks))
    assert notices == [] and spans == [Span(2 * VAD_BLOCK + 100 * VAD_FRAME, 2 * VAD_BLOCK + 200 * VAD_FRAME)]


def test_what_is_clipped_is_told_as_a_share_of_all() -> None:
    loud = np.clip(tone(120.0, 300.0, -3.0).samples * 4, -1, 1)
    quiet = tone(120.0, 300.0, -30.0).samples
    shares = []
    for samples in (loud, np.concatenate((loud, quiet))):
        (notice,) = [notice for notice in detect(samples)[1] if notice.code == "clipped"]
        shares.append(float(notice.message.split(" %")[0]))
    assert shares[0] > 50 and shares[1] == pytest.approx(shares[0] / 2, abs=0.2)
