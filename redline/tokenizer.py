"""The tokenizer: text to ids and back, on top of `tokenizers`.

A `tokenizer.json` is foreign too: what it may do to a text is on a list (`TEXT_PARTS`), because a regular expression
of its own can take for ever, and a replacement can make a text grow without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from redline import untrusted
from redline.errors import CheckpointError, DataError

MAX_BYTES = 16 << 20
"""Bytes of a `tokenizer.json`; that of 100,352 tokens has about 7 million."""
MAX_ID = 1 << 22
MAX_PARTS = 16
TEXT_PARTS = (
    "BPEDecoder BertNormalizer BertPreTokenizer ByteFallback ByteLevel CharDelimiterSplit CTC Digits Fuse Lowercase "
    "Metaspace NFC NFD NFKC NFKD Nmt Precompiled Prepend Punctuation Replace Sequence Split Strip StripAccents "
    "UnicodeScripts Whitespace WhitespaceSplit WordPiece"
)
"""Normalizers, pre-tokenizers and decoders whose work grows with the text and no faster."""
MAX_PATTERN = 1000
MAX_LOOPS = 3
"""Unbounded repetitions in one alternative of a regular expression; byte-level tokenizers have up to 2."""
MAX_COUNT = 9
"""Characters of a counted repetition, such as {1,3}."""
PATTERN = re.compile(
    r"(?P<open>\((?:\?[a-zA-Z-]*[:=!>]|\?<[=!])?)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<loop>(?:[*+]|\{\d*,\})[+?]?)|(?P<some>(?:\?|\{\d*,\d+\})[+?]?)|(?P<times>\{\d+\})"
    r"|(?P<back>\\[1-9kg])|\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|.",
    re.DOTALL,
)
PADDED = (8, 16, 32, 64, 128, 256, 512)
"""Vocabularies are filled up to a multiple of one of these."""
AUDIO = "<|audio|>"
TRIAL = "a b, \u00e9\u6f22\U0001f600\n"
"""A tokenizer must be able to write any text: letters of one, two, three and four bytes."""
UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not yet a whole character."""


class Tokenizer:
    """A `tokenizer.json`: user text never becomes a special id, and special ids never become text."""

    def __init__(self, core: tokenizers.Tokenizer, origin: str | Path = "the tokenizer") -> None:
        self.origin = origin
        # A copy, because the switch below would also change the caller's tokenizer.
        self._core = tokenizers.Tokenizer.from_str(core.to_str())
        self._core.encode_special_tokens = True
        self._core.no_truncation()
        self._core.no_padding()

    @classmethod
    def from_file(cls, path: str | Path, placeholder: int | None = None) -> Tokenizer:
        """Read a `tokenizer.json`; raises `CheckpointError` when it is missing or not a tokenizer.

        `placeholder` is the id of `<|audio|>`, for files that end before it.
        """
        text = untrusted.read_checkpoint_text(Path(path), MAX_BYTES)
        if reason := _harm(untrusted.parse_json_object(text, path)):
            raise CheckpointError(f"{path}: {reason}; take the tokenizer that was published with the model")
        try:
            core = tokenizers.Tokenizer.from_str(text)
            if placeholder == core.get_vocab_size(with_added_tokens=True) and core.token_to_id(AUDIO) is None:
                core.add_special_tokens([AUDIO])
            tokenizer = cls(core, path)
        except BaseException as error:  # tokenizers raises plain Exception, and a panic is not even that
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise CheckpointError(f"{path}: not a tokenizer.json of the tokenizers library ({reason})") from error
        tokenizer.encode(TRIAL)
        tokenizer.decode(range(tokenizer.vocab_size))
        return tokenizer

    def check(self, vocab_size: int, control: Sequence[tuple[str, int]], placeholder: int | None = None) -> None:
        """Whether this is the tokenizer of a model; raises `CheckpointError` where its ids mean something else.

        `control` are ids that are never part of a text, with the key of the config that says so; `placeholder` is that
        of `<|audio|>`. Rows of the vocabulary without a token are padding: as many as fill it up to a multiple of a
        power of two.
        """
        ids, special = self._core.get_vocab(with_added_tokens=True), self.special_tokens
        highest, token = max(((id, token) for token, id in ids.items() if token not in special), default=(0, ""))
        known = len({id for id in (*ids.values(), *(id for _, id in control)) if id < vocab_size})
        reason = None
        if highest >= vocab_size:
            reason = f"it writes ids up to {highest} ({token!r:.40}), and the model has {vocab_size} tokens"
        elif known < vocab_size and not any(-(-known // step) * step == vocab_size for step in PADDED):
            reason = f"it knows {known} of the model's {vocab_size} tokens, and the rest is more than padding"
        elif placeholder is not None and special.get(AUDIO, placeholder) != placeholder:
            reason = f"audio_token_index is {placeholder}, but its {AUDIO} is {special[AUDIO]}"
        for key, id in control:
            name = self._core.id_to_token(id)
            if reason is None and name is not None and name not in special:
                reason = f"{key} is {id}, which is {name!r:.40}, a part of texts; a control token is needed"
        if reason:
            raise CheckpointError(f"{self.origin}: foreign to the model: {reason}; take the one published with it")

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return self._core.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens by name; `encode` never gives their ids and `decode` leaves them out."""
        return {token.content: id for id, token in self._core.get_added_tokens_decoder().items() if token.special}

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    def id_of(self, token: str) -> int | None:
        """The id of one token, special or not; None when there is no such token."""
        return self._core.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's name in it is plain text like any other."""
        with self._failures():
            ids: list[int] = self._core.encode(text, add_special_tokens=False).ids
            return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores; raises `DataError` for a single one."""
        if isinstance(texts, str):
            raise DataError(f"texts is {texts[:32]!r}, a single text; give a list of texts, or take encode")
        with self._failures():
            return [row.ids for row in self._core.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ids left out."""
        with self._failures():
            return self._core.decode(list(ids), skip_special_tokens=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """`CheckpointError` where the library fails on a text: with a plain `Exception`, or a panic, not even that."""
        try:
            yield
        except BaseException as error:
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(f"{self.origin}: the tokenizer cannot be used ({str(error)[:200]})") from error

    @cached_property
    def word_starts(self) -> list[bool]:
        """Whether each id begins a word."""
        return [self.decode([id])[:1].isspace() for id in range(self.vocab_size)]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One string per id; together they are exactly `decode(ids)`.

        A character whose bytes are spread over several tokens is written by the token that completes it.
        """
        whole = self.decode(ids)
        done = 0
        pieces = []
        for count in range(1, len(ids) + 1):
            start = whole if count == len(ids) else self.decode(ids[:count])
            finished = count == len(ids) or (not start.endswith(UNFINISHED) and whole.startswith(start))
            end = max(done, len(start)) if finished else done
            pieces.append(whole[done:end])
            done = end
        return pieces


def _harm(values: Mapping[str, Any]) -> str | None:
    """Why a `tokenizer.json` must not be used: it could take for ever, differ from time to time, or end the library."""
    model = values.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("vocab"), (Mapping, list)):
        return "not a tokenizer.json: it has no model with a vocab"
    vocab = model["vocab"]
    if isinstance(vocab, Mapping):
        ids = [id for id in vocab.values() if type(id) is int and 0 <= id < MAX_ID]
        if len(set(ids)) != len(vocab):
            return f"its vocab gives some of its {len(vocab)} tokens an id that is none, or that another has too"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key) and (key == "dropout" or model.get("type") == "BPE"):
            return f"its model has {key} {model[key]!r:.40}, which is not supported"
    for what in ("normalizer", "pre_tokenizer", "decoder"):
        parts = list(_inner_parts(values.get(what) or {}))
        if len(parts) > MAX_PARTS:
            return f"its {what} has {len(parts)} parts; allowed are {MAX_PARTS}"
        for settings in parts:
            if settings.get("type") not in TEXT_PARTS.split():
                return f"its {what} has a part of type {settings.get('type')!r:.40}, which is not supported"
            if reason := _growth(settings):
                return f"its {what} {reason}"
    return None


def _inner_parts(settings: Any) -> Iterator[Mapping[str, Any]]:
    """A normalizer or the like, and those in it, at any depth."""
    if isinstance(settings, Mapping) and settings:
        yield settings
        for inner in settings.values():
            for part in inner if isinstance(inner, list) else ():
                if isinstance(part, Mapping) and "type" in part:
                    yield from _inner_parts(part)


def _growth(settings: Mapping[str, Any]) -> str | None:
    """What a part with a pattern or an addition of its own would do to a text."""
    pattern = settings.get("pattern")
    regex, literal = (pattern.get("Regex"), pattern.get("String", "")) if isinstance(pattern, Mapping) else (None, "")
    if regex is not None and not (isinstance(regex, str) and len(regex) <= MAX_PATTERN and _is_linear(regex)):
        return f"has the regular expression {regex!r:.80}, which may take for ever"
    if settings.get("type") == "Replace" and len(str(settings.get("content", ""))) > max(1, len(literal)):
        return f"replaces {literal!r:.40} by something longer"
    if len(str(settings.get("prepend", ""))) > MAX_PARTS:
        return "puts a long text before every text"
    return None


def _is_linear(pattern: str) -> bool:
    """Whether a regular expression ends soon on every text: nothing that has a choice is repeated, loops are few."""
    outer: list[tuple[int, bool]] = []  # of each open group: loops in the alternative it stands in, and choices so far
    loops, chooses, closed = 0, False, False  # closed: whether the group that has just ended had choices in it
    before = None
    for match in PATTERN.finditer(pattern):
        kind = match.lastgroup
        if kind == "back" or (kind == "loop" and closed):
            return False
        # Counted repetitions are written out when a pattern is read, those of groups again and again.
        if match[0][0] == "{" and (before in ("close", "times", "some", "loop") or len(match[0]) > MAX_COUNT):
            return False
        before, closed = kind, False
        if kind == "open":
            outer.append((loops, chooses))
            loops, chooses = 0, False
        elif kind == "close":
            if not outer:
                return False
            closed, (loops_outside, chooses_outside) = chooses, outer.pop()
            loops, chooses = loops + loops_outside, chooses or chooses_outside
        elif kind == "or":
            loops, chooses = 0, True
        elif kind in ("loop", "some"):
            loops, chooses = loops + (kind == "loop"), True
        if loops > MAX_LOOPS:
            return False
    return not outer
