"""A lane: slots of one size, in which texts are decoded at once, of which each may join and leave between two steps.

n slots in use, J that texts join, B texts of a beam, S places of a slot, C choices for the next token, V tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redline.decoding import speculative
from redline.decoding.generate import GenerateOptions, candidates, token_choices
from redline.decoding.speculative import SpeculativeOptions
from redline.engine.launch import Launch, in_pinned_memory
from redline.models.ar import ArModel
from redline.models.granite import KVCache
from redline.models.invariant import KEYS, LAUNCH_ROWS
from redline.recognizer.ar_batch import Decoding

GRAPH_ROWS = (8, 16, 32, 64, 128, LAUNCH_ROWS)
"""Numbers of slots for which a step is captured on CUDA: all of them take the same kernels, see `invariant.linear`."""


@dataclass(frozen=True)
class DecoderOptions:
    """How many texts are decoded at once."""

    rows: int = 32
    """Slots of a lane, if its cache is not larger than `cache_bytes` then."""
    reserved: int = 4
    """Slots more, for who goes first."""
    lag: int = 0
    """Steps that the host is behind."""
    cache_bytes: int = 2**31

    def __post_init__(self) -> None:
        if self.rows < 1 or self.reserved < 0 or self.lag < 0:
            raise ValueError(f"{self}: a lane needs a row, and nothing less than none is reserved or waited for")

    @classmethod
    def for_device(cls, device: torch.device, beams: int) -> DecoderOptions:
        """On CPUs each row costs time; on accelerators a product has as many rows as it has, whoever is there."""
        if device.type != "cuda":
            return cls()
        rows = max(1, LAUNCH_ROWS // beams)
        return cls(rows - rows // 8, rows // 8, lag=2, cache_bytes=torch.cuda.mem_get_info(device)[0] // 4)


class _Report:
    """The choices of one step, [n, B, 1 + 2C], on their way to the host, and whose they are."""

    def __init__(self, choices: Tensor, texts: Sequence[Decoding | None]) -> None:
        self.texts, self._choices, self._event = texts, choices, None
        if choices.device.type == "cuda":
            self._choices = torch.empty(choices.shape, dtype=choices.dtype, pin_memory=True)
            self._choices.copy_(choices, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[list[list[float]]]:
        """Waits for the device until this step is done, not for those behind it."""
        if self._event is not None:
            self._event.synchronize()
        rows: list[list[list[float]]] = self._choices.tolist()
        return rows


class Lane:
    """Slots of one size: a key-value cache, and on the device the state of the text in each slot."""

    def __init__(self, model: ArModel, options: GenerateOptions, limits: DecoderOptions, places: int) -> None:
        self.model, self.options, self.lag, self.S = model, options, limits.lag, places
        config, weight, B = model.config.text, model.language_model.model.embed_tokens.weight, options.beams
        bytes_each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * weight.element_size()
        most = max(1, limits.cache_bytes // (bytes_each * places))
        self.rows = min(limits.rows, most)
        slots = min(self.rows + limits.reserved, max(most, self.rows))
        self.device = weight.device
        self.cache = KVCache(config, slots, places, weight)
        self.texts: list[Decoding | None] = [None] * slots
        self._written = [0] * slots  # places that may hold what a text has left behind
        self._reports: deque[_Report] = deque()
        self._tokens = torch.zeros(slots, B, dtype=torch.long, device=self.device)  # chosen last
        # In double precision, as a search adds up; MPS has none.
        wide = torch.device("cpu") if self.device.type == "mps" else self.device
        self._totals = torch.zeros(slots, B, dtype=torch.float64, device=wide)
        self._position = torch.zeros(slots, dtype=torch.long, device=self.device)  # of the next token
        self._place = torch.zeros(slots, dtype=torch.long, device=self.device)
        self._visible = torch.zeros(slots, B, places, dtype=torch.bool, device=self.device)
        self._draws = torch.zeros(slots, device=self.device)
        self._launches: dict[int, Launch] = {}
        if self.device.type == "cuda":  # captured while nobody is in a slot, because that runs them
            for n in sorted({min(rows, slots) for rows in (*GRAPH_ROWS, slots)}, reverse=True):
                self._launches[n] = self.launch(n)

    @property
    def free(self) -> list[int]:
        """Slots that nobody is in, the lowest first: a step computes all slots up to the last that is taken."""
        return [slot for slot, text in enumerate(self.texts) if text is None]

    @property
    def used(self) -> int:
        """Slots up to the last that is taken."""
        return max((slot for slot, text in enumerate(self.texts) if text is not None), default=-1) + 1

    def launch(self, n: int) -> Launch:
        """A step of the first n slots, of which all places are looked at, as one captured graph where there is CUDA."""
        return Launch(lambda _: (self._advance(n, self.S),), {"draws": self._draws[:n]})

    def join(self, texts: Sequence[Decoding], drafts: SpeculativeOptions | None) -> list[Decoding]:
        """Prefill texts into free slots and choose the first token of each; returns those that have ended."""
        slots = self.free[: len(texts)]
        at = torch.tensor(slots).to(self.device, non_blocking=True)
        for slot in slots:  # a number that is none would be seen through any mask
            for part in (self.cache.keys, self.cache.values):
                part[:, slot, :, : self._written[slot]] = 0.0
        prompts = [[*text.prompt, *text.draft] for text in texts]
        audio = nn.utils.rnn.pad_sequence([text.audio for text in texts], batch_first=True)
        if self.device.type == "cuda":
            for text in texts:  # computed in another stream, whose memory it is
                text.audio.record_stream(torch.cuda.current_stream(self.device))
        longest = max(map(len, prompts))
        hidden = self.model.prefill(prompts, audio, self.cache, at)  # [J, L, H]
        lengths, logits = verified(self.model, texts, hidden, drafts)
        sizes = torch.tensor(lengths).to(self.device, non_blocking=True)
        self._position[at] = self._place[at] = sizes
        self._visible[at] = (torch.arange(self.S, device=self.device) < sizes[:, None])[:, None]
        self._totals[slots] = -math.inf
        self._totals[slots, 0] = 0.0
        for slot, text in zip(slots, texts, strict=True):
            self.texts[slot], self._written[slot] = text, longest
            for live in text.search.live:
                live.place = 0
        if self.options.temperature:
            self._draws[at] = self._drawn(slots)
        choices = self._choose(at, logits[:, None].expand(-1, self.options.beams, -1))
        self._reports.append(_Report(choices, texts))
        return self._left() + self._grown()

    def step(self) -> list[Decoding]:
        """One token more for every text; returns those that have ended."""
        n = next((rows for rows in sorted(self._launches) if rows >= self.used), self.used)
        self._written[:n] = [min(self.S, written + self.options.beams) for written in self._written[:n]]
        if self.options.temperature:
            self._draws[:n] = self._drawn(range(n))
        seen = max(written for written, text in zip(self._written, self.texts, strict=True) if text is not None)
        launch = self._launches.get(n)
        choices = launch({})[0] if launch is not None else self._advance(n, seen + -seen % KEYS)
        self._reports.append(_Report(choices, self.texts[:n]))
        return self._grown()

    def leave(self, text: Decoding) -> None:
        """Give the slot of a text back."""
        self.texts = [None if each is text else each for each in self.texts]
        if not any(self.texts):
            self._reports.clear()

    def _grown(self) -> list[Decoding]:
        """Let searches grow by what is known on the host; returns the texts that ended by it."""
        ended: list[Decoding] = []
        while len(self._reports) > self.lag:
            report = self._reports.popleft()
            for text, rows in zip(report.texts, report.read(), strict=True):
                if text is not None and text.search.live:
                    text.search.grow(dict(enumerate(token_choices(rows))))
                    for place, live in enumerate(text.search.live):
                        live.place = place
            ended += self._left()
        return ended

    def _left(self) -> list[Decoding]:
        ended = [text for text in self.texts if text is not None and not text.search.live]
        for text in ended:
            self.leave(text)
        return ended

    def _drawn(self, slots: Sequence[int]) -> Tensor:
        """A number from [0, 1) for each slot, by the text's own seed."""
        texts = [self.texts[slot] for slot in slots]
        draws = torch.tensor([0.0 if text is None else text.search.random.random() for text in texts])
        return in_pinned_memory(draws, self.device).to(self.device, non_blocking=True)

    def _advance(self, n: int, seen: int) -> Tensor:
        """Read the tokens chosen last, of which the first `seen` places are looked at, and choose the next."""
        B, lm = self.options.beams, self.model.language_model
        # A slot that nobody is in goes on like the others, and must not leave its places.
        places = (self._place[:n, None] + torch.arange(B, device=self.device)).clamp(max=self.S - 1)  # [n, B]
        self._visible[:n].scatter_(2, places[..., None], True)
        positions = self._position[:n, None].expand(n, B)
        visible = self._visible[:n, :, :seen]
        hidden = lm.advance(lm.embed(self._tokens[:n]), positions, places, visible, self.cache)
        self._position[:n] += 1
        self._place[:n] += B
        return self._choose(slice(0, n), lm.logits(hidden))

    def _choose(self, slots: Tensor | slice, logits: Tensor) -> Tensor:
        """Choose the next tokens of some slots by logits [n, B, V] -> all choices, [n, B, 1 + 2C].

        As `Search.grow` does, which hears of it later: texts go on with the best sums of log probabilities, those that
        end take no place.
        """
        B = self.options.beams
        draws = self._draws[slots][:, None] if self.options.temperature else None
        ids, log_probs, finite = candidates(logits, self.options, draws)
        if B == 1:
            self._tokens[slots] = ids[..., 0]
        else:
            own = slots.to(self._totals.device) if isinstance(slots, Tensor) else slots
            sums = self._totals[own][..., None] + log_probs.to(self._totals.device)
            ends = torch.stack([ids == end for end in self.options.eos_ids]).any(dim=0).to(sums.device)
            sums = sums.masked_fill(ends | sums.isnan(), -math.inf)
            best, at = sums.flatten(1).sort(dim=-1, descending=True, stable=True)
            self._totals[own], at = best[:, :B], at[:, :B].to(ids.device)
            self._tokens[slots] = ids.flatten(1).gather(1, at)
            parents = (at // ids.shape[-1])[..., None].expand(-1, -1, self.S)
            self._visible[slots] = self._visible[slots].gather(1, parents)
        return torch.cat((finite, ids, log_probs), dim=-1)


def verified(
    model: ArModel, texts: Sequence[Decoding], hidden: Tensor, options: SpeculativeOptions | None
) -> tuple[list[int], Tensor]:
    """Verify drafts inside the prefill that has read them, with one wait for the device.

    Hidden states [J, L, H] -> how many positions of each text stand, and the logits [J, V] behind them.
    """
    rows, head = range(len(texts)), model.language_model.logits
    last = [len(text.prompt) - 1 for text in texts]  # what is there predicts the first token of a draft
    judged = [
        speculative.judge(
            head(hidden[row, last[row] : last[row] + len(text.draft)]),
            torch.tensor(text.draft, device=hidden.device),
            text.search.options,
        )
        for row, text in enumerate(texts)
        if text.draft
    ]
    judgements = iter(torch.cat(judged).tolist() if judged else ())
    for row, text in enumerate(texts):
        if text.draft and options is not None:
            own = [next(judgements) for _ in text.draft]
            count = speculative.verify(text.search, text.draft, own, options)
            last[row] += count
            text.accepted = round(count / len(text.draft), 3)
    return [at + 1 for at in last], head(hidden[rows, last])
