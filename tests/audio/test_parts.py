"""Parts of a recording: nothing else is heard, times stay, what is not there is told, and nothing behind it is read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from redline import audio, load_model
from redline.audio import AudioOptions
from redline.audio.parts import parse_parts
from redline.cli.main import app
from redline.errors import ConfigError

RATE = 16_000


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """Ten seconds of which each has a level of its own."""
    samples = np.repeat(np.arange(1, 11, dtype=np.float32) / 16, RATE)
    soundfile.write(tmp_path / "ramp.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "ramp.wav"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10-20", ((10.0, 20.0),)),
        ("1:30-2:00, 120.5-121", ((90.0, 120.0), (120.5, 121.0))),
        ("-45,1:00:00-", ((0.0, 45.0), (3600.0, math.inf))),
        ("5-6,1-2.5", ((1.0, 2.5), (5.0, 6.0))),
        ("20-10", None),
        ("-", None),
        ("a-b", None),
        ("1-2,", None),
    ],
)
def test_parts_are_read_as_they_are_written(text: str, parts: tuple[tuple[float, float], ...] | None) -> None:
    if parts is None:
        with pytest.raises(ConfigError):
            AudioOptions(parts=parse_parts(text))
    else:
        assert AudioOptions(parts=parse_parts(text)).parts == parts


@pytest.mark.parametrize("as_array", [False, True])
def test_nothing_else_is_heard_and_nothing_behind_the_last_part_is_read(ramp: Path, as_array: bool) -> None:
    whole = audio.load(ramp).samples
    options = AudioOptions(parts=((1.5, 3.0), (6.0, 7.25)))
    source, rate = (whole, RATE) if as_array else (ramp, None)
    heard = audio.load(source, sample_rate=rate, options=options)
    assert len(heard.samples) == 7.25 * RATE and not heard.warnings
    expected = np.zeros_like(heard.samples)
    for start, end in ((1.5, 3.0), (6.0, 7.25)):
        expected[int(start * RATE) : int(end * RATE)] = whole[int(start * RATE) : int(end * RATE)]
    assert np.array_equal(heard.samples, expected)


def test_a_part_to_the_end_is_that_and_one_behind_the_end_is_told(ramp: Path) -> None:
    whole = audio.load(ramp).samples
    rest = audio.load(ramp, options=AudioOptions(parts=((9.0, math.inf),))).samples
    assert (
        len(rest) == len(whole) and not rest[: 9 * RATE].any() and np.array_equal(rest[9 * RATE :], whole[9 * RATE :])
    )
    behind = audio.load(ramp, options=AudioOptions(parts=((1.0, 2.0), (50.0, 60.0))))
    (told,) = behind.warnings
    assert told.code == "no-such-part" and "ends at 10 s" in told.message and "50 s" in told.message
    assert behind.samples[RATE : 2 * RATE].any()


@pytest.mark.parametrize("parts", [((3.0, 2.0),), ((-1.0, 2.0),), ((1.0, 4.0), (3.0, 5.0)), ((math.nan, 2.0),)])
def test_what_is_no_part_is_refused(ramp: Path, parts: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigError, match="part"):
        audio.load(ramp, options=AudioOptions(parts=parts))


def test_words_of_a_part_have_the_times_of_the_recording(jfk: Path) -> None:
    model = load_model("tiny", device="cpu")
    whole = model.transcribe(jfk, words=True)
    part = model.transcribe(jfk, words=True, audio_options=AudioOptions(parts=((7.6, math.inf),)))
    assert part.words and all(word.start > 7.6 for word in part.words) and part.duration == whole.duration
    last, same = whole.words[-1], part.words[-1]
    assert abs(last.end - same.end) < 0.2


def test_the_command_hears_parts_and_refuses_what_is_none(jfk: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["transcribe", str(jfk), "--clip", "7.6-", "--word-timestamps", "--quiet"])
    assert result.exit_code == 0 and all(float(line.split()[2]) > 7.6 for line in result.stdout.splitlines())
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["transcribe", str(jfk), "--clip", "9-7", "--output-dir", str(out)])
    assert result.exit_code == 2 and "empty" in result.output and not out.exists()
