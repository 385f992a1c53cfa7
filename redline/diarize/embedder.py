"""The head that tells voices apart (`out_voices.safetensors`): windows of log-mel features -> directions, one a voice.

It is the network of GE2E (arXiv 1710.10467), three LSTM layers over 40 mel bands, in the shape that Resemblyzer trained
on thousands of voices, with a projection in which one threshold holds for all microphones. It reads the features that
every model is given, not the encoder's states, which have learned to forget who speaks. Two windows of one voice point
the same way; a span has the mean direction of the windows in it.

N pieces, F mel frames (10 ms), T feature frames (20 ms), E numbers a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redline import tensor_file
from redline.errors import CheckpointError
from redline.features import DYNAMIC_RANGE, FRAME_RATE, N_FFT, N_MELS, STACK, WINDOW, band_edges
from redline.models.invariant import Linear

SPEAKER_HEAD = "out_voices.safetensors"
BANDS, STATES, LAYERS = 40, 256, 3
WINDOW_S, HOP_S = 1.6, 0.2
"""How long each window is, and how far apart they are."""
LOUDNESS = N_FFT / 2 * (3 / 8 * WINDOW) * 10.0 ** (-30.0 / 10.0)
"""Power of a frame of clips at 30 dB below full scale, to which all are brought; 3/8 is a Hann window's mean square."""
AT_ONCE = 64
"""Windows that are heard together."""
NARROW_HZ = (4500.0, 6000.0)
"""Above a telephone's band, and below where sparing codecs end."""
SCALE = ".scale"

SpanOfFrames = tuple[int, int]


class SpeakerEmbedder(nn.Module):
    """Mel pieces [N, F, 40] -> directions [N, E]."""

    bands: Tensor

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("bands", torch.zeros(N_MELS, BANDS))
        self.lstm = nn.LSTM(BANDS, STATES, LAYERS, batch_first=True)
        self.linear = Linear(STATES, STATES)
        self.centre = nn.Parameter(torch.zeros(STATES))
        self.out = Linear(STATES, size)

    def mel(self, features: Tensor) -> Tensor:
        """A clip's features [T, 160] as recorded -> the power in each of the head's bands [2T, 40], at one loudness."""
        power = 10.0 ** (4.0 * (features.float().reshape(-1, N_MELS) - 1.0))  # [2T, 80]
        mel: Tensor = power @ self.bands.to(power) * (LOUDNESS / power.sum(dim=1).mean())
        return mel

    def forward(self, mel: Tensor) -> Tensor:
        states: Tensor = self.lstm(mel)[1][0][-1]  # [N, 256], after the last frame
        heard = F.normalize(F.relu(self.linear(states)), dim=-1)
        return F.normalize(self.out(heard - self.centre), dim=-1)

    @torch.no_grad()
    def track(self, x: Tensor, lengths: Tensor) -> list[EmbeddingTrack]:
        """The voices of each clip of a batch, as recorded: features [B, T, 160], lengths [B]."""
        return [self._track(row[:length]) for row, length in zip(x, lengths.tolist(), strict=True)]

    def _track(self, features: Tensor) -> EmbeddingTrack:
        mel = self.mel(features).to(self.out.weight)
        length, hop = (round(seconds * STACK * FRAME_RATE) for seconds in (WINDOW_S, HOP_S))
        windows = mel.unfold(0, min(length, len(mel)), hop).transpose(1, 2)  # [N, F, 40]
        heard = torch.cat([self(part) for part in windows.split(AT_ONCE)]).float().cpu()
        middles = (torch.arange(len(heard)) * hop + windows.shape[1] / 2) / STACK
        return EmbeddingTrack(middles, heard, len(features))


@dataclass(frozen=True)
class EmbeddingTrack:
    """One clip's voices: the middles [N] of its windows, in frames, and their directions [N, E]."""

    middles: Tensor
    directions: Tensor
    frames: int

    def __call__(self, spans: Sequence[SpanOfFrames]) -> Tensor:
        """Mean directions [M, E] of the windows whose middles lie in each of M spans of frames, or the nearest."""
        starts, ends = torch.tensor(list(spans)).T[..., None]  # [M, 1] each
        inside = (self.middles >= starts) & (self.middles <= ends)  # [M, N]
        nearest = F.one_hot((self.middles - (starts + ends) / 2).abs().argmin(dim=1), len(self.middles)).bool()
        chosen = torch.where(inside.any(dim=1, keepdim=True), inside, nearest)
        return F.normalize(chosen.to(self.directions) @ self.directions, dim=-1)


def is_narrow(features: Tensor) -> bool:
    """Whether a clip [T, 160] holds nothing above a telephone's band, where voices are harder to tell apart.

    Features end a fixed distance below their largest value; there the band is filled with that floor alone.
    """
    picture = features.float().reshape(-1, N_MELS)  # [2T, 80]
    hertz = band_edges()[1:-1]
    above = picture[:, ((hertz > NARROW_HZ[0]) & (hertz < NARROW_HZ[1])).to(picture.device)].mean(dim=1)
    return float(above.quantile(0.95)) < float(picture.max()) - DYNAMIC_RANGE / 4.0 + 0.05


def save(head: SpeakerEmbedder, path: Path) -> Path:
    """Write a head: a byte for each weight and a scale for each row of them; what its rows mean is their length."""
    small: dict[str, Tensor] = {}
    for name, tensor in head.state_dict().items():
        if tensor.dim() == 2 and name != "bands":
            scale = (tensor.float().abs().amax(dim=1) / 127.0).clamp(min=1e-4).half().float()  # as it will be read
            small[name] = (tensor.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            small[name + SCALE] = scale.half()
        else:
            small[name] = tensor.half()
    return tensor_file.save_head(small, path, (str(head.size),))


def load(path: Path) -> SpeakerEmbedder:
    """Read a head for voices; raises `CheckpointError` when the file is none or does not fit."""
    tensors, rows = tensor_file.load_head(path)
    if len(rows) != 1 or not (rows[0].isdecimal() and 0 < int(rows[0]) <= 4096):
        raise CheckpointError(
            f"{path}: its rows are {' '.join(rows)!r}; one number is expected, the size of a direction"
        )
    whole = {name: _widened(name, tensors, path) for name in tensors if not name.endswith(SCALE)}
    with torch.device("meta"):
        head = SpeakerEmbedder(int(rows[0]))
    return tensor_file.fill(head, whole, path)


def _widened(name: str, tensors: dict[str, Tensor], path: Path) -> Tensor:
    """The floats that a byte for each weight and a scale for each row stand for."""
    tensor, scale = tensors[name], tensors.get(name + SCALE)
    if scale is None:
        return tensor
    if tensor.dtype != torch.int8 or tensor.dim() != 2 or scale.shape != tensor.shape[:1]:
        raise CheckpointError(f"{path}: {name} {list(tensor.shape)} does not fit its scale {list(scale.shape)}")
    return tensor.float() * scale.float()[:, None]
