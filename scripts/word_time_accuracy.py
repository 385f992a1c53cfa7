#!/usr/bin/env python3
"""How accurate word times are, against what tells the truth without an aligner.

    scripts/word_time_accuracy.py --data manifest.jsonl --split dev --models tiny tiny-plus tiny-multi

Known texts are aligned, so that every word counts and none that is heard wrong. Four references:

    espeak    speech by espeak-ng, which reports when each word and phoneme begins (libespeak-ng by ctypes)
    festival  speech by festival, which writes down when each word and phone ends
    edges     real utterances joined by half a second of digital silence: the first word of each begins, and its last
              one ends, where the sound does (10 ms within 25 dB of its 90th percentile)
    sphinx    real utterances, as another aligner has them that shares nothing with this one: PocketSphinx, Gaussian
              mixtures in steps of 10 ms (pip install pocketsphinx; texts with words that it does not know are left out)

A synthesiser that is not installed is left out, and that is said (apt-get install espeak-ng festival festvox-us-slt-hts
festvox-kallpc16k). Texts are those of the manifest's rows.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from redline import audio, load_model
from redline.decoding.word_times import scored_word_times
from redline.evaluate.run import clip
from redline.manifest import Utterance, read_manifest
from redline.recognizer.common import MAX_DRAFT_CLIP_S, ModelRecognizer
from redline.types import SAMPLE_RATE, Waveform, Word

REFERENCES = ("espeak", "festival", "edges", "sphinx")
LIMITS_MS = (20, 50, 100, 200)
JOINT_S = 0.5
EDGE_DB, EDGE_S = 25.0, 0.01
WORDS = re.compile(r"[a-z']+")
ESPEAK_VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m5")
FESTIVAL_VOICES = ("voice_cmu_us_slt_arctic_hts", "voice_kal_diphone")
FESTIVAL = """({voice})
(set! utt (SynthText "{text}"))
(utt.save.wave utt "{base}.wav")
(set! out (fopen "{base}.txt" "w"))
(mapcar (lambda (word)
  (format out "%s %f %f\\n" (item.name word) (item.feat word "R:SylStructure.daughter1.daughter1.segment_start")
                            (item.feat word "R:SylStructure.daughtern.daughtern.end")))
  (utt.relation.items utt 'Word))
(fclose out)
"""
ESPEAK_PATH = ""
"""Of a libespeak-ng that the system does not find."""


@dataclass(frozen=True)
class Timed:
    """Speech whose words are known, and when they begin or end as far as that is known (seconds)."""

    source: str
    wave: Waveform
    text: str
    starts: tuple[float | None, ...]
    ends: tuple[float | None, ...]


class EspeakEvent(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng/speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


LIST_END, WORD_EVENT, PHONEME_EVENT = 0, 1, 7
RETRIEVAL, PHONEME_EVENTS, UTF8 = 1, 1, 1


def espeak(texts: Sequence[str]) -> Iterator[Timed]:
    """Each text by one of the voices in turn; words begin at word events and end at the next word or pause."""
    name = ESPEAK_PATH or ctypes.util.find_library("espeak-ng")
    if name is None:
        print("espeak-ng is not installed: left out", file=sys.stderr)
        return
    library = ctypes.CDLL(name)
    rate = library.espeak_Initialize(RETRIEVAL, 0, None, PHONEME_EVENTS)
    samples: list[NDArray[np.int16]] = []
    events: list[tuple[int, int, int, bytes]] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(EspeakEvent))
    def received(wave: object, count: int, given: object) -> int:
        if wave:
            samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while given[at].type != LIST_END:  # type: ignore[index]
            event = given[at]  # type: ignore[index]
            events.append((event.type, event.text_position, event.audio_position, event.id))
            at += 1
        return 0

    library.espeak_SetSynthCallback(received)
    for number, text in enumerate(texts):
        library.espeak_SetVoiceByName(ESPEAK_VOICES[number % len(ESPEAK_VOICES)].encode())
        samples.clear()
        events.clear()
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, UTF8, None, None)
        library.espeak_Synchronize()
        places = {match.start() + 1: at for at, match in enumerate(re.finditer(r"\S+", text))}
        starts: list[float | None] = [None] * len(places)
        ends: list[float | None] = [None] * len(places)
        now: int | None = None
        for kind, position, milliseconds, phoneme in events:
            if kind == WORD_EVENT or (kind == PHONEME_EVENT and phoneme.startswith(b"_")):
                if now is not None and ends[now] is None:
                    ends[now] = milliseconds / 1000
                now = places.get(position) if kind == WORD_EVENT else now
                if kind == WORD_EVENT and now is not None:
                    starts[now] = milliseconds / 1000
        if samples:
            sound = np.concatenate(samples).astype(np.float32) / 32768
            yield Timed("espeak", _wave(sound, rate), text, tuple(starts), tuple(ends))


def festival(texts: Sequence[str]) -> Iterator[Timed]:
    """Each text by one of the voices in turn; phones of silence are told from those of words."""
    if shutil.which("festival") is None:
        print("festival is not installed: left out", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            base = Path(folder) / str(number)
            voice = FESTIVAL_VOICES[number % len(FESTIVAL_VOICES)]
            script = base.with_suffix(".scm")
            script.write_text(FESTIVAL.format(voice=voice, text=text, base=base))
            done = subprocess.run(["festival", "--batch", script], capture_output=True, text=True, check=False)
            path = base.with_suffix(".txt")
            lines = path.read_text().split("\n") if path.is_file() else []
            rows = [line.split() for line in lines if line.strip()]
            names = [row[0].lower() for row in rows]
            if names != text.split():  # it reads some words as several
                continue
            if done.returncode:
                print(f"festival: {done.stderr.strip()[:200]}", file=sys.stderr)
                continue
            starts, ends = (tuple(float(row[column]) for row in rows) for column in (1, 2))
            yield Timed("festival", audio.load(base.with_suffix(".wav")), text, starts, ends)


def edges(rows: Sequence[Utterance]) -> Iterator[Timed]:
    """Pairs of utterances of one speaker, cut where their sound begins and ends, with silence around them."""
    gap = np.zeros(round(JOINT_S * SAMPLE_RATE), dtype=np.float32)
    for before, after in list(pairwise(rows))[::2]:
        parts, starts, ends, now = [gap], [], [], JOINT_S
        for row in (before, after):
            sound = _sounding(clip(audio.load(row.audio), row).samples)
            count = len(bare(row.text).split())
            length = len(sound) / SAMPLE_RATE
            starts += [now, *[None] * (count - 1)]
            ends += [*[None] * (count - 1), now + length]
            parts += [sound, gap]
            now += length + JOINT_S
        wave = Waveform(np.concatenate(parts))
        text = f"{bare(before.text)} {bare(after.text)}"
        if wave.duration <= MAX_DRAFT_CLIP_S and before.speaker == after.speaker:
            yield Timed("edges", wave, text, tuple(starts), tuple(ends))


def sphinx(rows: Sequence[Utterance]) -> Iterator[Timed]:
    """Utterances as PocketSphinx aligns them."""
    try:
        from pocketsphinx import Decoder
    except ImportError:
        print("pocketsphinx is not installed: left out", file=sys.stderr)
        return
    decoder = Decoder(lm=None, loglevel="FATAL")
    for row in rows:
        wave, text = clip(audio.load(row.audio), row), bare(row.text)
        try:
            decoder.set_align_text(text)
        except RuntimeError:  # a word that it does not know
            continue
        decoder.start_utt()
        decoder.process_raw((np.clip(wave.samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        found = [part for part in decoder.seg() if not part.word.startswith(("<", "["))]
        if [re.sub(r"\(\d+\)$", "", part.word) for part in found] == text.split():
            starts = tuple(part.start_frame / 100 for part in found)
            yield Timed("sphinx", wave, text, starts, tuple((part.end_frame + 1) / 100 for part in found))


def _sounding(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples from the first to the last piece that is loud."""
    size = round(EDGE_S * SAMPLE_RATE)
    pieces = samples[: len(samples) // size * size].reshape(-1, size)
    level = 20 * np.log10(np.sqrt((pieces.astype(np.float64) ** 2).mean(axis=1)) + 1e-9)
    (loud,) = np.nonzero(level > np.percentile(level, 90) - EDGE_DB)
    return samples[loud[0] * size : (loud[-1] + 1) * size]


def _wave(samples: NDArray[np.float32], rate: int) -> Waveform:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        import soundfile

        soundfile.write(file.name, samples, rate)
        return audio.load(file.name)


def bare(text: str) -> str:
    """Words in small letters."""
    return " ".join(WORDS.findall(text.lower()))


@torch.inference_mode()
def aligned(recognizer: ModelRecognizer, timed: Timed) -> list[Word]:
    """The words of a known text as the model's encoder hears them."""
    encoded = recognizer.encode([recognizer.measure(timed.wave, _rule(recognizer))])
    frame_s = _encoder(recognizer).frame_s
    ((words, _),) = scored_word_times([timed.text], encoded.char_logits, encoded.lengths, frame_s)
    return words


def _encoder(recognizer: ModelRecognizer):
    config = recognizer.model.config
    return getattr(config, "encoder", config)


def _rule(recognizer: ModelRecognizer) -> str:
    return getattr(recognizer.model.config, "frame_rule", "ar")


def describe(differences: NDArray[np.float64]) -> str:
    """Mean absolute error, mean error with its sign, and shares: seconds [N] -> a line in milliseconds."""
    far = 1000 * np.abs(differences)
    shares = " ".join(f"{100 * (far <= limit).mean():6.1f}" for limit in LIMITS_MS)
    bias = f"{1000 * differences.mean():+7.1f} {1000 * np.median(differences):+7.1f}"
    return f"{len(far):6d} {far.mean():7.1f} {bias}  {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest with texts and utterances")
    parser.add_argument("--split", help="which rows")
    parser.add_argument("--language", default="en", help="which rows")
    parser.add_argument("--models", nargs="+", default=["tiny"])
    parser.add_argument("--references", nargs="+", default=list(REFERENCES), choices=REFERENCES)
    parser.add_argument("--texts", type=int, default=60, help="how many to synthesise by each, and pairs of utterances")
    given = parser.parse_args()
    rows = [row for row in read_manifest(given.data, split=given.split) if row.text]
    rows = [row for row in rows if (row.language or "en") == given.language]
    texts = [bare(row.text) for row in rows[:: max(1, len(rows) // given.texts)]][: given.texts]
    made = {"espeak": lambda: espeak(texts), "festival": lambda: festival(texts), "edges": lambda: edges(rows)}
    made["sphinx"] = lambda: sphinx(rows)
    speech = [timed for name in given.references for timed in islice(made[name](), given.texts)]
    print(
        "model       reference  what    words  MAE ms    mean  median  share within " + ", ".join(map(str, LIMITS_MS))
    )
    for name in given.models:
        recognizer = load_model(name).recognizer
        assert isinstance(recognizer, ModelRecognizer)
        pairs: dict[tuple[str, str], list[float]] = {}
        for timed in speech:
            words = aligned(recognizer, timed)
            for what, times in (("starts", timed.starts), ("ends", timed.ends)):
                for word, time in zip(words, times, strict=True):
                    if time is not None:
                        told = word.start if what == "starts" else word.end
                        pairs.setdefault((timed.source, what), []).append(told - time)
        for (source, what), differences in pairs.items():
            print(f"{name:11s} {source:10s} {what:6s} {describe(np.array(differences))}", flush=True)


if __name__ == "__main__":
    main()
