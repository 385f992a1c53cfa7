"""What happened on the way through a recording, and what of it is worth telling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from redline.types import Notice


@dataclass
class Story:
    """What happened on the way through the packets; times in seconds of the result."""

    origin_s: float | None = None
    """What the recording's own clock shows when the result starts, by its first time stamp."""
    bad_packets: int = 0
    silence_s: float = 0.0
    """Seconds that are silence in the result because nothing could be decoded."""
    first_loss_s: float | None = None
    last_loss_s: float = 0.0
    last_failed: bool = False
    """Nothing could be decoded after some packet."""
    last_partial: bool = False
    """The last packet is shorter than it says itself."""
    filled_s: float = 0.0
    """Seconds of silence in place of gaps in the time stamps."""
    jump_at_s: float | None = None
    jumped_s: float = 0.0
    """Seconds that the time stamps jump ahead beyond what is believed; they are not in the result."""

    def lose(self, start: float, end: float) -> None:
        """Note that nothing could be decoded between two times."""
        self.first_loss_s = start if self.first_loss_s is None else self.first_loss_s
        self.last_loss_s = end
        self.silence_s += end - start

    def losses(self, read_s: float, claimed_s: float | None, cut: bool) -> Iterator[Notice]:
        """What was lost inside and at the end; `claimed_s` is given where less than that was read."""
        if self.first_loss_s is not None or (self.bad_packets and not cut):
            start = read_s if self.first_loss_s is None else self.first_loss_s
            parts = [
                f"{self.bad_packets} packets could not be decoded" if self.bad_packets else "",
                f"{self.silence_s:.2f} s without sound data became silence" if self.silence_s else "",
                f"{claimed_s - read_s:.2f} s are missing" if claimed_s is not None and not cut else "",
            ]
            message = "; ".join(part for part in parts if part)
            yield Notice("damaged", message, round(start, 3), round(max(self.last_loss_s, start), 3))
        if cut:
            promised = f"of {claimed_s:.3f} s that were announced " if claimed_s is not None else ""
            end = None if claimed_s is None else round(claimed_s, 3)
            yield Notice("truncated", f"cut off: {promised}{read_s:.3f} s could be read", round(read_s, 3), end)
        if self.jump_at_s is not None:
            message = f"the time stamps jump {self.jumped_s:.2f} s ahead; later times count the sound alone"
            yield Notice("time_jump", message, round(self.jump_at_s, 3))
