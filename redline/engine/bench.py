"""Speed of a model on this machine: throughput and its parts, latency, live streams, memory, share of the chip's rate.

Everything is measured on clips of real speech of the lengths that are asked for, each another cut of one recording,
after one run that warms up. A time without a rival in the same run says little: `against_transformers` has one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from redline.checkpoints.folder import NoInitialization
from redline.decoding.slots import slot_batch
from redline.engine.fp8 import FP8
from redline.engine.int8 import is_int8
from redline.engine.precision import into_precision, stored
from redline.engine.scheduler import BatchOptions
from redline.engine.twins import Engine, editor_twin, encoder_twin
from redline.features import FRAME_RATE, pad
from redline.models.config import EncoderConfig, NarConfig
from redline.models.conformer import ConformerEncoder, EncoderOutput
from redline.models.nar import NarModel
from redline.threads import peak_memory_mib
from redline.types import SAMPLE_RATE, Waveform

PARTS = {
    "features": ("prepare",),
    "encoder": ("encode",),
    "projector": ("embed_audio",),
    "language model": ("read", "score_slots", "prefill", "advance", "logits"),
}
"""Parts of recognition, and the methods of recognizer, model or language model whose time they are."""
STREAM_S = 5.0
TOKENS_PER_S = 3.4
"""Tokens of a second of speech, of the published tokenizer."""
MOST_STREAMS = 256
CLIPS = 4
"""Clips of random weights."""
MATMUL = 2048
CPU = torch.device("cpu")
_Module = TypeVar("_Module", bound=nn.Module)
ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class BenchOptions:
    """How much is measured."""

    clips: int = 24
    """Clips of the throughput."""
    clip_s: float = 10.0
    latency_s: tuple[float, ...] = (1.0, 5.0, 10.0, 30.0)
    repeats: int = 5
    """Runs of each latency, and of each side of a comparison."""


class Transcribes(Protocol):
    """What is measured: a `redline.Transcriber`."""

    recognizer: Any
    options: Any
    batch: BatchOptions

    def transcribe(self, source: Any) -> Any:
        """The transcript of a recording, or of each in a list."""


@dataclass
class Stopwatch:
    """Seconds by the name of a part; a part inside another one is taken out of it."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inner: float = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is counted."""

        def call(*arguments: Any, **options: Any) -> Any:
            outer, self._inner, started = self._inner, 0.0, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - started
                self.seconds[part] = self.seconds.get(part, 0.0) + spent - self._inner
                self._inner = outer + spent

        return call


def cuts(wave: Waveform, seconds: float, count: int) -> list[Waveform]:
    """`count` clips of a length, each beginning elsewhere in a recording, which goes round where it ends."""
    length = round(seconds * SAMPLE_RATE)
    step = len(wave.samples) / count
    rounds = np.concatenate([wave.samples] * (2 + length // len(wave.samples)))
    return [Waveform(rounds[start : start + length].copy()) for start in (round(k * step) for k in range(count))]


def seconds_of(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@contextmanager
def watched(recognizer: Any) -> Iterator[Stopwatch]:
    """Count the parts of all that a recognizer does meanwhile."""
    watch, model = Stopwatch(), recognizer.model
    owners = [recognizer, getattr(recognizer, "networks", recognizer), model, getattr(model, "language_model", None)]
    changed: list[tuple[Any, str]] = []
    for part, names in {**PARTS, "search and text": ("answer", "begin")}.items():
        for name in names:
            owner = next((each for each in owners if hasattr(each, name)), None)
            if owner is not None:
                object.__setattr__(owner, name, watch.timed(part, getattr(owner, name)))
                changed.append((owner, name))
    try:
        yield watch
    finally:
        for owner, name in changed:
            object.__delattr__(owner, name)


def measure(
    transcriber: Transcribes, wave: Waveform, options: BenchOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    """What a transcriber does on cuts of a recording; `say` tells what is measured next."""
    clips = cuts(wave, options.clip_s, options.clips)
    say("warming up")
    first_s = seconds_of(lambda: transcriber.transcribe(clips[:1]))
    transcriber.transcribe(clips[:4])
    say(f"throughput of {options.clips} clips of {options.clip_s:g} s")
    energy = _joules()
    wall_s = seconds_of(lambda: transcriber.transcribe(clips))
    used = _joules()
    audio_s = options.clips * options.clip_s
    values: dict[str, Any] = {"rtfx": round(audio_s / wall_s, 1), "first_text_s": round(first_s, 3)}
    if energy is not None and used is not None and used > energy:
        values["joules_per_audio_s"] = round((used - energy) / audio_s, 2)
    say("its parts, one batch at a time")
    alone: Any = type(transcriber)  # parts of a batch at once would count twice
    one_by_one = alone(transcriber.recognizer, transcriber.options, BatchOptions(transcriber.batch.batch_s))
    with watched(transcriber.recognizer) as watch:
        parts_s = seconds_of(lambda: one_by_one.transcribe(clips))
    seconds = dict(watch.seconds) | {"detection and stitching": parts_s - sum(watch.seconds.values())}
    values["parts"] = {name: round(spent / parts_s, 3) for name, spent in seconds.items()}
    say("latency")
    values["latency"] = {f"{length:g} s": latency(transcriber, wave, length, options) for length in options.latency_s}
    say("live streams")
    values["live_streams"] = live_streams(transcriber, wave)
    recognizer = transcriber.recognizer
    encoder_s = watch.seconds.get("encoder", 0.0)
    config = getattr(recognizer.model.config, "encoder", recognizer.model.config)
    per_s, rate = encoder_flops(config), matmul_rate(recognizer.device, recognizer.dtype)
    values["encoder"] = {
        "gflop_per_audio_s": round(per_s / 1e9, 2),
        "gflop_per_s": round(per_s * audio_s / encoder_s / 1e9) if encoder_s else None,
        "matmul_gflop_per_s": round(rate / 1e9),
    }
    return values | {
        "peak_memory_mib": peak_memory_mib(),
        "device": str(recognizer.device),
        "dtype": name_of(precision_of(recognizer)),
    }


def precision_of(recognizer: Any) -> torch.dtype:
    """What a recognizer computes in."""
    launches = getattr(getattr(recognizer, "engine", None), "options", None)
    if getattr(launches, "in_fp8", False):
        return FP8
    dtype: torch.dtype = torch.int8 if is_int8(recognizer.model) else recognizer.dtype
    return dtype


def latency(transcriber: Transcribes, wave: Waveform, seconds: float, options: BenchOptions) -> dict[str, float]:
    """Milliseconds from a clip to its text, of clips one after the other."""
    clips = cuts(wave, seconds, options.repeats)
    transcriber.transcribe(clips[0])
    times = sorted(1000 * seconds_of(lambda clip=clip: transcriber.transcribe(clip)) for clip in clips)  # type: ignore[misc]
    return {"p50_ms": round(statistics.median(times), 1), "p95_ms": round(float(np.quantile(times, 0.95)), 1)}


def live_streams(transcriber: Transcribes, wave: Waveform) -> int:
    """How many people may speak at once without end: of each a window of 5 s must be done before the next one."""
    streams = known = 1
    while streams <= MOST_STREAMS:
        clips = cuts(wave, STREAM_S, streams)
        if seconds_of(lambda clips=clips: transcriber.transcribe(clips)) >= STREAM_S:  # type: ignore[misc]
            break
        known, streams = streams, 2 * streams
    return known


def encoder_flops(config: EncoderConfig) -> float:
    """Floating-point operations of an encoder's products for a second of audio, counted on shapes alone."""
    seconds = 8
    with torch.device("meta"):
        encoder = (type_of(config))(config)
        features = torch.empty(1, seconds * FRAME_RATE, config.input_dim)
        lengths = torch.empty(1, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter, torch.enable_grad():
        encoder(features, lengths)
    return counter.get_total_flops() / seconds


def type_of(config: EncoderConfig) -> type[ConformerEncoder]:
    """The encoder of a config."""
    from redline.models.ctc import CtcConfig, CtcModel

    return CtcModel if isinstance(config, CtcConfig) else ConformerEncoder


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of five."""
    a = torch.ones(MATMUL, MATMUL, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()

    product()
    return float(2 * MATMUL**3 / min(seconds_of(product) for _ in range(5)))


def random_model(build: Callable[[], _Module], dtype: torch.dtype) -> _Module:
    """A model of a precision with small random weights, and norms that change nothing."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with NoInitialization():
            model = build().eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.fill_(1.0) if name.endswith("running_var") or "norm" in name else tensor.uniform_(-0.02, 0.02)
    return model


def measure_random_weights(
    dtype: torch.dtype,
    options: BenchOptions,
    say: Callable[[str], None],
    config: NarConfig | None = None,
    *,
    device: torch.device = CPU,
    engine: Engine = "auto",
) -> dict[str, Any]:
    """The networks of a NAR model with random weights, on noise; by default of the shape of the published one.

    `CLIPS` clips of `clip_s`, with as many draft tokens as speech has; no search and no text.
    """
    config = config or NarConfig()
    say(f"random weights: {config.encoder.num_layers} blocks, {config.text.num_hidden_layers} layers, {name_of(dtype)}")
    model = random_model(lambda: NarModel(config), stored(dtype) or torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    into_precision(dtype, model)
    model.to(device)
    fast = encoder_twin(model.encoder, config.encoder_layer_indices, engine, dtype)
    networks = editor_twin(model, engine, dtype) or model
    clips = list(torch.randn(CLIPS, round(options.clip_s * FRAME_RATE), config.encoder.input_dim, device=device))
    drafts = torch.randint(config.text.vocab_size, (len(clips), round(options.clip_s * TOKENS_PER_S)))
    slots, lengths = slot_batch(drafts.tolist(), config.blank_token_id, config.min_edit_sequence_length)
    slots, lengths = slots.to(device), lengths.to(device)
    watch = Stopwatch()

    def plain(clips: Sequence[Tensor]) -> EncoderOutput:
        features, counts = pad(clips)
        return model.encode(features.to(model.encoder.input_linear.weight.dtype), counts)

    def part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def waited(*arguments: Any) -> Any:
            result = function(*arguments)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return result

        return watch.timed(name, waited)

    @torch.inference_mode()
    def run() -> None:
        encoded = part("encoder", fast or plain)(clips)
        audio, audio_lengths = part("projector", networks.embed_audio)(encoded.exports, encoded.lengths)
        hidden = part("language model", networks.read)(audio, audio_lengths, slots, lengths)
        part("language model", model.score_slots)(hidden, slots)

    run()
    watch.seconds.clear()
    spent = statistics.median(seconds_of(run) for _ in range(options.repeats))
    total = sum(watch.seconds.values())
    return {
        "rtfx": round(len(clips) * options.clip_s / spent, 2),
        "parts": {name: round(seconds / total, 3) for name, seconds in watch.seconds.items()},
        "million_parameters": round(parameters / 1e6),
        "peak_memory_mib": peak_memory_mib(),
        "device": str(device),
        "dtype": name_of(dtype),
        "engine": engine,
    }


def _joules() -> float | None:
    """What the package of the processor has used; None where the machine does not tell."""
    try:
        return int(ENERGY.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def name_of(dtype: torch.dtype) -> str:
    return "fp8" if dtype == FP8 else str(dtype).removeprefix("torch.")
