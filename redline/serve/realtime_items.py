"""The sound of a realtime session between two settings: a live stream, the items that come of it, and their events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocketDisconnect

from redline.engine.live import LiveEvent, LiveStream
from redline.longform.session import SessionProgress
from redline.serve.api_errors import internal_api_error
from redline.serve.openai_formats import SpeakerLetters, segment_logprobs, segment_name, usage_dict
from redline.serve.realtime_config import RealtimeConfig
from redline.serve.service import RecognitionService
from redline.types import Segment, Span

Send = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends an event of this type with these keys."""
_MOST_HELD_S = 60.0  # of sound that waits for its text; a client that sends faster waits, too
_PIECE_S = 2.0  # of sound that is taken at once, so that recognition begins while more of it is read
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass
class _Item:
    """A stretch of speech, which becomes a user's message."""

    first: int
    """Its first window; the last is -1 where there is none."""
    is_announced: bool
    """Whether the client knows its id."""
    id: str = field(default_factory=lambda: f"item_{token_hex(8)}")
    last: int = -1
    seconds: float = 0.0
    end_s: float = 0.0
    is_committed: bool = False
    segments: list[Segment] = field(default_factory=list)
    warnings: list[LiveEvent] = field(default_factory=list)
    sent: int = 0


class Hearing:
    """One live stream; sound goes in, and events of items go out. Made in a running event loop."""

    def __init__(
        self, service: RecognitionService, config: RealtimeConfig, send: Send, chain: list[str | None], base_s: float
    ) -> None:
        """`chain` has the id of the item before, over all hearings of a session; `base_s` is its sound before this one.

        Raises `ApiError` and `UnsupportedTaskError` for what the model cannot.
        """
        self.config = config
        self._service, self._send, self._chain = service, send, chain
        self._options = config.stream_options(service.model)
        self._turns = config.input.turn_detection
        self._wake, self._turn = asyncio.Event(), asyncio.Lock()
        self._opened: asyncio.Future[LiveStream] = asyncio.get_running_loop().create_future()
        self._letters = SpeakerLetters()
        self._windows: list[Span] = []
        self._item: _Item | None = None  # that grows
        self._items: list[_Item] = []  # that are not completed, in time order, with the one that grows
        self._warnings: list[LiveEvent] = []
        self._quiet_since_s = 0.0
        self._is_ending = False
        self._base_s = base_s
        self.uncommitted_s = 0.0
        """Seconds of sound since the last commit."""
        self.task = asyncio.ensure_future(self._run())

    async def opened(self) -> None:
        """Wait for the stream; raises `ApiError` where there are too many, and `RedlineError`."""
        await asyncio.shield(self._opened)

    async def push(self, sound: NDArray[np.int16] | bytes) -> None:
        """Take sound, tell what is found in it, and wait while too much of it has no text."""
        stream = await self._opened
        rate = self.config.input.format.sample_rate
        step = round(_PIECE_S * rate) * (2 if isinstance(sound, bytes) else 1)
        for at in range(0, len(sound), step):
            piece = sound[at : at + step]
            await self._service.in_thread(lambda piece=piece: stream.push(piece))  # type: ignore[misc]
            self.uncommitted_s += len(piece) / (2 if isinstance(sound, bytes) else 1) / rate
            self._service.sound()
            while (await self._advance()).held_s > _MOST_HELD_S:
                await asyncio.sleep(0.05)

    async def commit(self, *, also_silence: bool = True) -> None:
        """The sound so far is an item, and there is no more of it; `also_silence` makes one where nobody speaks."""
        stream = await self._opened
        await self._service.in_thread(stream.end)
        self._service.sound()
        before = self._chain[0]
        await self._advance()
        async with self._turn:
            if self._item is not None or (also_silence and self._chain[0] == before):
                await self._commit(self._item or self._begun(len(self._windows)))
            self._is_ending = True
            self._wake.set()

    async def discard(self) -> None:
        """What is not committed is forgotten, and there is no more sound."""
        await self._advance()
        async with self._turn:
            if self._item is not None:
                self._items.remove(self._item)
                self._item = None
            self._is_ending = True
            self._wake.set()
        if not self._items:
            await asyncio.wait({self.task})  # its place is free for the stream that follows

    async def _run(self) -> None:
        """Follows the stream until all items of it are complete."""
        try:
            async with self._service.live(self._wake.set, **self._options) as stream:
                self._opened.set_result(stream)
                while not (self._is_ending and not self._items):
                    await self._wake.wait()
                    self._wake.clear()
                    await self._advance()
        except Exception as error:
            if not self._opened.done():
                self._opened.set_exception(error)
                return
            if not isinstance(error, WebSocketDisconnect):
                for item in [each for each in self._items if each.is_committed]:
                    await self._tell_of(item, "failed", {"error": internal_api_error().to_dict()["error"]})
            raise

    async def _advance(self) -> SessionProgress:
        """Tell what is new."""
        stream = await self._opened
        async with self._turn:
            known = len(self._windows)
            # In this order: the events of all windows that are answered are then there.
            progress, events = await self._service.in_thread(lambda: (stream.progress(known), stream.poll()))
            for window in progress.windows:
                await self._add(window, is_last=len(self._windows) not in progress.cut)
            if self._turns is not None and not self._is_ending:
                if progress.open_window is not None and self._item is None:
                    await self._begin(progress.open_window.start_s)
                await self._look_at_the_clock(progress)
            for event in events:
                self._note(event)
            await self._tell(progress.answered)
            return progress

    async def _add(self, window: Span, is_last: bool) -> None:
        """Another window is decided."""
        if self._item is None:
            await self._begin(window.start_s)
        item = self._item
        assert item is not None
        item.last, item.end_s = len(self._windows), window.end_s
        item.seconds = round(item.seconds + window.end_s - window.start_s, 3)
        self._windows.append(window)
        if self._turns is not None and is_last:
            await self._stop(item)
            await self._commit(item)

    def _begun(self, first: int) -> _Item:
        item = _Item(first, is_announced=self._turns is not None)
        self._items.append(item)
        self._item = item
        return item

    async def _begin(self, start_s: float) -> None:
        item = self._begun(len(self._windows))
        if self._turns is not None:
            started = {"audio_start_ms": self._ms(start_s), "item_id": item.id}
            await self._send("input_audio_buffer.speech_started", started)

    async def _stop(self, item: _Item) -> None:
        self._quiet_since_s = item.end_s
        stopped = {"audio_end_ms": self._ms(item.end_s), "item_id": item.id}
        await self._send("input_audio_buffer.speech_stopped", stopped)

    async def _commit(self, item: _Item) -> None:
        item.is_committed = item.is_announced = True
        self._item, self.uncommitted_s = None, 0.0
        before, self._chain[0] = self._chain[0], item.id
        await self._send("input_audio_buffer.committed", {"item_id": item.id, "previous_item_id": before})
        content = [{"type": "input_audio", "transcript": None}]
        message = {"id": item.id, "object": "realtime.item", "type": "message", "role": "user", "content": content}
        for event, status in (("added", "in_progress"), ("done", "completed")):
            event_body = {"item": {**message, "status": status}, "previous_item_id": before}
            await self._send(f"conversation.item.{event}", event_body)

    async def _look_at_the_clock(self, progress: SessionProgress) -> None:
        """Silence that lasts too long is committed, where that is asked for; the clock is that of the sound."""
        assert self._turns is not None
        idle_ms = self._turns.idle_timeout_ms
        if idle_ms is None or self._item is not None or 1000 * (progress.fed_s - self._quiet_since_s) < idle_ms:
            return
        item = self._begun(len(self._windows))
        item.seconds = round(progress.fed_s - self._quiet_since_s, 3)
        span = {"audio_start_ms": self._ms(self._quiet_since_s), "audio_end_ms": self._ms(progress.fed_s)}
        await self._send("input_audio_buffer.timeout_triggered", {**span, "item_id": item.id})
        self._quiet_since_s = progress.fed_s
        await self._commit(item)

    def _note(self, event: LiveEvent) -> None:
        """Text and warnings go to the item whose window they are of; warnings of none to the next that is complete."""
        start = event.start
        of = [
            item
            for item in self._items
            if start is not None and item.last >= 0 and self._windows[item.first].start_s <= start < item.end_s
        ]
        if event.segment is not None and of:
            of[-1].segments.append(event.segment)
        elif event.kind == "warning":
            (of[-1].warnings if of else self._warnings).append(event)

    async def _tell(self, answered: int) -> None:
        """Deltas of what is new, and the whole of what is complete."""
        for item in list(self._items):
            if item.is_announced:
                for segment in item.segments[item.sent :]:
                    for name, keys in self._deltas(item, segment):
                        await self._tell_of(item, name, keys)
            if not item.is_committed or answered <= item.last:
                return  # later items wait, so that texts come in time order
            self._items.remove(item)
            await self._tell_of(item, *self._whole(item))

    async def _tell_of(self, item: _Item, name: str, keys: dict[str, Any]) -> None:
        await self._send(f"{_TRANSCRIPTION}.{name}", {"item_id": item.id, "content_index": 0, **keys})

    def _deltas(self, item: _Item, segment: Segment) -> Iterator[tuple[str, dict[str, Any]]]:
        lead = " " if item.sent else ""
        item.sent += 1
        delta: dict[str, Any] = {"delta": lead + segment.text}
        if self.config.include:
            delta["logprobs"] = segment_logprobs(segment, lead)
        yield "delta", delta
        if self.config.has_speakers:
            span = {"start": round(self._base_s + segment.start, 3), "end": round(self._base_s + segment.end, 3)}
            speaker = self._letters.of(segment.speaker)
            yield "segment", {"id": segment_name(segment), "speaker": speaker, "text": segment.text, **span}

    def _whole(self, item: _Item) -> tuple[str, dict[str, Any]]:
        item.warnings += self._warnings
        self._warnings = []
        failed = next((each for each in item.warnings if each.code == "failed"), None)
        if failed is not None and not item.segments:
            return "failed", {
                "error": {"type": "server_error", "code": "recognition_failed", "message": failed.text, "param": None}
            }
        asked = self._options["language"]
        spoken = [asked if isinstance(asked, str) else None, *(segment.language for segment in item.segments)]
        keys: dict[str, Any] = {
            "transcript": " ".join(segment.text for segment in item.segments),
            "usage": usage_dict(item.seconds),
            "languages": [{"code": code} for code in dict.fromkeys(spoken) if code],
        }
        if self.config.include:
            leads = [" " if number else "" for number in range(len(item.segments))]
            pairs = zip(item.segments, leads, strict=True)
            keys["logprobs"] = [each for segment, lead in pairs for each in segment_logprobs(segment, lead)]
        warnings = [{"code": each.code, "message": each.text} for each in item.warnings]
        return "completed", {**keys, "warnings": warnings} if warnings else keys

    def _ms(self, seconds: float) -> int:
        return round(1000 * (self._base_s + seconds))
