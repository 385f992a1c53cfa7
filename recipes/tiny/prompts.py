"""A manifest from telephone prompts: one folder of recordings by one reader, one list of what is said in them.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722
    python -m redline_recipes.tiny.prompts --sounds /usr/share/asterisk/sounds/en_US_f_Allison \
        --texts /usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz \
        --language en --speaker allison --out prompts-en

The list has lines `name: text`. Prompts of fewer than three words, with tones, with numbers of several digits, and
those whose text came before are left out, and counted. `OUT/manifest.jsonl` lists the rest as split "test", 16 kHz mono
FLAC beside it. The recordings are CC BY-SA 3.0 (Asterisk core sounds; English and Spanish: Allison Smith, French: June
Wallack).
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from redline.manifest import write_manifest
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE

LEAST_WORDS = 3
DIGITS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
}


def spoken(text: str, language: str) -> str | None:
    """The text with single digits as words, or None when it does not tell what is said."""
    if re.search(r"[\[(<{]|\d\d|\d\D?\d|\w\d|\d\w", text) or len(text.split()) < LEAST_WORDS:
        return None
    names = DIGITS.get(language, "").split()
    if not names and re.search(r"\d", text):
        return None
    return " ".join(re.sub(r"\d", lambda digit: names[int(digit[0])], text).replace("...", " ").split())


def samples(path: Path) -> NDArray[np.float32]:
    """A recording at 16 kHz; G.722 has no header, so the name has to tell it."""
    with av.open(str(path), format="g722" if path.suffix == ".g722" else None) as container:
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def main() -> int:
    """Read the list, decode what it names, write; exit 2 when nothing can be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--texts", type=Path, required=True, help="list of their texts, plain or gzipped")
    parser.add_argument("--language", required=True)
    parser.add_argument("--speaker", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for path in (options.sounds, options.texts):
        if not path.exists():
            print(f"prompts.py: there is no {path}; see --help for the packages that have it", file=sys.stderr)
            return 2
    raw = options.texts.read_bytes()
    lines = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8").splitlines()
    files = {str(path.relative_to(options.sounds).with_suffix("")): path for path in options.sounds.rglob("*.*")}
    options.out.mkdir(parents=True, exist_ok=True)
    rows, left, known = [], Counter[str](), set[str]()
    progress = share_done(lambda line: print(line, file=sys.stderr), "reading", len(lines))
    for line in lines:
        progress(1)
        name, colon, text = line.partition(":")
        if not colon or line.startswith(";"):
            continue
        spoken_text = spoken(text.strip(), options.language)
        if name.strip() not in files:
            left["no recording"] += 1
            continue
        if spoken_text is None or spoken_text.lower() in known:
            left["no text" if spoken_text is None else "said before"] += 1
            continue
        try:
            sound = samples(files[name.strip()])
        except av.FFmpegError as error:
            print(f"prompts.py: left out: {files[name.strip()]}: {error}", file=sys.stderr)
            left["cannot be read"] += 1
            continue
        known.add(spoken_text.lower())
        audio = f"{name.strip().replace('/', '-')}.flac"
        soundfile.write(options.out / audio, sound, SAMPLE_RATE, subtype="PCM_16")
        rows.append(
            {
                "audio": audio,
                "text": spoken_text,
                "language": options.language,
                "speaker": options.speaker,
                "duration": round(len(sound) / SAMPLE_RATE, 3),
                "split": "test",
                "id": f"{options.speaker}-{options.language}-{name.strip().replace('/', '-')}",
            }
        )
    if not rows:
        print(f"prompts.py: no line of {options.texts} names a recording in {options.sounds}", file=sys.stderr)
        return 2
    write_manifest(options.out / "manifest.jsonl", rows)
    minutes = sum(float(row["duration"]) for row in rows) / 60
    print(
        f"{options.out}/manifest.jsonl: {len(rows)} prompts, {minutes:.1f} min; left out: {dict(left)}", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
