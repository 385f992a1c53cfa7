"""A stream of Deepgram's `/v1/listen`: sound in binary messages, results in JSON as people speak."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from redline.audio.pcm import PcmHead
from redline.engine.live import LiveEvent, LiveOptions, LiveStream
from redline.engine.shared import WithdrawnError
from redline.errors import RedlineError
from redline.serve.api_errors import ApiError, internal_api_error
from redline.serve.deepgram_options import ENCODINGS, ListenOptions
from redline.serve.deepgram_results import SpeakerNumbers, listen_alternative, listen_metadata, listen_text
from redline.serve.g711 import decode_g711
from redline.transcribe_options import StreamOptions
from redline.types import Segment, Word

_log = logging.getLogger(__name__)
IDLE_S = 12.0
"""A stream in which neither sound nor KeepAlive comes for so long is closed; Deepgram's has 10 s."""
_STEP_S = 0.1  # in which sound goes in, so that each beginning of speech is seen
_SHORTEST_PAUSE_S = 0.1  # what speech detection can tell


class ListenStream:
    """One WebSocket, with a live stream for each channel that is heard apart."""

    def __init__(self, websocket: WebSocket, server: Any, options: ListenOptions, request_id: str) -> None:
        self._socket, self._service, self._options, self._id = websocket, server.service, options, request_id
        self._head = None if options.encoding else PcmHead(options.sample_rate, None, "<stream>")
        self._rate, self._channels = options.sample_rate, options.channels
        self._rest = b""  # of a frame that has not come whole
        self._digest, self._fed_bytes = hashlib.sha256(), 0
        self._decoding: list[_Channel] = []
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()  # of who sends
        self._streams = AsyncExitStack()
        self._base_s = self._fed_s = 0.0  # where the present live streams begin; sound so far
        self._numbers = SpeakerNumbers()
        self.warnings: list[dict[str, str]] = [*options.warnings]
        """Told at the end, in Metadata: clients fail at messages of a type that they do not know."""

    async def run(self) -> None:
        """Serve it to its end. Raises `ApiError` or `RedlineError` before it is accepted, for what cannot be done."""
        try:
            if self._head is None:
                await self._open()
            await self._socket.accept(
                subprotocol="token" if "token" in self._socket.scope.get("subprotocols", ()) else None,
                headers=[(b"dg-request-id", self._id.encode())],
            )
            tasks = [asyncio.ensure_future(each) for each in (self._receive(), self._send_news())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        except WebSocketDisconnect:
            pass
        except WithdrawnError:
            await self._fail("NET-0000", "the server stops; open the stream again, or another one", 1012)
        except (ApiError, RedlineError) as error:
            if self._socket.application_state is not WebSocketState.CONNECTED:
                raise
            await self._fail("DATA-0000", str(error), 1008)
        except Exception:
            if self._socket.application_state is not WebSocketState.CONNECTED:
                raise
            _log.exception("a stream failed")
            await self._fail("NET-0000", internal_api_error().message, 1011)
        finally:
            await self._streams.aclose()

    async def _receive(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), IDLE_S)
            except asyncio.TimeoutError:
                await self._fail("NET-0001", f"neither audio nor KeepAlive came for {IDLE_S:g} s", 1011)
                return
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                if not data:  # an empty message ends a stream, as CloseStream does
                    return await self._finish()
                await self._sound(data)
                continue
            kind, described = _control(message.get("text") or "")
            if kind == "CloseStream":
                return await self._finish()
            if kind == "Finalize":
                await self._finalize()
            elif kind == "Configure":
                failure = {"code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED", "description": "open another stream for others"}
                await self._send({"type": "ConfigureFailure", "request_id": self._id, **failure})
            elif kind != "KeepAlive":
                await self._send({"type": "Error", "variant": "SchemaError", "description": described, "message": kind})

    async def _sound(self, data: bytes) -> None:
        self._digest.update(data)
        if self._head is not None:
            if self._fed_bytes == 0 and not data.startswith(b"RIFF"[: len(data)]):
                allowed = ", ".join(ENCODINGS)
                message = f"no encoding is given, and the stream is no WAV; give encoding ({allowed}) and sample_rate"
                raise ApiError(400, message, code="Bad Request", param="encoding")
            self._fed_bytes += len(data)
            data = self._head.take(data)
            if self._head.format is None:
                return
            if not self._decoding:
                self._rate, self._channels = self._head.format
                await self._open()
        await self._service.in_thread(lambda: self._push(self._decoded(data)))
        self._service.sound()
        self._news.set()

    def _decoded(self, data: bytes) -> NDArray[Any]:
        """Bytes, cut anywhere -> samples [n, channels]."""
        encoding = self._options.encoding or "linear16"
        data, frame = self._rest + data, ENCODINGS[encoding] * self._channels
        whole = len(data) // frame * frame
        data, self._rest = data[:whole], data[whole:]
        if encoding in ("mulaw", "alaw"):
            samples: NDArray[Any] = decode_g711(data, "mu" if encoding == "mulaw" else "a")
        else:
            samples = np.frombuffer(data, "<i2" if encoding == "linear16" else "<f4")
        return samples.reshape(-1, self._channels)

    def _push(self, samples: NDArray[Any]) -> None:
        assert self._rate is not None
        step = max(1, round(self._rate * _STEP_S))
        for at in range(0, len(samples), step):
            part = samples[at : at + step]
            for channel in self._decoding:
                channel.push(part[:, channel.index : channel.index + 1] if self._options.multichannel else part)
        self._fed_s += len(samples) / self._rate

    async def _open(self) -> None:
        """Live streams for what comes from now on."""
        options, usual = self._options, LiveOptions()
        pause_s = usual.pause_s if options.endpointing_s is None else max(options.endpointing_s, _SHORTEST_PAUSE_S)
        partial_s = usual.partial_s if options.interim_results else math.inf
        apart = self._channels if options.multichannel else 1
        asked: StreamOptions = {
            "sample_rate": self._rate or 0,
            "channels": 1 if options.multichannel else self._channels,
            "words": True,
            "speakers": options.diarize,
            "keywords": options.keywords,
            "digits": options.numerals,
            "live_options": LiveOptions(partial_s=partial_s, pause_s=pause_s),
        }
        if options.language is not None:
            asked["language"] = options.language
        known = {channel.index: channel for channel in self._decoding}
        self._decoding, self._base_s = [], self._fed_s
        for index in range(apart):
            live = await self._streams.enter_async_context(self._service.live(self._news.set, **asked))
            channel = known.get(index) or _Channel(index, apart, self, options)
            channel.begin(live, self._base_s)
            self._decoding.append(channel)

    async def _send_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            async with self._turn:
                for channel in self._decoding:
                    for message in channel.messages(channel.live.poll()):
                        await self._send(message)

    async def _end(self, *, finalized: bool) -> None:
        """The last text of what came so far."""
        async with self._turn:
            for channel in self._decoding:
                events = await self._service.in_thread(channel.live.close)
                for message in channel.messages(events, finalized=finalized):
                    await self._send(message)
            await self._streams.aclose()

    async def _finalize(self) -> None:
        if self._decoding:
            await self._end(finalized=True)
            await self._open()

    async def _finish(self) -> None:
        if self._rest:
            message = f"the stream ends within a sample; its last {len(self._rest)} bytes are left out"
            self.warnings.append({"type": "truncated", "message": message})
        await self._end(finalized=False)
        count = len(self._decoding) or 1
        about = listen_metadata(
            self._service.model.name,
            self._options,
            request_id=self._id,
            sha256=self._digest.hexdigest(),
            channels=count,
        )
        metadata = {**about, "duration": round(self._fed_s, 3), "warnings": self.warnings}
        await self._send({"type": "Metadata", **metadata})
        await self._socket.close(1000)

    async def _fail(self, code: str, description: str, status: int) -> None:
        await self._send({"type": "Error", "variant": code, "description": description})
        await self._socket.close(status, code)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message, ensure_ascii=False))

    def result(
        self, channel: _Channel, event: LiveEvent, segment: Segment | None, *, finalized: bool = False
    ) -> dict[str, Any]:
        """A Results message; without a segment its text may still change."""
        name, options = self._service.model.name, self._options
        alternative: dict[str, Any] = {"transcript": listen_text(event.text, options), "confidence": None, "words": []}
        if segment is not None:
            alternative = listen_alternative([segment], options, self._numbers)
        start, end = event.start or 0.0, event.end or 0.0
        return {
            "type": "Results",
            "channel_index": [channel.index, channel.count],
            "start": round(channel.base_s + start, 3),
            "duration": round(end - start, 3),
            "is_final": segment is not None,
            "speech_final": segment is not None and event.pause and options.tells_ends,
            "from_finalize": finalized and segment is not None,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self._id,
                "model_info": {"name": name, "version": "1", "arch": name},
                "model_uuid": name,
            },
        }


class _Channel:
    """One channel that is heard apart: its live stream, and what was told of it."""

    live: LiveStream

    def __init__(self, index: int, count: int, owner: ListenStream, options: ListenOptions) -> None:
        self.index, self.count, self.base_s = index, count, 0.0
        self._owner, self._options = owner, options
        self._starts: list[float] = []  # of speech, to be told
        self._is_speaking = False
        self._windows = 0  # that are known
        self._last_end: float | None = None  # of a word behind which no end of an utterance was told

    def begin(self, live: LiveStream, base_s: float) -> None:
        """What comes from now on goes to another live stream, whose times count from `base_s`."""
        self.live, self.base_s, self._is_speaking, self._windows = live, base_s, False, 0

    def push(self, sound: NDArray[Any]) -> None:
        """Some tenth of a second, in a thread."""
        self.live.push(sound)
        speech = self.live.progress(self._windows).open_window
        if speech is not None and not self._is_speaking:
            self._starts.append(round(self.base_s + speech.start_s, 3))
        self._is_speaking = speech is not None

    def _is_awaited(self) -> bool:
        """Whether a window has no text yet."""
        progress = self.live.progress(self._windows)
        self._windows += len(progress.windows)
        return progress.answered < self._windows

    def messages(self, events: list[LiveEvent], *, finalized: bool = False) -> list[dict[str, Any]]:
        """What is to be told of new events, in order."""
        messages: list[dict[str, Any]] = []
        starts, self._starts = self._starts, []
        if self._options.vad_events:
            messages += [{"type": "SpeechStarted", "channel": [self.index], "timestamp": start} for start in starts]
        for event in events:
            if event.kind == "warning":
                self._owner.warnings.append({"type": event.code or "warning", "message": event.text})
            elif event.kind == "partial":
                if self._options.interim_results and event.text:
                    messages.append(self._owner.result(self, event, None))
            else:
                messages += self._committed(event, finalized)
        if not self.live.closed and not self._is_speaking and not self._is_awaited():
            messages += self._ended(self.base_s + self.live.seconds)
        return messages

    def _committed(self, event: LiveEvent, finalized: bool) -> list[dict[str, Any]]:
        assert event.segment is not None
        words = tuple(self._moved(word) for word in event.words)
        segment = Segment(0, 0.0, 0.0, event.text, confidence=event.confidence, words=words)
        messages = self._ended(words[0].start) if words else []
        messages.append(self._owner.result(self, event, segment, finalized=finalized))
        if event.text:
            self._last_end = words[-1].end if words else round(self.base_s + (event.end or 0.0), 3)
        return messages

    def _moved(self, word: Word) -> Word:
        start, end = round(self.base_s + word.start, 3), round(self.base_s + word.end, 3)
        return Word(start, end, word.text, word.confidence, word.speaker)

    def _ended(self, now_s: float) -> list[dict[str, Any]]:
        """The end of an utterance, once no word came for `utterance_end_ms`."""
        wait_s, last = self._options.utterance_end_s, self._last_end
        if wait_s is None or last is None or now_s - last < wait_s:
            return []
        self._last_end = None
        return [{"type": "UtteranceEnd", "channel": [self.index, self.count], "last_word_end": last}]


def _control(text: str) -> tuple[str, str]:
    """The type of a control message, or the text itself and what is wrong with it."""
    try:
        values = json.loads(text)
    except ValueError:
        return text[:200], "the message is no JSON; text messages are control messages, audio is sent as binary ones"
    kind = values.get("type") if isinstance(values, dict) else None
    if kind in ("KeepAlive", "Finalize", "CloseStream", "Configure"):
        return kind, ""
    return text[:200], "type is none of KeepAlive, Finalize, CloseStream, Configure"
