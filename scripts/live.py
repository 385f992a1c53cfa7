"""Measure live streams: how far text is behind the speech, with many speakers at once, and what it costs in words.

    python scripts/live.py MANIFEST --streams 50 --seconds 60        # latencies and the load, on a simulated clock
    python scripts/live.py MANIFEST --wer                            # WER live against that of the whole file
    python scripts/live.py --silent FOLDER                           # text that noise recordings give
    python scripts/live.py MANIFEST --seconds 8 --picture live.png   # a stream and what is told of it, when

Utterances of the dev split of one speaker are joined, with pauses of 0.5 to 1.5 s of faint noise between them. On the
simulated clock, each step gives every stream 50 ms of sound, and time goes on by as much as the step took to compute,
or by those 50 ms where it took less: text that comes late is late, and nobody waits for a real microphone. With
`--clock cpu` it is the processor time that counts, shared by `--cores`, for machines where other programs run.

    partial        from the end of the speech that a partial text is of, until it is there
    final          from the end of the last word in front of a pause (by alignment), until its text is committed
    pause          the same from the end of speech as detection has it; only with a --pad below a third of the --pause
    behind         from the sound until it is looked at: grows without end where the machine is too slow
    real-time factor    seconds of computing for a second of the clock; below 1 the streams can be kept up with
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import redline
from redline import audio
from redline.engine.live import LiveOptions
from redline.evaluate.metrics.wer import score_wer
from redline.manifest import read_manifest
from redline.normalize import normalised
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Transcript, Waveform

STEP_S = 0.05
_RECORDING_S = 150.0
_HERE = audio.AudioOptions(isolated=False)
_TRACKS = 5  # recordings that streams are made of, each stream from another place on


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--language", default="en")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--partial", type=float, default=LiveOptions().partial_s)
    parser.add_argument("--pause", type=float, default=LiveOptions().pause_s)
    parser.add_argument("--max-window", type=float, default=LiveOptions().max_s)
    parser.add_argument("--pad", type=float, default=LiveOptions().pad_s)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--cores", type=int, default=1, help="with --clock cpu: cores that share the work evenly")
    parser.add_argument("--wer", action="store_true")
    parser.add_argument("--silent", type=Path, help="a folder of recordings in which nobody speaks")
    parser.add_argument("--picture", type=Path, help="PNG of what the first seconds of one stream become, and when")
    chosen = parser.parse_args(arguments)
    options = LiveOptions(chosen.partial, chosen.pause, chosen.max_window, chosen.pad)
    model = redline.load_model(chosen.model, threads=chosen.threads)
    if chosen.silent is not None:
        return silent(model, chosen.silent, options)
    if chosen.manifest is None:
        parser.error("a manifest is needed, or --silent FOLDER")
    recordings = joined(chosen.manifest, chosen.language, None if chosen.wer else _TRACKS)
    if chosen.picture is not None:
        return draw(model, recordings[0][0][: round(chosen.seconds * SAMPLE_RATE)], options, chosen.picture)
    if chosen.wer:
        return compare(model, recordings, options, chosen.language)
    now = time.perf_counter if chosen.clock == "wall" else lambda: time.process_time() / chosen.cores
    row = {"clock": chosen.clock} | ({"cores": chosen.cores} if chosen.clock == "cpu" else {})
    sounds = [samples for samples, _ in recordings]
    print(json.dumps(row | measure(model, sounds, chosen.streams, chosen.seconds, options, now)))


def joined(manifest: Path, language: str, most: int | None = None) -> list[tuple[NDArray[np.float32], str]]:
    """Recordings of some 150 s, or the first of them, and their texts."""
    rng = np.random.default_rng(1)
    speakers = defaultdict[str, list[tuple[Path, str]]](list)
    for row in read_manifest(manifest, split="dev", language=language):
        speakers[row.speaker or ""].append((Path(row.audio), row.text))
    recordings = []
    for _, utterances in sorted(speakers.items()):
        parts, texts = list[NDArray[np.float32]](), list[str]()
        for number, (path, text) in enumerate(utterances):
            pause = rng.normal(0.0, 1e-4, round(SAMPLE_RATE * rng.uniform(0.5, 1.5))).astype(np.float32)
            parts, texts = [*parts, audio.load(path, options=_HERE).samples, pause], [*texts, text]
            if sum(map(len, parts)) > _RECORDING_S * SAMPLE_RATE or number == len(utterances) - 1:
                recordings.append((np.concatenate(parts), " ".join(texts)))
                parts, texts = [], []
                if len(recordings) == most:
                    return recordings
    return recordings


def transcribed(model: Transcriber, samples: NDArray[np.float32], options: LiveOptions) -> Transcript:
    live = model.live(live_options=options)
    with live:
        for at in range(0, len(samples), SAMPLE_RATE):
            live.feed(samples[at : at + SAMPLE_RATE])
    return live.transcript()


def compare(
    model: Transcriber, recordings: list[tuple[NDArray[np.float32], str]], options: LiveOptions, language: str
) -> None:
    """WER of the files, and of the same sound live."""
    only_final = LiveOptions(float("inf"), options.pause_s, options.max_s, options.pad_s)
    references = [text for _, text in recordings]
    files = [model.transcribe(Waveform(samples)) for samples, _ in recordings]
    streams = [transcribed(model, samples, only_final) for samples, _ in recordings]
    for name, transcripts in (("file", files), ("live", streams)):
        texts = [
            (normalised(text, language), normalised(each.text, language))
            for text, each in zip(references, transcripts, strict=True)
        ]
        wer = 100 * score_wer(texts)["wer"]
        windows = [segment.end - segment.start for each in transcripts for segment in each.segments]
        print(json.dumps({"what": name, "wer": round(wer, 2), "windows": len(windows),
                          "mean_window_s": round(float(np.mean(windows)), 2)}))  # fmt: skip


def draw(model: Transcriber, samples: NDArray[np.float32], options: LiveOptions, path: Path) -> None:
    """A stream's sound and, below it, each text at the place in the sound behind which it came, computing aside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    step, shown = round(STEP_S * SAMPLE_RATE), list[tuple[float, str, str]]()
    live = model.live(live_options=options)
    model.live_engine.now = lambda: live.seconds  # computing takes no time
    for at in range(0, len(samples), step):
        events = live.feed(samples[at : at + step])
        shown += [((at + step) / SAMPLE_RATE, each.kind, each.text) for each in events]
    shown += [(len(samples) / SAMPLE_RATE, each.kind, each.text) for each in live.close()]
    shown = [(at_s, kind, text) for at_s, kind, text in shown if text and kind != "warning"]
    figure, (wave, texts) = pyplot.subplots(
        2,
        1,
        sharex=True,
        figsize=(9, 1.2 + 0.2 * len(shown)),
        height_ratios=(1, 0.22 * len(shown)),
        layout="constrained",
    )
    wave.plot(np.arange(len(samples)) / SAMPLE_RATE, samples, color="#888888", linewidth=0.3)
    wave.set_axis_off()
    for row, (at_s, kind, text) in enumerate(shown):
        color = "#0b6e4f" if kind == "committed" else "#999999"
        texts.plot(at_s, row, marker="|", color=color)
        texts.text(at_s - 0.1, row, text, ha="right", va="center", fontsize=7, color=color)
    texts.set(xlabel="seconds", xlim=(0, len(samples) / SAMPLE_RATE + 0.2), yticks=[], ylim=(len(shown), -1))
    texts.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=110)


def silent(model: Transcriber, folder: Path, options: LiveOptions) -> None:
    """The text of recordings without speech, live and as files."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix not in (".md", ".jsonl")):
        wave = audio.load(path)
        live, file = transcribed(model, wave.samples, options), model.transcribe(wave)
        print(json.dumps({"audio": path.name, "seconds": wave.duration, "live": live.text, "file": file.text}))


def measure(
    model: Transcriber,
    sounds: list[NDArray[np.float32]],
    count: int,
    seconds: float,
    options: LiveOptions,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Latencies and the real-time factor of so many streams; `now` says how long computing took."""
    step, rng = round(STEP_S * SAMPLE_RATE), np.random.default_rng(2)
    rolled = [np.roll(sounds[n % len(sounds)], -int(rng.integers(len(sounds[n % len(sounds)])))) for n in range(count)]
    tracks = [np.resize(sound, round(seconds * SAMPLE_RATE)) for sound in rolled]
    streams = [model.live(live_options=options, words=True) for _ in tracks]
    model.live_engine.now = lambda: 0.0
    run(model, tracks[:2], options)  # warm
    late = defaultdict[str, list[float]](list)
    clock = fed_s = computed_s = started = 0.0
    model.live_engine.now = lambda: clock + now() - started
    while fed_s < seconds:
        clock = max(clock, fed_s + STEP_S)  # the sound has been spoken
        started = now()
        due = min(round(seconds * SAMPLE_RATE), max(round(clock * SAMPLE_RATE) // step * step, step))
        late["behind"].append(clock - fed_s - STEP_S)
        for live, track in zip(streams, tracks, strict=True):
            live.push(track[round(fed_s * SAMPLE_RATE) : due])
        fed_s = due / SAMPLE_RATE
        for live in streams:
            for event in live.events():
                at = clock + now() - started
                if event.kind == "partial" and event.end is not None and event.text:
                    late["partial"].append(at - event.end)
                elif event.kind == "committed" and event.pause and event.words and event.end is not None:
                    late["final"].append(at - event.words[-1].end)
                    if options.pad_s <= options.pause_s / 3:  # else its end does not tell that of the speech
                        late["pause"].append(at - (event.end - options.pad_s))
        took = now() - started
        computed_s += took
        clock += took
    row: dict[str, Any] = {"model": model.name, "streams": count, "seconds": seconds}
    row |= {"cpus": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    row |= {"real_time_factor": round(computed_s / seconds, 3)}
    for name in ("partial", "final", "pause", "behind"):
        if late[name]:
            p50, p95 = (round(1000 * each) for each in np.percentile(late[name], [50, 95]))
            row |= {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95, f"{name}s": len(late[name])}
    return row


def run(model: Transcriber, tracks: list[NDArray[np.float32]], options: LiveOptions) -> None:
    for track in tracks:
        with model.live(live_options=options) as live:
            live.feed(track[: 5 * SAMPLE_RATE])


if __name__ == "__main__":
    main(sys.argv[1:])
