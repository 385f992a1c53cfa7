"""Wrong values at the door for sound: each gives an error that says what was seen, what is allowed and what to do."""

from __future__ import annotations

import decimal
import math
import os
from fractions import Fraction
from io import BytesIO, RawIOBase
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline import audio
from redline.audio import AudioOptions
from redline.errors import AudioError, ConfigError, RedlineError
from redline.types import SAMPLE_RATE
from tests.audio.audio_files import sine, wav

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**5000, -(10**5000), 0.0, 1.0, 0.5, -0.0, math.nan, math.inf, -math.inf),
    *("", "16000", "0", b"1", [], [0], (), {}, set(), object(), int, lambda: 1, 1j, Fraction(1, 2), decimal.Decimal(1)),
    *(np.int64(1), np.float32(1), np.float64("nan"), np.bool_(True), np.complex64(1), np.array(1), np.array([1, 2])),
]
"""What people, programs and configuration files put where a number is expected."""
FIELDS = ["channel", "track", "max_duration_s", "min_rate_hz", "max_rate_hz", "max_channels", "max_stream_bytes"]


@pytest.mark.parametrize("field", [*FIELDS, "isolated"])
def test_an_option_is_right_or_refused_by_name(field: str) -> None:
    taken = []
    for value in ODD:
        try:
            options = AudioOptions(**{field: value})
        except ConfigError as error:
            assert field in str(error) or "sample rates" in str(error)
            assert len(str(error)) < 300
        else:
            taken.append(value)
            with_it = audio.load(sine(0.01), sample_rate=SAMPLE_RATE, options=AudioOptions(isolated=False))
            assert len(with_it.samples) and options == options
    assert not any(isinstance(value, str | bytes | list | complex) for value in taken)
    assert not any(isinstance(value, float) and not value > 0 for value in taken)


def test_the_wrong_values_that_were_once_believed_are_refused() -> None:
    for values in ({"channel": 0.0}, {"max_duration_s": math.nan}, {"max_channels": True}, {"isolated": 1}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            AudioOptions(**values)  # type: ignore[arg-type]
    assert AudioOptions(max_duration_s=math.inf).max_duration_s == math.inf
    assert audio.load(wav(), options=AudioOptions(channel=np.int64(0), max_duration_s=np.float32(9))).duration == 0.1
    assert audio.load(wav(), options=AudioOptions(max_duration_s=math.inf)).duration == 0.1


odd = st.sampled_from(ODD)
fields = st.dictionaries(st.sampled_from(FIELDS), odd, max_size=3)
sources = odd | st.sampled_from(
    [wav(), bytearray(wav()), memoryview(wav())[::2], "gone.wav", "\ud800", "a\0b", "x" * 9999]
)
arrays = st.sampled_from(
    [sine(0.1), sine(0.1).astype(np.float16), np.zeros((5, 2), np.int16), np.array(["a"]), np.zeros(0)]
)


@settings(max_examples=300, deadline=None)
@given(source=sources | arrays, rate=odd, values=fields, options=odd)
def test_no_wrong_value_escapes_as_another_error(source: Any, rate: Any, values: dict[str, Any], options: Any) -> None:
    try:
        audio.load(source, sample_rate=rate, options=options if not values else AudioOptions(isolated=False, **values))
    except RedlineError as error:
        assert str(error)


@pytest.mark.parametrize("rate", ["16000", 16000.0, True, None, math.nan, [16000], 1j])
def test_a_sample_rate_is_a_whole_number(rate: Any) -> None:
    with pytest.raises(AudioError, match=r"sample_rate|no sample rate"):
        audio.load(sine(0.1), sample_rate=rate)
    assert audio.load(sine(0.1), sample_rate=np.int32(16_000)).duration == 0.1  # type: ignore[arg-type]


def test_masked_samples_are_refused() -> None:
    masked = np.ma.masked_array(sine(0.1), mask=np.zeros(1600, bool))
    assert audio.load(masked, sample_rate=SAMPLE_RATE).duration == 0.1
    masked[5] = np.ma.masked
    with pytest.raises(AudioError, match="masked"):
        audio.load(masked, sample_rate=SAMPLE_RATE)


class Odd(BytesIO):
    """A stream of a WAV that behaves as it is told to in one of its methods."""

    def __init__(self, method: str, answer: Any, seekable: bool) -> None:
        super().__init__(wav())
        self.answers = {method: answer, "seekable": seekable}
        self.calls = 0

    def _answer(self, method: str, usual: Any) -> Any:
        answer = self.answers.get(method)
        self.calls += 1
        if method != "seekable" and isinstance(answer, Exception) and self.calls > 1:
            raise answer
        return usual if answer is None or isinstance(answer, Exception) else answer() if callable(answer) else answer

    def read(self, count: int | None = -1) -> Any:
        return self._answer("read", super().read(count))

    def seek(self, *place: int) -> Any:
        return self._answer("seek", super().seek(*place))

    def tell(self) -> Any:
        return self._answer("tell", super().tell())

    def seekable(self) -> Any:
        return self._answer("seekable", True)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize(
    "answer",
    ["text", lambda: None, 5, b"too long" * 10_000, RuntimeError("odd"), OSError("gone"), ValueError()],
    ids=["text", "function", "number", "too long", "runtime error", "system error", "value error"],
)
@pytest.mark.parametrize("method", ["read", "seek", "tell"])
def test_a_stream_that_misbehaves_is_an_audio_error(method: str, answer: Any, seekable: bool, isolated: bool) -> None:
    stream = Odd(method, answer, seekable)
    try:
        wave = audio.load(stream, options=AudioOptions(isolated=isolated))
    except AudioError as error:
        assert "<stream>" in str(error)
    else:
        assert method != "read"
        assert wave.duration <= 0.1


def test_a_stream_without_data_yet_is_told_from_its_end() -> None:
    class NotYet(RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> None:
            return None

    with pytest.raises(AudioError, match="non-blocking"):
        audio.load(NotYet())  # type: ignore[arg-type]


@pytest.mark.parametrize("seekable", [True, False])
def test_short_reads_lose_nothing(seekable: bool) -> None:
    class Short(BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            return super().read(min(count or 0, 7))

        def seekable(self) -> bool:
            return seekable

    for isolated in (True, False):
        wave = audio.load(Short(wav(np.arange(1600, dtype="<i2").tobytes())), options=AudioOptions(isolated=isolated))
        assert np.array_equal(wave.samples, np.arange(1600, dtype=np.float32) / 32768)


def test_paths_that_are_none_are_refused() -> None:
    class Broken(os.PathLike[str]):
        def __fspath__(self) -> Any:
            return 5

    for path, message in (("", "empty"), (Broken(), "no path")):
        with pytest.raises(AudioError, match=message):
            audio.load(path)  # type: ignore[arg-type]
