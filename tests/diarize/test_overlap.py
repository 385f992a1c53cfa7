"""Overlapped speech: where two speak at once, and who."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from redline import audio
from redline.checkpoints.folder import ASSETS
from redline.diarize.overlap import (
    OVERLAP_HEAD,
    SPREAD,
    OverlapDetector,
    load_overlap_detector,
    overlaps_of,
    save_overlap_detector,
    stretches,
)
from redline.errors import CheckpointError
from redline.features import FRAME_RATE, clip_features
from redline.longform.stitch import segments_of
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Overlap, Span, Turn, Word
from tests.diarize.networks import ByPitch
from tests.diarize.test_diarizer import evenly, talk


def test_short_gaps_are_bridged_and_short_stretches_left_out() -> None:
    marked = np.zeros(200, dtype=bool)
    marked[10:20], marked[25:40] = True, True  # 0.1 s between them
    marked[80:90] = True  # 0.2 s long
    marked[150:170] = True
    assert stretches(marked.tolist()) == [(10 / FRAME_RATE, 40 / FRAME_RATE), (150 / FRAME_RATE, 170 / FRAME_RATE)]
    assert stretches([]) == []


def test_who_overlaps_are_the_two_who_speak_nearest() -> None:
    words = [
        Word(0.0, 1.0, "a", speaker="1"),
        Word(1.0, 2.0, "b", speaker="2"),
        Word(2.0, 3.0, "c", speaker="3"),
        Word(9.0, 9.5, "d", speaker="1"),
    ]
    assert overlaps_of([(0.8, 1.4)], words) == (Overlap(0.8, 1.4, "2"), Overlap(0.8, 1.4, "1"))
    assert overlaps_of([(2.6, 3.2)], words) == (Overlap(2.6, 3.2, "3"), Overlap(2.6, 3.2, "2"))
    assert overlaps_of([(8.8, 9.4)], words) == (), "nobody else is near, so nobody is named"
    assert overlaps_of([], words) == overlaps_of([(0.8, 1.4)], []) == ()


def test_a_segment_has_the_overlaps_with_others_within_it() -> None:
    words = tuple(Word(at, at + 1.0, f"w{at}", speaker="1" if at < 2 else "2") for at in range(4))
    turns = (Turn("1", 0.0, 2.0, "w0 w1"), Turn("2", 2.0, 4.0, "w2 w3"))
    both = (Overlap(1.5, 2.5, "1"), Overlap(1.5, 2.5, "2"))
    hypothesis = Hypothesis("w0 w1 w2 w3", words=words, turns=turns, overlaps=both)
    first, second = segments_of(Span(160_000, 224_000), hypothesis, 0)
    assert first.overlaps == (Overlap(11.5, 12.0, "2"),) and second.overlaps == (Overlap(12.0, 12.5, "1"),)


def test_overlaps_come_with_speakers_of_files_and_live() -> None:
    class Overlapped(ByPitch):
        def __init__(self) -> None:
            super().__init__()
            self.find_overlaps = lambda features: [(5.5, 6.5)]

    model = Transcriber(FakeRecognizer(evenly, max_clip_s=12.0), embedder=Overlapped)
    sound = talk(300.0, 1200.0)
    result = model.transcribe(sound, sample_rate=SAMPLE_RATE, speakers=True, vad=False)
    assert [[each.speaker for each in segment.overlaps] for segment in result.segments] == [["2"], ["1"]]
    assert all(5.5 <= each.start < each.end <= 6.5 for segment in result.segments for each in segment.overlaps)
    plain = model.transcribe(sound, sample_rate=SAMPLE_RATE, words=True, vad=False)
    assert not any(segment.overlaps for segment in plain.segments)


def test_a_detector_is_what_was_saved_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector, features = OverlapDetector().eval(), torch.rand(50, 160)
    path = save_overlap_detector(detector, tmp_path / OVERLAP_HEAD)
    assert path.stat().st_size < 1.1 * sum(weight.numel() for weight in detector.parameters())
    with torch.no_grad():
        torch.testing.assert_close(load_overlap_detector(path)(features), detector(features), atol=0.02, rtol=0.02)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="whole safetensors"):
        load_overlap_detector(path)


@pytest.mark.parametrize("shape", [(50, 160), (1, 160), (3, 70, 160)])
def test_products_by_tap_are_the_convolutions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    detector, features = OverlapDetector().eval(), torch.rand(*shape)
    with torch.no_grad():
        x = detector.inp((features - features.mean(dim=-2, keepdim=True)) / SPREAD)
        for conv, norm in zip(detector.convs, detector.norms, strict=True):
            x = x + F.gelu(conv(norm(x).transpose(-1, -2)).transpose(-1, -2))
        torch.testing.assert_close(detector(features), detector.out(x)[..., 0], atol=1e-5, rtol=1e-5)


def test_one_voice_is_not_overlapped_and_two_at_once_are() -> None:
    detector = load_overlap_detector(ASSETS / "tiny-plus" / OVERLAP_HEAD)
    voice = audio.load(ASSETS / "demo.flac").samples[: 10 * SAMPLE_RATE]
    assert detector.spans(clip_features(voice)) == []
    at = np.arange(0, len(voice) - 1, 1.25)  # a higher voice, which speaks faster
    other: NDArray[np.float32] = np.interp(at, np.arange(len(voice)), voice).astype(np.float32)
    both = voice.copy()
    both[3 * SAMPLE_RATE : 6 * SAMPLE_RATE] += other[: 3 * SAMPLE_RATE]
    found = detector.spans(clip_features(both))
    assert found and all(2.8 <= start < end <= 6.2 for start, end in found)
    assert sum(end - start for start, end in found) > 0.3
