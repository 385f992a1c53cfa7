"""Continuous batching: texts join and leave a running decode loop between two of its steps.

A text that joins takes a free slot of a key-value cache of fixed size and is prefilled there, its draft verified in the
same pass; one that ends gives its slot back. Nothing is copied when either happens, nor when a beam is reordered: the
texts of a beam share one slot as the branches of a tree, and only which places each of them sees changes.

The tokens of a step feed the next one on the device. The host reads them `lag` steps later, decides with the `Search`
of each text whether it has ended, and drops what was computed too much. So a device never waits for the host.
`redline.decoding.generate.decode` is the plain twin, from which nobody leaves before its end.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import torch

from redline.decoding.generate import GenerateOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.engine.crew import run_launches
from redline.engine.lane import DecoderOptions, Lane
from redline.models.ar import ArModel
from redline.models.invariant import KEYS
from redline.recognizer.ar import ArRecognizer
from redline.recognizer.ar_batch import Decoding


class ContinuousDecoder:
    """The one owner of who is in the decode step: those who wait for a slot, and those who are in one.

    Texts of a size share a lane. Who waits joins, in its order, when a quarter of the lane's slots are free, because a
    prefill of one text takes about as long as one of several; at once if nobody is in it, or if it goes first.
    """

    def __init__(
        self,
        model: ArModel,
        options: GenerateOptions,
        drafts: SpeculativeOptions | None = None,
        limits: DecoderOptions | None = None,
    ) -> None:
        self.model, self.options, self.drafts = model, options, drafts
        device = model.language_model.model.embed_tokens.weight.device
        self.limits = limits or DecoderOptions.for_device(device, options.beams)
        self.lanes: dict[int, Lane] = {}
        self.steps = self.rows = 0
        """Steps so far, and the texts that were in them, added up."""
        self._waiting: dict[Decoding, int] = {}

    @property
    def count(self) -> int:
        """How many wait or write."""
        return len(self._waiting) + sum(text is not None for lane in self.lanes.values() for text in lane.texts)

    @property
    def busy(self) -> bool:
        """Whether anybody waits or writes."""
        return bool(self._waiting) or any(lane.used for lane in self.lanes.values())

    def wants(self, priority: int) -> bool:
        """Whether nobody waits who goes before new texts of this priority."""
        return all(other < priority for other in self._waiting.values())

    def join(self, texts: Sequence[Decoding], priority: int = 0) -> None:
        """Let texts into the next steps; the higher priority goes first."""
        self._waiting.update(dict.fromkeys(texts, priority))

    def leave(self, text: Decoding) -> None:
        """Forget a text."""
        self._waiting.pop(text, None)
        for lane in self.lanes.values():
            lane.leave(text)

    @torch.inference_mode()
    def step(self) -> list[Decoding]:
        """Let in whom there is room for, and write one token more of each text; returns the texts that have ended."""
        ended = [text for text in self._waiting if not text.search.live]  # with nothing to write
        for text in ended:
            self.leave(text)
        ended += self._let_in()
        for lane in self.lanes.values():
            if lane.used:
                self.steps += 1
                self.rows += sum(text is not None for text in lane.texts)
                ended += lane.step()
        return ended

    def run(self, steps: int) -> list[Decoding]:
        """So many steps, or fewer, until somebody leaves; returns who does."""
        return next((ended for _ in range(steps) if self.busy and (ended := self.step())), [])

    def write(self, texts: Sequence[Decoding]) -> None:
        """Write texts to their end, among those that are there."""
        self.join(texts)
        while any(text.search.live for text in texts):
            self.step()

    def _let_in(self) -> list[Decoding]:
        sizes: dict[int, list[Decoding]] = {}
        for text in sorted(self._waiting, key=lambda text: -self._waiting[text]):  # stable: first come, first served
            sizes.setdefault(self._places(text), []).append(text)
        ended: list[Decoding] = []
        for size, texts in sizes.items():
            if size not in self.lanes:
                self.lanes[size] = Lane(self.model, self.options, self.limits, size)
            lane = self.lanes[size]
            first = [text for text in texts if self._waiting[text] > 0]
            free, reserved = len(lane.free), len(lane.texts) - lane.rows
            room = free - reserved if 4 * (free - reserved) >= lane.rows else 0
            texts = texts[: max(min(len(first), free), room)]
            if texts:
                ended += lane.join(texts, self.drafts)
                for text in texts:
                    del self._waiting[text]
        return ended

    def _places(self, text: Decoding) -> int:
        """The size of the lane for a text: its prompt with the draft, and all that it may write."""
        prompt = len(text.prompt)
        places = max(prompt + len(text.draft), prompt + self.options.beams * text.search.budget, 1)
        return KEYS << math.ceil(math.log2(max(1.0, places / KEYS)))


class SideBySide:
    """Decoders that each have threads of their own, as launches do on CPUs: a step is too small to be shared."""

    def __init__(self, decoders: Sequence[ContinuousDecoder]) -> None:
        self.decoders = decoders

    @property
    def busy(self) -> bool:
        """Whether anybody waits or writes."""
        return any(decoder.busy for decoder in self.decoders)

    def wants(self, priority: int) -> bool:
        """Whether there is a decoder where nobody waits who goes before new texts of this priority."""
        return any(decoder.wants(priority) for decoder in self.decoders)

    def join(self, texts: Sequence[Decoding], priority: int = 0) -> None:
        """Let each text into the decoder that has the fewest."""
        for text in texts:
            min(self.decoders, key=lambda decoder: decoder.count).join([text], priority)

    def leave(self, text: Decoding) -> None:
        """Forget a text."""
        for decoder in self.decoders:
            decoder.leave(text)

    def run(self, steps: int) -> list[Decoding]:
        """So many steps of each decoder, or fewer, until somebody leaves it; returns who does."""
        busy, ended = [decoder for decoder in self.decoders if decoder.busy], list[Decoding]()
        run_launches(lambda number: ended.extend(busy[number].run(steps)), len(busy))
        return ended


class Decoders:
    """The decoders of a recognizer: one for each caller at a time, because callers may have threads of their own.

    On accelerators one that is given back keeps its cache, and its graphs, for the next caller.
    """

    def __init__(self, recognizer: ArRecognizer, limits: DecoderOptions | None = None) -> None:
        self._recognizer, self.limits = weakref.ref(recognizer), limits  # who owns this: weights go with their owner
        self._idle: deque[ContinuousDecoder] = deque()

    @property
    def recognizer(self) -> ArRecognizer:
        """Whose decoders they are."""
        recognizer = self._recognizer()
        assert recognizer is not None
        return recognizer

    def take(self, workers: int = 1) -> ContinuousDecoder | SideBySide:
        """A decoder that nobody is in, for what the recognizer is asked for now; on CPUs so many at once."""
        made_of = self.recognizer.options, self.recognizer.drafts
        while self._idle:
            try:
                decoder = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if (decoder.options, decoder.drafts) == made_of:
                return decoder
        count = min(workers, torch.get_num_threads()) if self.recognizer.device.type == "cpu" else 1
        decoders = [ContinuousDecoder(self.recognizer.model, *made_of, self.limits) for _ in range(count)]
        return SideBySide(decoders) if count > 1 else decoders[0]

    def give(self, decoder: ContinuousDecoder | SideBySide) -> None:
        """Give an idle decoder back."""
        is_kept = self.recognizer.device.type == "cuda" and not self._idle
        if is_kept and isinstance(decoder, ContinuousDecoder) and not decoder.busy:
            self._idle.append(decoder)

    def __call__(self, texts: Sequence[Decoding]) -> None:
        """Write these texts, all until their end."""
        decoder = self.take()
        decoder.join(texts)
        while decoder.busy:
            decoder.run(1)
        self.give(decoder)
