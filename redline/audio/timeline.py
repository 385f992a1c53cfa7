"""The recording's own clock (PTS) against the samples that were decoded: gaps, jumps, and what was lost where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from redline.types import Notice

LARGEST_GAP_S = 600.0
_SMALLEST_GAP_S = 0.03  # above the jitter of recorders that stamp with a clock
_MOST_SILENCE_S = 1800.0  # of all gaps together, and
_SILENCE_PER_SOUND = 20.0  # so many seconds more for each of sound; beyond that the time stamps are not believed
_FIRST_PACKET_S = 0.1


@dataclass
class Timeline:
    """Times in seconds of the result."""

    origin_s: float | None = None
    """What the recording's own clock shows when the result starts, by its first time stamp."""
    bad_packets: int = 0
    silence_s: float = 0.0
    """Seconds that are silence in the result because nothing could be decoded."""
    first_loss_s: float | None = None
    last_loss_s: float = 0.0
    filled_s: float = 0.0
    """Seconds of silence in place of gaps in the time stamps."""
    jump_at_s: float | None = None
    jumped_s: float = 0.0
    """Seconds that the time stamps jump ahead beyond what is believed; they are not in the result."""

    def gap_s(self, stamp_s: float, now_s: float) -> float:
        """Seconds of silence that are due in front of a frame with this time stamp."""
        if self.origin_s is None:
            self.origin_s = stamp_s - now_s
        gap_s = stamp_s - self.origin_s - now_s
        most_s = _MOST_SILENCE_S + _SILENCE_PER_SOUND * (now_s - self.filled_s)
        if abs(gap_s) > LARGEST_GAP_S or self.filled_s + gap_s > most_s:  # a clock that was set, not a gap
            self.origin_s += gap_s
            if gap_s > 0 and now_s > 0:
                self.jumped_s += gap_s
                self.jump_at_s = now_s if self.jump_at_s is None else self.jump_at_s
            return 0.0
        if gap_s <= _SMALLEST_GAP_S:
            return 0.0
        self.filled_s += gap_s
        return gap_s

    def skip_first_packet(self, stamp_s: float, now_s: float) -> None:
        """Start the clock a little later, for the first packet of Vorbis has no sound of its own."""
        if self.origin_s is not None and 0 < stamp_s - self.origin_s - now_s < _FIRST_PACKET_S:
            self.origin_s = stamp_s - now_s

    def lose(self, start_s: float, end_s: float, packets: int = 0) -> None:
        """Note that packets could not be decoded, and that nothing could between two times."""
        self.bad_packets += packets
        self.first_loss_s = start_s if self.first_loss_s is None else self.first_loss_s
        self.last_loss_s = end_s
        self.silence_s += end_s - start_s

    def notices(self, read_s: float, stated_s: float | None, is_cut: bool) -> Iterator[Notice]:
        """What was lost inside and at the end; `stated_s` is given where less than that was read."""
        if self.first_loss_s is not None or (self.bad_packets and not is_cut):
            start_s = read_s if self.first_loss_s is None else self.first_loss_s
            parts = [
                f"{self.bad_packets} packets could not be decoded" if self.bad_packets else "",
                f"{self.silence_s:.2f} s without sound data became silence" if self.silence_s else "",
                f"{stated_s - read_s:.2f} s are missing" if stated_s is not None and not is_cut else "",
            ]
            message = "; ".join(part for part in parts if part)
            yield Notice("damaged", message, round(start_s, 3), round(max(self.last_loss_s, start_s), 3))
        if is_cut:
            promised = f"of {stated_s:.3f} s that were announced " if stated_s is not None else ""
            end_s = None if stated_s is None else round(stated_s, 3)
            yield Notice("truncated", f"cut off: {promised}{read_s:.3f} s could be read", round(read_s, 3), end_s)
        if self.jump_at_s is not None:
            message = f"the time stamps jump {self.jumped_s:.2f} s ahead; later times count the sound alone"
            yield Notice("time_jump", message, round(self.jump_at_s, 3))
