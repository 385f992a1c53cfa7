"""More readers for the voice head: the voices of games, of drawing programs and of telephone prompts in Debian.

    apt-get install tuxpaint-stamps-default fillets-ng-data-cs fillets-ng-data-nl ktuberling-data klettres-data \
        hedgewars-data kajongg qabcs-data festvox-ru asterisk-core-sounds-it-wav asterisk-core-sounds-ru-wav \
        asterisk-prompt-it-menardi-wav
    python -m redline_recipes.tiny.readers --out readers
    redline train tiny-plus --voices readers/manifest.jsonl ...

About eighty people, mostly volunteers with a microphone of their own, say words and sentences in twenty languages. What
one of them says is joined to recordings of six seconds or more, 16 kHz mono FLAC, each word equally loud. All of it is
free (GPL, CC BY-SA and others; see /usr/share/doc of each package); nothing here has a text. Packages that are not
installed are named and left out.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import defaultdict
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from redline import audio
from redline.errors import RedlineError
from redline.manifest import write_manifest
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE

READERS = {
    "tuxpaint/stamps": r".*_desc_(?P<who>[a-z]{2})\.ogg",
    "games/fillets-ng/sound": r".*/(?P<who>cs|nl)/.*-(?P<fish>[mv])-.*\.ogg",
    "ktuberling/sounds": r"(?P<who>[a-z]+)/.*\.(ogg|wav)",
    "klettres": r"(?P<who>[a-zA-Z_]+)/.*\.(ogg|mp3|wav)",
    "games/hedgewars/Data/Sounds/voices": r"(?!Robot|Singer)(?P<who>\w+)/.*\.ogg",
    "kajongg/voices": r"(?P<who>(de/)?(fe)?male\d)/.*\.ogg",
    "qabcs/abcs": r"(?P<who>\w+)/sounds/words/.*\.(ogg|wav|mp3)",
    "festival/voices/russian": r"(?P<who>msu_ru_nsh)_clunits/wav/.*\.wav",
    "asterisk/sounds": r"(?P<who>it_IT_[fm]_\w+|ru_RU_f_\w+)/.*\.wav",
}
"""Where packages keep speech under /usr/share, and what in the path there tells one reader from another."""
PART_S, WORD_S, READER_S = 6.0, 0.35, 12.0
"""How long recordings become; what is shorter than a word is left out, and who says less in all."""
QUIET_DB = 35.0
LEVEL = 0.05


def trimmed(samples: Tensor) -> Tensor | None:
    """What is heard, without the silence around it and at one level, or None for silence and what is very short."""
    count = len(samples) // 160
    if count < 2:
        return None
    power = samples[: 160 * count].reshape(count, 160).square().mean(dim=1)
    loud = (10.0 * torch.log10(power + 1e-10) > 10.0 * float(torch.log10(power.max() + 1e-10)) - QUIET_DB).nonzero()
    speech = samples[160 * max(0, int(loud[0]) - 5) : 160 * (int(loud[-1]) + 6)]
    if float(power.max()) < 1e-6 or len(speech) < WORD_S * SAMPLE_RATE:
        return None
    return speech * (LEVEL / speech.square().mean().sqrt())


def main() -> int:
    """Find, join, write; exit 2 when no package is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("/usr/share"), help="where packages keep their data")
    parser.add_argument("--most", type=int, default=250, help="files of one reader that are used")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings and manifest.jsonl")
    options = parser.parse_args()
    files = defaultdict[str, list[Path]](list)
    for folder, pattern in READERS.items():
        matches = [
            (re.fullmatch(pattern, str(path.relative_to(options.root / folder))), path)
            for path in sorted((options.root / folder).rglob("*.*"))
        ]
        for match, path in matches:
            if match:
                who = "-".join((folder.removeprefix("games/").split("/")[0], *match.groupdict().values()))
                files[who.replace("/", "-")].append(path)
        if not any(match for match, _ in matches):
            print(f"readers.py: nothing in {options.root / folder}; its package is left out", file=sys.stderr)
    if not files:
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = {
        reader: random.Random(reader).sample(own, min(len(own), options.most)) for reader, own in sorted(files.items())
    }
    progress = share_done(lambda line: print(line, file=sys.stderr), "reading", sum(map(len, chosen.values())))
    rows: list[dict[str, object]] = []
    seconds = 0.0
    for reader, paths in chosen.items():
        parts, part = list[Tensor](), list[Tensor]()
        for path in paths:
            progress(1)
            try:
                speech = trimmed(torch.as_tensor(audio.load(path).samples))
            except RedlineError as error:
                print(f"readers.py: left out: {error}", file=sys.stderr)
                continue
            part += [speech] if speech is not None else []
            if sum(map(len, part)) > PART_S * SAMPLE_RATE:
                parts.append(torch.cat(part))
                part = []
        if sum(map(len, parts)) < READER_S * SAMPLE_RATE:
            print(f"readers.py: left out: {reader} says less than {READER_S:.0f} s", file=sys.stderr)
            continue
        for number, samples in enumerate(parts):
            name = f"{reader}-{number:03d}"
            soundfile.write(options.out / f"{name}.flac", samples.numpy(), SAMPLE_RATE, subtype="PCM_16")
            length = round(len(samples) / SAMPLE_RATE, 3)
            seconds += length
            rows.append({"audio": f"{name}.flac", "text": "", "speaker": reader, "duration": length, "id": name})
    write_manifest(options.out / "manifest.jsonl", rows)
    readers = len({row["speaker"] for row in rows})
    print(f"{options.out}/manifest.jsonl: {readers} readers, {seconds / 3600:.2f} h", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
