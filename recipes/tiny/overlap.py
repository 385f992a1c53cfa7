"""Train overlapped speech detection (`out_overlap.safetensors`) on two voices that are laid over each other.

    python -m redline_recipes.tiny.overlap --data manifest.jsonl more/manifest.jsonl --out out_overlap.safetensors

A clip of five seconds has one voice, two by turns with or without overlap, or one that goes on while another says
something. What is a frame with two voices is known from the energy of each before they are added. Microphones, rooms,
noise and bands are drawn for each clip, so that nothing else tells two voices from one. Only the split `train` is used.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from redline.audio.levels import levelled
from redline.diarize.overlap import OverlapDetector, save_overlap_detector
from redline.errors import DataError, RedlineError
from redline.features import FRAME_SAMPLES, clip_features
from redline.manifest import Utterance, read_manifest
from redline.types import SAMPLE_RATE, Waveform

Samples = NDArray[np.float32]
CLIP_S = 5.0
VOICE_S = 300.0
"""Speech of one voice that is kept."""
SPOKEN_DB, SILENT_DB = -28.0, -65.0
"""A frame is spoken that is louder than the first below the voice's loud frames, and than the second."""
BRIDGED = 11
"""Frames of a pause that counts as speech."""
EQUALIZER_TAPS = 256
NOTES = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def read_voices(utterances: Sequence[Utterance]) -> dict[str, list[NDArray[np.int16]]]:
    """Some minutes of each speaker of recordings at 16 kHz, in 16 bits."""
    voices: dict[str, list[NDArray[np.int16]]] = {}
    for row in random.Random(0).sample(utterances, len(utterances)):
        own = voices.setdefault(row.speaker, [])
        if sum(map(len, own)) < VOICE_S * SAMPLE_RATE:
            samples, rate = soundfile.read(row.audio, dtype="float32")
            if rate != SAMPLE_RATE or samples.ndim > 1:
                raise DataError(f"{row.audio}: {rate} Hz; recordings of one channel at {SAMPLE_RATE} Hz are expected")
            own.append((samples.clip(-1, 1) * 32767).astype(np.int16))
    if len(voices) < 2:
        raise DataError(f"{len(voices)} speakers with speech to train on; two are needed, told by `speaker`")
    return voices


class OverlapClips(Dataset[tuple[Tensor, Tensor]]):
    """Clips by their number, which decides all of each: features [T, 160], whether two speak [T]."""

    def __init__(self, voices: dict[str, list[NDArray[np.int16]]], noises: Sequence[Samples], count: int) -> None:
        self.voices, self.noises, self.count = voices, noises, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        draw, noise = random.Random(number), np.random.default_rng(number)
        size = round(CLIP_S * SAMPLE_RATE)
        first, second = self._placed(draw, size)
        spoken = [speech_frames(voice) for voice in (first, second)]
        equalizers = [equalizer(draw), equalizer(draw)]
        if draw.random() < 0.5:  # one microphone
            equalizers[1] = equalizers[0]
        gains = [1.0, 10.0 ** (draw.uniform(-10, 10) / 20)]
        voices = [
            gain * fftconvolve(at_level(voice), own, "same")
            for gain, voice, own in zip(gains, (first, second), equalizers, strict=True)
        ]
        if draw.random() < 0.5:
            room = response(draw, noise)
            other = room if draw.random() < 0.5 else response(draw, noise)
            voices = [fftconvolve(voice, own)[:size] for voice, own in zip(voices, (room, other), strict=True)]
        mixed = self._recorded(voices[0] + voices[1], draw, noise)
        features = clip_features(levelled(Waveform(mixed)).samples)
        return features, torch.from_numpy(spoken[0] & spoken[1])[: len(features)]

    def _placed(self, draw: random.Random, size: int) -> tuple[Samples, Samples]:
        """Two voices [size], each where it speaks; the second may be silent."""
        one, two = draw.sample(sorted(self.voices), 2)
        first, second = np.zeros(size, np.float32), np.zeros(size, np.float32)
        kind = draw.random()
        if 0.2 <= kind < 0.6:  # by turns
            change = draw.uniform(1.0, CLIP_S - 1.0)
            overlap = draw.uniform(0.2, 2.0) if draw.random() < 0.7 else -draw.uniform(0.0, 0.6)
            end, start = (round((change + side * overlap / 2) * SAMPLE_RATE) for side in (1, -1))
            end, start = min(end, size), max(start, 0)
            first[:end], second[start:] = self._speech(one, end, draw), self._speech(two, size - start, draw)
            return first, second
        first[:] = self._speech(one, size, draw)
        if kind >= 0.9:
            second[:] = self._speech(two, size, draw)
        elif kind >= 0.6:
            for _ in range(draw.choice([1, 1, 2])):
                length = round(draw.uniform(0.3, 2.5) * SAMPLE_RATE)
                start = draw.randrange(size - length)
                second[start : start + length] = self._speech(two, length, draw)
        return first, second

    def _speech(self, speaker: str, size: int, draw: random.Random) -> Samples:
        """So many samples of a speaker, of several utterances where one is too short."""
        parts: list[Samples] = [(draw.choice(self.voices[speaker]) / np.float32(32768)).astype(np.float32)]
        while sum(map(len, parts)) < size:
            pause: Samples = np.zeros(round(draw.uniform(0.05, 0.4) * SAMPLE_RATE), np.float32)
            parts += [pause, (draw.choice(self.voices[speaker]) / np.float32(32768)).astype(np.float32)]
        joined: Samples = np.concatenate(parts)
        start = draw.randrange(len(joined) - size + 1)
        return joined[start : start + size]

    def _recorded(self, sound: NDArray[np.float64], draw: random.Random, noise: np.random.Generator) -> Samples:
        """With noise and in a band, as a recording has them."""
        if self.noises and draw.random() < 0.4:
            other = draw.choice(self.noises)
            start = draw.randrange(max(1, len(other) - len(sound)))
            other = np.resize(other[start : start + len(sound)], len(sound))
            sound = sound + other / (np.sqrt(np.mean(np.square(other))) + 1e-9) * 10.0 ** (-draw.uniform(5, 30) / 20)
        sound = sound + noise.standard_normal(len(sound)) * 10.0 ** (-draw.uniform(25, 50) / 20)
        kind = draw.random()
        if kind < 0.2:
            sound = sosfilt(butter(4, [300, 3400], "bandpass", fs=SAMPLE_RATE, output="sos"), sound)
        elif kind < 0.4:
            sound = sosfilt(butter(6, draw.uniform(3500, 7000), "lowpass", fs=SAMPLE_RATE, output="sos"), sound)
        return np.asarray(0.7 * sound / np.abs(sound).max(), dtype=np.float32)


def speech_frames(voice: Samples) -> NDArray[np.bool_]:
    """In which frames of 20 ms a voice alone speaks; short pauses are speech."""
    power = 10.0 * np.log10(
        np.mean(np.square(voice[: len(voice) // FRAME_SAMPLES * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES), axis=1)
        + 1e-10
    )
    heard: NDArray[np.bool_] = power > SILENT_DB
    if not heard.any():
        return heard
    spoken = heard & (power > np.quantile(power[heard], 0.95) + SPOKEN_DB)
    widened = np.convolve(spoken, np.ones(BRIDGED), "same") > 0
    return np.asarray(~(np.convolve(~widened, np.ones(BRIDGED), "same") > 0))


def at_level(voice: Samples) -> Samples:
    """A voice whose louder tenths of a second have a power of 1; silence stays."""
    tenth = SAMPLE_RATE // 10
    power = np.mean(np.square(voice[: len(voice) // tenth * tenth]).reshape(-1, tenth), axis=1)
    spoken = power[power > 1e-8]
    return voice / np.sqrt(np.quantile(spoken, 0.8)) if len(spoken) else voice


def equalizer(draw: random.Random) -> NDArray[np.float64]:
    """The impulse response of a microphone: a smooth curve of up to 8 dB."""
    depth = draw.uniform(0.0, 8.0)
    points = [draw.uniform(-depth, depth) for _ in range(6)]
    decibels = np.interp(np.linspace(0, 1, EQUALIZER_TAPS // 2 + 1), np.linspace(0, 1, 6), points)
    taps = np.roll(np.fft.irfft(10.0 ** (decibels / 20)), EQUALIZER_TAPS // 2)
    return np.asarray(taps * np.hanning(EQUALIZER_TAPS))


def response(draw: random.Random, noise: np.random.Generator) -> NDArray[np.float64]:
    """The impulse response of a room: noise that decays by 60 dB within 0.15 to 0.6 s, behind the direct sound."""
    size = round(draw.uniform(0.15, 0.6) * SAMPLE_RATE)
    tail = noise.standard_normal(size) * np.exp(-6.9 * np.arange(size) / size)
    tail[: SAMPLE_RATE // 500] = 0.0
    tail *= 10.0 ** (-draw.uniform(0, 12) / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1.0
    return tail


def train(clips: OverlapClips, batch: int, workers: int, rate: float) -> Iterator[tuple[int, float, OverlapDetector]]:
    """Each update's number and running loss, and the network so far; the learning rate falls to nothing."""
    torch.manual_seed(0)
    detector = OverlapDetector()
    optimizer = torch.optim.AdamW(detector.parameters(), rate, weight_decay=0.01)
    loader = DataLoader(clips, batch, num_workers=workers, drop_last=True)
    running, updates = 0.0, len(clips) // batch
    for update, (features, overlapped) in enumerate(loader, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, update / 50) * max(0.02, 1.0 - update / updates)
        loss = F.binary_cross_entropy_with_logits(detector(features), overlapped.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += (loss.item() - running) / min(update, 50)
        yield update, running, detector


def main(argv: Sequence[str] | None = None) -> int:
    """Read, train, write; exit 2 where there is nothing to train on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="manifests of utterances with speakers")
    parser.add_argument("--language", default="en")
    parser.add_argument("--noise", type=Path, nargs="*", default=[], help="recordings of noise, 16 kHz")
    parser.add_argument("--out", type=Path, required=True, help="where the network is written")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="clips in an update")
    parser.add_argument("--rate", type=float, default=2e-3, help="the learning rate at its highest")
    parser.add_argument("--workers", type=int, default=1, help="processes that make clips")
    arguments = parser.parse_args(argv)
    try:
        rows = [
            row for path in arguments.data for row in read_manifest(path, split="train", language=arguments.language)
        ]
        voices = read_voices([row for row in rows if row.speaker and not row.turns])
    except RedlineError as error:
        NOTES.print(f"overlap.py: {error}", style="red")
        return 2
    noises = [soundfile.read(path, dtype="float32")[0] for path in arguments.noise]
    clips = OverlapClips(voices, noises, arguments.updates * arguments.batch)
    NOTES.print(
        f"{len(voices)} voices, {sum(len(part) for own in voices.values() for part in own) / SAMPLE_RATE / 3600:.1f} h"
    )
    for update, loss, detector in train(clips, arguments.batch, arguments.workers, arguments.rate):
        if update % 50 == 0 or update == arguments.updates:
            NOTES.print(f"update {update}: loss {loss:.4f}")
            save_overlap_detector(detector, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
