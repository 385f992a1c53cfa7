"""Speaker embedding network (`out_voices.safetensors`): log-mel features -> speaker embeddings, unit vectors.

The network of GE2E (arXiv 1710.10467), three LSTM layers over 40 mel bands, in the shape that Resemblyzer trained on
thousands of speakers, with a projection in which one threshold holds for all microphones. It reads the features that
every model is given, not the encoder's states, which have learned to forget who speaks.

N windows, F mel frames (10 ms), T feature frames (20 ms), E dimensions of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline import tensor_file
from redline.diarize.track import TimeSpan, VoiceTrack
from redline.errors import CheckpointError
from redline.features import DYNAMIC_RANGE, FRAME_RATE, N_FFT, N_MELS, STACK, WINDOW, band_edges
from redline.models.invariant import Linear
from redline.quantization import dequantized, quantized

SPEAKER_HEAD = "out_voices.safetensors"
BANDS, STATES, LSTM_LAYERS = 40, 256, 3
WINDOW_S, HOP_S = 1.4, 0.4
LOUDNESS = N_FFT / 2 * (3 / 8 * WINDOW) * 10.0 ** (-30.0 / 10.0)
"""Power of a frame of clips at 30 dB below full scale, to which all are brought; 3/8 is a Hann window's mean square."""
WINDOWS_AT_ONCE, WINDOWS_OF_A_THREAD = 64, 24
"""On accelerators and on CPUs, where a step of the LSTM is too small to be shared by threads."""
NARROW_HZ = (4500.0, 6000.0)
"""Above a telephone's band, and below where sparing codecs end."""


_T = TypeVar("_T")
FindOverlaps = Callable[[Tensor], list[TimeSpan]]
"""A clip's features [T, 160] -> stretches of overlapped speech in seconds."""


def in_turn(launch: Callable[[int], None], count: int) -> None:
    """Call `launch` with each number below `count`."""
    for number in range(count):
        launch(number)


class SpeakerEmbedder(nn.Module):
    """Mel windows [N, F, 40] -> speaker embeddings [N, E]."""

    bands: Tensor

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.digest = ""
        """Of the file it was read from: embeddings of two networks cannot be compared."""
        self.find_overlaps: FindOverlaps | None = None
        """Where two speak at once in the same features, where there is a network for that."""
        self.run_launches: Callable[[Callable[[int], None], int], None] = in_turn
        """Calls a function with each number below a count; where there are threads each computes one at a time."""
        self.register_buffer("bands", torch.zeros(N_MELS, BANDS))
        self.lstm = nn.LSTM(BANDS, STATES, LSTM_LAYERS, batch_first=True)
        self.linear = Linear(STATES, STATES)
        self.centre = nn.Parameter(torch.zeros(STATES))
        self.out = Linear(STATES, size)

    def mel(self, features: Tensor) -> Tensor:
        """A clip's features [T, 160] as recorded -> the power in each of the network's bands [2T, 40], normalised."""
        power = 10.0 ** (4.0 * (features.float().reshape(-1, N_MELS) - 1.0))  # [2T, 80]
        mel: Tensor = power @ self.bands.to(power) * (LOUDNESS / power.sum(dim=1).mean())
        return mel

    def forward(self, mel: Tensor) -> Tensor:
        mel = mel.to(next(self.lstm.parameters()).dtype)
        states = self.lstm(mel)[1][0][-1].to(self.linear.weight.dtype)  # [N, 256], after the last frame
        hidden = F.normalize(F.relu(self.linear(states)), dim=-1)
        return F.normalize(self.out(hidden - self.centre), dim=-1)

    def alone(self, compute: Callable[[], _T]) -> _T:
        """What a function gives, computed by one thread: others would wait longer than they help."""
        results = list[_T]()
        self.run_launches(lambda _: results.append(compute()), 1)
        return results[0]

    @torch.no_grad()
    def track(self, features: Tensor, hop_s: float = HOP_S) -> VoiceTrack:
        """The windows of one clip's features [T, 160], as recorded, every `hop_s`; heard when asked for."""
        mel = self.mel(features).to(self.out.weight)
        length, hop = (round(seconds * STACK * FRAME_RATE) for seconds in (WINDOW_S, hop_s))
        windows = mel.unfold(0, min(length, len(mel)), hop).transpose(1, 2)  # [N, F, 40]
        middles = torch.arange(len(windows)) * hop + windows.shape[1] / 2
        return VoiceTrack(middles / (STACK * FRAME_RATE), partial(self._embed, windows))

    @torch.inference_mode()
    def _embed(self, windows: Tensor, marked: Tensor) -> Tensor:
        """The embeddings [n, E] of those of the windows [N, F, 40] that are marked [N], some at a time."""
        size = WINDOWS_OF_A_THREAD if windows.device.type == "cpu" else WINDOWS_AT_ONCE
        parts = windows[marked.to(windows.device)].split(size)
        embeddings = [part.new_empty(0) for part in parts]

        def launch(number: int) -> None:
            embeddings[number] = self(parts[number])

        self.run_launches(launch, len(parts))
        return torch.cat(embeddings).float().cpu()


def is_narrow(features: Tensor) -> bool:
    """Whether a clip [T, 160] holds nothing above a telephone's band, where speakers are harder to tell apart.

    Features end a fixed distance below their largest value; there the band is filled with that floor alone.
    """
    picture = features.float().reshape(-1, N_MELS)  # [2T, 80]
    hertz = band_edges()[1:-1]
    above = picture[:, ((hertz > NARROW_HZ[0]) & (hertz < NARROW_HZ[1])).to(picture.device)].mean(dim=1)
    return float(above.quantile(0.95)) < float(picture.max()) - DYNAMIC_RANGE / 4.0 + 0.05


def save_embedder(embedder: SpeakerEmbedder, path: Path) -> Path:
    """Write the network: int8 weights with a scale for each row, the rest in half precision."""
    half = {name: tensor.half() for name, tensor in embedder.state_dict().items()}
    return tensor_file.save_head(quantized(half), path, (str(embedder.size),))


def load_embedder(path: Path) -> SpeakerEmbedder:
    """Read the network in float32; raises `CheckpointError` when the file is none or does not fit."""
    tensors, rows = tensor_file.load_head(path)
    if len(rows) != 1 or not (rows[0].isdecimal() and 0 < int(rows[0]) <= 4096):
        raise CheckpointError(f"{path}: its rows are {' '.join(rows)!r}; one number is expected, the embedding's size")
    embedder = tensor_file.fill(lambda: SpeakerEmbedder(int(rows[0])), dequantized(tensors, path), path)
    embedder.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return embedder
