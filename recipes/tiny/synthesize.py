"""Make training speech from books with free synthesisers: espeak-ng, flite and festival, whichever are installed.

    python -m redline_recipes.tiny.synthesize --text books/ --out tts-en --hours 10
    python -m redline_recipes.tiny.synthesize --text books/ --out mine --hours 1 \
        --command 'my-tts --file {text} --wav {wav}'

Text files hold one paragraph a line. Sentences that take 2 to 20 seconds to say are drawn without replacement, each
with a random voice, speed and pitch; clips are 16 kHz mono. `OUT/manifest.jsonl` grows one line per clip, in an order
that depends on the seed alone; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

RATE = 16_000
MIN_S, MAX_S = 2.0, 20.0
MIN_CHARS, MAX_CHARS = 24, 280  # 2 s of slow and 20 s of usual speech; the clip itself is measured afterwards
CHARS_A_SECOND = (5.0, 30.0)  # outside: the voice stumbled over the text, or skipped part of it
MIN_PEAK = 0.01
TIMEOUT_S = 300.0
INSTALL = "apt-get install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"

ESPEAK_ACCENTS = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"),
    "fr": ("fr-fr", "fr-be", "fr-ch"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "pt": ("pt", "pt-br"),
}
# fmt: off
ESPEAK_VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "adam", "Alex", "Alicia", "Andrea",
    "Andy", "Annie", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "Denis", "Diogo", "ed", "edward",
    "Gene", "grandma", "grandpa", "Henrique", "Hugo", "iven", "Jacky", "john", "Lee", "linda", "marcelo", "Marco",
    "Mario", "max", "Michael", "michel", "Mike", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro",
    "shelby", "steph", "travis", "victor", "zac",
)
# fmt: on
FLITE_VOICES = ("kal16", "slt", "awb", "rms")
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
FESTIVAL_ROOTS = ("/usr/share/festival/voices", "/usr/local/share/festival/voices")
EXPANDED = {"en": {"Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "St.": "Saint"}}

# Letters and the marks of ordinary prose; a sentence with anything else (digits, brackets, asterisks) is left out.
_MARKS = r"['’\-,;:.!?\"“”‘’«»¡¿— ]"
PROSE = re.compile(rf"[^\W\d_]+(?:{_MARKS}+[^\W\d_]+)*{_MARKS}*")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’»)]*\s+(?=[\"'“‘«(¡¿—-]*[^\W\d_])")
ODD = re.compile(r"\b[^\W\d_]\.|\b[A-ZÀ-Þ]{2,}\b|\w- \w|\.\.\.|…")  # initials, capitals, split words, ellipses


@dataclass(frozen=True)
class Voice:
    """A command that reads the file `{text}` and writes the file `{wav}`, and whose voice it is."""

    speaker: str
    command: tuple[str, ...]
    tape: float = 1.0
    """Play the result faster and higher (above 1) or slower and lower, for a voice without a pitch of its own."""

    def say(self, text: Path, wav: Path) -> None:
        """Run the command; raises OSError or subprocess.SubprocessError when it fails."""
        argv = [part.replace("{text}", str(text)).replace("{wav}", str(wav)) for part in self.command]
        subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S)


@dataclass(frozen=True)
class Job:
    """One clip to make; its number and the seed decide everything about it."""

    id: str
    text: str
    voice: Voice


@dataclass(frozen=True)
class Clip:
    """What came of a job: the line of the manifest, or why there is none."""

    row: dict[str, object] | None = None
    dropped: str = ""


def sentences(paragraph: str, language: str) -> Iterator[str]:
    """The sentences of a paragraph that a synthesiser will read as they are written."""
    for short, full in EXPANDED.get(language, {}).items():
        paragraph = re.sub(rf"\b{re.escape(short)}(?=\s)", full, paragraph)
    paragraph = re.sub(r"\s*(?:--+|[—–])\s*", ", ", paragraph.replace("_", ""))
    for sentence in SENTENCE_END.split(paragraph):
        text = re.sub(r"^[^\w]+|[\"“”«»(]", "", sentence).strip()
        if MIN_CHARS <= len(text) <= MAX_CHARS and text[-1] in ".!?" and not ODD.search(text) and PROSE.fullmatch(text):
            yield text


def read_sentences(paths: Sequence[Path], language: str) -> list[str]:
    """Every usable sentence of the files and folders, once, sorted, so that the order of files does not matter."""
    files = [file for path in paths for file in (sorted(path.rglob("*.txt")) if path.is_dir() else [path])]
    unique: set[str] = set()
    for file in files:
        for paragraph in file.read_text(encoding="utf-8", errors="replace").splitlines():
            unique.update(sentences(paragraph, language))
    return sorted(unique)


def draw_voice(engine: str, language: str, draw: random.Random) -> Voice:
    """A random voice of an engine, with a random speed and pitch."""
    if engine == "espeak-ng":
        name = f"{draw.choice(ESPEAK_ACCENTS[language])}+{draw.choice(ESPEAK_VARIANTS)}"
        speed, pitch = draw.randint(125, 200), draw.randint(25, 75)
        options = ("-v", name, "-s", str(speed), "-p", str(pitch), "-w", "{wav}", "-f", "{text}")
        return Voice(f"espeak-ng-{name}", (engine, *options))
    stretch, tape = round(draw.uniform(0.8, 1.2), 2), round(draw.uniform(0.88, 1.14), 2)
    low, spread = draw.randint(85, 140), draw.randint(10, 20)  # Hz
    if engine == "flite":
        name = draw.choice(FLITE_VOICES)
        command = ["flite", "-voice", name, "-f", "{text}", "-o", "{wav}"]
        command += ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={low}"]
        return Voice(f"flite-{name}", tuple(command), 1.0 if name == "kal16" else tape)  # only kal16 heeds the pitch
    name = draw.choice(festival_voices())
    contour = f"'((target_f0_mean {low}) (target_f0_std {spread}) (model_f0_mean 170) (model_f0_std 34))"
    setting = f"(begin (voice_{name}) (Parameter.set 'Duration_Stretch {stretch}) (set! int_lr_params {contour}))"
    template = ("text2wave", "-eval", setting, "-o", "{wav}", "{text}")
    return Voice(f"festival-{name}", template, 1.0 if name.endswith("_diphone") else tape)


def festival_voices() -> list[str]:
    """The festival voices of this machine, of those this script knows."""
    folders = [folder for root in FESTIVAL_ROOTS for folder in Path(root).glob("*/*")]
    return [name for name in FESTIVAL_VOICES if name in {folder.name for folder in folders}]


def engines(language: str, names: Sequence[str]) -> list[str]:
    """The installed synthesisers that speak the language; exits with what to install when there is none."""
    installed = ["espeak-ng"] if shutil.which("espeak-ng") else []
    if language == "en":
        installed += ["flite"] if shutil.which("flite") else []
        installed += ["festival"] if shutil.which("text2wave") and festival_voices() else []
    engine_names = [name for name in installed if not names or name in names]
    if not engine_names:
        among = f" among {', '.join(names)}" if names else ""
        sys.exit(f"synthesize: no synthesiser for {language!r} is installed{among}; on Debian and Ubuntu: {INSTALL}")
    return engine_names


def jobs(texts: Sequence[str], language: str, seed: int, sources: Sequence[str] | Voice) -> Iterator[Job]:
    """The endless choice made finite: every sentence once, in the order of the seed."""
    order = list(texts)
    random.Random(seed).shuffle(order)
    for number, text in enumerate(order):
        draw = random.Random(f"{seed}:{number}")
        voice = sources if isinstance(sources, Voice) else draw_voice(draw.choice(sources), language, draw)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        yield Job(f"{language}-{seed}-{number:06d}-{digest}", text, voice)


def fault(samples: NDArray[np.float32], text: str) -> str | None:
    """What is wrong with a clip, or None."""
    duration = len(samples) / RATE
    if not MIN_S <= duration <= MAX_S:
        return "too short" if duration < MIN_S else "too long"
    if float(np.abs(samples).max()) < MIN_PEAK:
        return "silent"
    if not CHARS_A_SECOND[0] <= len(text) / duration <= CHARS_A_SECOND[1]:
        return "odd rate of speech"
    return None


def make(job: Job, out: Path, suffix: str, language: str) -> Clip:
    """Say one sentence and write its clip; a voice that fails is an answer, not an error."""
    with tempfile.TemporaryDirectory(prefix="synthesize-") as name:
        text, wav = Path(name, "text.txt"), Path(name, "clip.wav")
        text.write_text(job.text + "\n", encoding="utf-8")
        try:
            job.voice.say(text, wav)
            samples, rate = soundfile.read(wav, dtype="float32", always_2d=True)
        except (OSError, subprocess.SubprocessError, soundfile.LibsndfileError):
            return Clip(dropped="voice failed")
    if not len(samples):
        return Clip(dropped="empty")
    mono: NDArray[np.float32] = soxr.resample(samples.mean(axis=1), rate * job.voice.tape, RATE)
    if reason := fault(mono, job.text):
        return Clip(dropped=reason)
    peak = float(np.abs(mono).max())
    mono *= min(1.0, 0.95 / peak)
    path = out / "audio" / job.id[-2:] / f"{job.id}.{suffix}"  # 256 folders: none grows too large
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    container, subtype = ("OGG", "OPUS") if suffix == "opus" else ("FLAC", "PCM_16")
    soundfile.write(partial, mono, RATE, format=container, subtype=subtype)
    partial.replace(path)
    row: dict[str, object] = {
        "id": job.id,
        "audio": path.relative_to(out).as_posix(),
        "text": job.text,
        "language": language,
        "speaker": job.voice.speaker,
        "duration": round(len(mono) / RATE, 3),
        "source": "synthetic",
        "split": "train",
    }
    return Clip(row=row)


def read_done(manifest: Path) -> dict[str, float]:
    """Seconds per id of the clips already made; a line that was cut off by a crash is removed."""
    if not manifest.exists():
        return {}
    data = manifest.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(manifest, len(whole))
    rows = [json.loads(line) for line in whole.splitlines() if line.strip()]
    return {row["id"]: float(row["duration"]) for row in rows}


def append(manifest: Path, row: dict[str, object]) -> None:
    """Add one line in one write."""
    handle = os.open(manifest, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(handle)


def synthesize(
    work: Iterator[Job], out: Path, hours: float, suffix: str, language: str, workers: int
) -> tuple[float, int, Counter[str]]:
    """Make clips until the manifest holds `hours`; returns its seconds, the new clips and what was dropped."""
    manifest = out / "manifest.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    done = read_done(manifest)
    seconds, written, dropped, target = sum(done.values()), 0, Counter[str](), hours * 3600
    todo = (job for job in work if job.id not in done)
    running: deque[Future[Clip]] = deque()
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("speaking", total=target, completed=int(min(seconds, target)))
        while seconds < target:
            while len(running) < 2 * workers and (job := next(todo, None)):
                running.append(pool.submit(make, job, out, suffix, language))
            if not running:
                break
            clip = running.popleft().result()  # in order, so that the number of workers changes nothing
            if clip.row is None:
                dropped[clip.dropped] += 1
                continue
            append(manifest, clip.row)
            written += 1
            seconds += float(str(clip.row["duration"]))
            note = f"speaking {written} clips, {sum(dropped.values())} dropped"
            bar.update(task, completed=min(seconds, target), description=note)
        for future in running:
            future.cancel()
    return seconds, written, dropped


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, make the clips, say what came of it; 0 when the hours are there, 1 when the text ran out."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="text files, or folders of .txt files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--hours", type=float, required=True, help="hours of speech in the finished manifest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--language", choices=sorted(ESPEAK_ACCENTS), default="en")
    parser.add_argument("--engines", nargs="+", default=[], choices=["espeak-ng", "flite", "festival"])
    parser.add_argument("--command", help="a synthesiser of your own, with {text} and {wav} in place of the file names")
    parser.add_argument("--format", choices=["opus", "flac"], default="opus")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="clips made at once")
    options = parser.parse_args(argv)
    if options.command and not ("{text}" in options.command and "{wav}" in options.command):
        parser.error("--command needs both {text} and {wav}: --command 'my-tts --file {text} --wav {wav}'")
    if options.hours <= 0 or options.jobs < 1:
        parser.error("--hours must be above 0 and --jobs at least 1")
    if missing := [str(path) for path in options.text if not path.exists()]:
        parser.error(f"no such file or folder: {', '.join(missing)}")

    sources: Sequence[str] | Voice
    if options.command:
        argv_of = tuple(shlex.split(options.command))
        sources = Voice(Path(argv_of[0]).stem, argv_of)
    else:
        sources = engines(options.language, options.engines)
    texts = read_sentences(options.text, options.language)
    if not texts:
        sys.exit("synthesize: no sentence of 2 to 20 seconds in the text; give files with one paragraph a line")
    work = jobs(texts, options.language, options.seed, sources)
    seconds, written, dropped = synthesize(
        work, options.out, options.hours, options.format, options.language, options.jobs
    )
    why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    print(
        f"{options.out / 'manifest.jsonl'}: {seconds / 3600:.2f} h; {written} clips made now, "
        f"{sum(dropped.values())} dropped{f' ({why})' if why else ''}",
        file=sys.stderr,
    )
    if seconds < options.hours * 3600:
        print(f"synthesize: the text ran out before {options.hours} h; give more text", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
