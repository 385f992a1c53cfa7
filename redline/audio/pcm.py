"""Sound that comes bit by bit, with no end in sight: PCM of any rate in, mono float32 at 16 kHz out, at once.

What comes out does not depend on the pieces in which the sound came.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.audio.check import checked_waveform
from redline.audio.containers import container_of
from redline.audio.options import AudioOptions, is_whole, safe_repr
from redline.audio.resample import MonoResampler, to_float
from redline.errors import AudioError, NotAudioError
from redline.types import SAMPLE_RATE, Notice, Waveform

_NAME = "<stream>"
_STEPS = 50  # a second: how often sound goes through the resampler
_HEAD_BYTES = 4096
_LEAST_HEAD = 12  # bytes that tell what a stream is
_WAV_PCM, _WAV_EXTENSIBLE = 1, 0xFFFE


class LiveResampler:
    """PCM of a microphone, a socket or a pipe -> mono float32 at 16 kHz; channels are mixed down to their mean."""

    def __init__(self, sample_rate: int = SAMPLE_RATE, channels: int = 1, name: str = _NAME) -> None:
        """Raises `AudioError` for a rate or a number of channels that no recording has."""
        for what, value in (("sample_rate", sample_rate), ("channels", channels)):
            if not is_whole(value):
                raise AudioError(f"{name}: {what} is {safe_repr(value)}; allowed is a whole number")
        MonoResampler(name, AudioOptions()).check(int(sample_rate), int(channels))
        self.name, self.sample_rate, self.channels = name, int(sample_rate), int(channels)
        self._rest = b""  # of a frame that has not come whole
        self._waiting = np.zeros(0, np.float32)  # mono, less than a step
        self._step = max(1, self.sample_rate // _STEPS)
        self._resampler: Any = None
        if self.sample_rate != SAMPLE_RATE:
            import soxr

            self._resampler = soxr.ResampleStream(self.sample_rate, SAMPLE_RATE, 1, dtype="float32")

    def add(self, sound: NDArray[Any] | bytes) -> NDArray[np.float32]:
        """More sound -> mono [n], as far as it can be given.

        An array [N] or [N, channels] of float, int16, int32 or uint8, or bytes of signed 16-bit little-endian samples,
        channel by channel, cut anywhere.
        """
        mono = self._mono(sound)
        if self._resampler is None:
            return mono
        self._waiting = np.concatenate((self._waiting, mono))
        whole = len(self._waiting) // self._step * self._step
        steps, self._waiting = self._waiting[:whole].reshape(-1, self._step), self._waiting[whole:].copy()
        return self._joined([self._resampler.resample_chunk(step) for step in steps])

    def finish(self) -> tuple[NDArray[np.float32], list[Notice]]:
        """What is left, and what was wrong with the end of the stream."""
        notices = []
        if self._rest:
            message = (
                f"the stream ends within a sample: its last {len(self._rest)} bytes are no whole frame of "
                f"{self.channels} x 16 bits and are left out; is it signed 16-bit little-endian PCM?"
            )
            notices.append(Notice("truncated", message))
        if self._resampler is None:
            return np.zeros(0, np.float32), notices
        rest, self._resampler = self._resampler.resample_chunk(self._waiting, last=True), None
        return self._joined([rest]), notices

    def _joined(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate((np.zeros(0, np.float32), *parts))

    def _mono(self, sound: NDArray[Any] | bytes) -> NDArray[np.float32]:
        if isinstance(sound, bytes | bytearray | memoryview):
            data = self._rest + bytes(sound)
            whole = len(data) // (2 * self.channels) * 2 * self.channels
            sound, self._rest = np.frombuffer(data[:whole], "<i2").reshape(-1, self.channels), data[whole:]
        if not isinstance(sound, np.ndarray) or sound.dtype.kind not in "fiu" or sound.dtype.str[1:] in ("i8", "u8"):
            what = f"an array of {sound.dtype}" if isinstance(sound, np.ndarray) else f"a {type(sound).__name__}"
            raise AudioError(f"{self.name}: {what}; allowed are arrays of float, int16, int32 or uint8, or bytes")
        rows = sound[:, np.newaxis] if sound.ndim == 1 else sound
        if rows.ndim != 2 or rows.shape[1] != self.channels:
            raise AudioError(
                f"{self.name}: samples of shape {sound.shape}, and channels is {self.channels}; allowed are "
                f"[N, {self.channels}]{' and [N]' if self.channels == 1 else ''}"
            )
        floats = to_float(rows)
        # A mean over one axis adds up in another order for another number of rows; sums of columns do not.
        mono = floats[:, 0].copy()
        for channel in range(1, self.channels):
            mono += floats[:, channel]
        if self.channels > 1:
            mono /= np.float32(self.channels)
        return checked_waveform(Waveform(mono, self.name)).samples


class PcmHead:
    """The beginning of a stream of bytes: raw PCM, or a WAV header with such behind it, as recorders write to pipes."""

    def __init__(self, sample_rate: int | None, channels: int | None, name: str = _NAME) -> None:
        """What the user says about raw PCM; None: 16 kHz, one channel, or what a header states."""
        self.name = name
        self.format: tuple[int, int] | None = None
        """Rate and channels, once they are known."""
        self._given = sample_rate, channels
        self._head = b""

    def take(self, data: bytes, *, last: bool = False) -> bytes:
        """More bytes -> those that are PCM. Raises `NotAudioError` for a container, and `AudioError` for a header that
        contradicts what was said."""
        if self.format is not None:
            return data
        self._head += data
        if len(self._head) < _LEAST_HEAD and not last:
            return b""
        if self._head[:4] == b"RIFF" and self._head[8:12] == b"WAVE":
            start = self._wav_data()
            if start is None and not last and len(self._head) < _HEAD_BYTES:
                return b""
            if start is not None:
                return self._head[start:]
        elif form := container_of(self._head):
            raise NotAudioError(
                f"{self.name}: this is {form}, not raw PCM; transcribe the file itself (redline transcribe), or decode "
                "the stream: ffmpeg -i INPUT -f s16le -ac 1 -ar 16000 - | redline live -"
            )
        rate, channels = self._given
        self.format = rate or SAMPLE_RATE, channels or 1
        return self._head

    def _wav_data(self) -> int | None:
        """Where the samples of a WAV begin; None where its header has not come whole."""
        head, at = self._head, 12
        while at + 8 <= len(head):
            chunk, size = head[at : at + 4], int(struct.unpack_from("<I", head, at + 4)[0])
            if chunk == b"data":
                return at + 8 if self.format is not None else None
            if chunk == b"fmt " and at + 24 <= len(head):
                kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
                if kind not in (_WAV_PCM, _WAV_EXTENSIBLE) or bits != 16:
                    raise AudioError(f"{self.name}: WAV of {bits} bits, kind {kind}; a stream is 16-bit PCM (s16le)")
                for what, given, stated in zip(("rate", "channels"), self._given, (rate, channels), strict=True):
                    if given is not None and given != stated:
                        raise AudioError(
                            f"{self.name}: {what} is {given}, but the header of the stream says {stated}; leave it out"
                        )
                self.format = rate, channels
            at += 8 + size + size % 2
        return None
