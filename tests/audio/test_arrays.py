"""Laws of sound in memory: what is accepted sounds as it should, what is not is refused with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from redline import audio
from redline.audio import AudioOptions
from redline.errors import AudioError, ConfigError
from redline.testing import FakeRecognizer
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import sine, wav

WANT = sine(0.5)
LEFT, RIGHT = WANT, sine(0.5, hertz=1000.0)


def samples_of(source: Any, **options: Any) -> Any:
    return audio.load(source, **{"sample_rate": SAMPLE_RATE, **options}).samples


@pytest.mark.parametrize(
    "make",
    [
        torch.from_numpy,
        lambda a: torch.from_numpy(a).double().requires_grad_(),
        lambda a: torch.from_numpy(a).half(),
        lambda a: torch.from_numpy(a).bfloat16(),
        lambda a: torch.from_numpy(a)[:, None],
        lambda a: torch.from_numpy((32767 * a).astype(np.int16)),
        lambda a: torch.from_numpy((2**31 - 128) * a.astype(np.float64)).to(torch.int32),
        lambda a: torch.from_numpy(a).repeat(2, 1).T,
    ],
)
def test_a_tensor_sounds_like_its_array(make: Any) -> None:
    assert np.abs(samples_of(make(WANT)) - WANT).max() < 4e-3


@pytest.mark.parametrize("kind", [np.array, torch.from_numpy])
def test_two_columns_are_two_channels(kind: Any) -> None:
    source = kind(np.stack([LEFT, RIGHT], axis=1))
    assert source.shape == (8000, 2)
    for channel, want in ((None, (LEFT + RIGHT) / 2), (0, LEFT), (1, RIGHT)):
        assert np.abs(samples_of(source, options=AudioOptions(channel=channel)) - want).max() < 1e-6
    with pytest.raises(AudioError, match=r"shape \(2, 8000\) has 8000 channels.*transpose"):
        samples_of(source.T)


def test_a_row_of_a_data_set_is_a_recording() -> None:
    for array in (WANT, WANT.tolist(), torch.from_numpy(WANT), WANT.astype(np.float64)):
        row = {"array": array, "sampling_rate": SAMPLE_RATE, "path": "/etc/passwd"}
        assert np.abs(audio.load(row).samples - WANT).max() < 1e-6
    assert audio.load({"array": sine(1.0, 8000), "sampling_rate": 8000}).duration == 1.0
    assert audio.load({"array": WANT, "sampling_rate": torch.tensor(SAMPLE_RATE)}).duration == 0.5
    assert audio.load({"bytes": wav(), "path": None}).duration == 0.1
    row = {"array": WANT, "sampling_rate": SAMPLE_RATE}
    assert audio.load(row, sample_rate=SAMPLE_RATE).duration == 0.5
    with pytest.raises(AudioError, match="sample_rate is 8000, but the recording itself says 16000"):
        audio.load(row, sample_rate=8000)


def test_a_data_sets_decoder_is_a_recording() -> None:
    samples = SimpleNamespace(data=torch.from_numpy(np.stack([LEFT, RIGHT])), sample_rate=SAMPLE_RATE)
    decoder: Any = SimpleNamespace(get_all_samples=lambda: samples)
    assert np.abs(audio.load(decoder).samples - (LEFT + RIGHT) / 2).max() < 1e-6


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"path": "/etc/hostname", "bytes": None},
        {"array": WANT},
        {"array": None, "sampling_rate": 16_000},
        {"waveform": WANT, "sample_rate": 16_000},
        {1: 2},
    ],
)
def test_a_dictionary_of_another_kind_says_what_is_needed(row: Any) -> None:
    with pytest.raises(AudioError, match="needed are array and sampling_rate, or bytes"):
        audio.load(row)


def test_int32_that_holds_16_bit_values_is_refused_and_never_silent() -> None:
    narrow = (32767 * WANT).astype(np.int16)
    for source in (narrow.astype(np.int32), torch.from_numpy(narrow.astype(np.int32)), narrow.astype(">i4")):
        with pytest.raises(AudioError, match=r"look like 16-bit values.*astype\(numpy.int16\)"):
            samples_of(source)
    assert np.abs(samples_of(narrow) - WANT).max() < 1e-4
    assert not samples_of(np.zeros(1000, np.int32)).any()
    assert np.abs(samples_of(narrow.astype(np.int32) << 16) - WANT).max() < 1e-4
    hiss = np.random.default_rng(0).integers(-200, 200, 8000).astype(np.int32) << 8
    assert samples_of(hiss).any(), "the silence of a 24-bit converter"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.matrix(WANT).T, None),
        (np.ma.masked_array(WANT, mask=False), None),
        (np.ma.masked_array(WANT, mask=WANT > 0.4), "masked"),
        (np.array([WANT], dtype=object), "object"),
        (np.zeros(10, [("a", "f4")]), "allowed are float"),
        (np.zeros(10, "M8[s]"), "datetime64"),
        (torch.zeros(10, dtype=torch.bool), "bool"),
        (torch.zeros(10, dtype=torch.complex64), "complex64"),
        (torch.zeros(10, dtype=torch.int64), "int64"),
        (torch.zeros(10).to_sparse(), "gives no array"),
        (torch.zeros(10, device="meta"), "gives no array"),
        (torch.zeros(()), "allowed are"),
        (np.float32(1.0), "allowed are"),
        (torch.zeros(1, 2, 3), "allowed are"),
        (torch.zeros(0), "0 audio frames"),
        (torch.full((100,), float("nan")), "NaN"),
        (WANT.tolist(), "cannot read audio from list"),
        (np.ndarray, "cannot read audio from type"),
        (None, "cannot read audio from NoneType"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_reason(source: Any, message: str | None) -> None:
    if message is None:
        assert np.abs(samples_of(source) - WANT).max() < 1e-6
        return
    with pytest.raises(AudioError, match=message):
        samples_of(source)


TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", ">i2", ">f4", "?", "c8"]
ACCEPTED = {"f2", "f4", "f8", "i2", "i4", "u1", ">i2", ">f4"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_array_is_heard_at_its_full_scale_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(TYPES))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
    array = data.draw(hnp.arrays(kind, shape))
    rate = data.draw(st.sampled_from([None, 8000, SAMPLE_RATE, 44_100, 0, -5, "16000", 16000.5, True]))
    try:
        samples = audio.load(array, sample_rate=rate).samples
    except (AudioError, ConfigError) as error:
        assert str(error).startswith("<array>: ")
        return
    assert kind in ACCEPTED and 1 <= len(shape) <= 2 and rate in (8000, SAMPLE_RATE, 44_100)
    assert np.isfinite(samples).all()
    scale = {"f": 1.0, "i": 2.0 ** (8 * array.dtype.itemsize - 1), "u": 128.0}[array.dtype.kind]
    floats = (array.astype(np.float64) - (128 if kind == "u1" else 0)) / scale
    if rate == SAMPLE_RATE and array.ndim == 1:
        assert np.allclose(samples, floats, atol=1e-6 * max(1.0, float(np.abs(floats).max())))


def test_a_model_takes_what_a_data_set_gives() -> None:
    from redline.transcriber import Model

    model = Model(FakeRecognizer(lambda clip: f"{clip.duration:.2f}"))
    row = {"array": WANT, "sampling_rate": SAMPLE_RATE}
    tensor: Any = torch.from_numpy(WANT)
    transcript = model.transcribe(row, vad=False)
    assert transcript.text == model.transcribe(WANT, sample_rate=SAMPLE_RATE, vad=False).text
    assert transcript.text == model.transcribe(tensor, sample_rate=SAMPLE_RATE, vad=False).text
    assert [each.text for each in model.transcribe([row, row], vad=False)] == [transcript.text, transcript.text]
