"""The tokenizer: text to ids and back, on top of `tokenizers`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from redline.errors import CheckpointError, DataError

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not yet a whole character."""


class Tokenizer:
    """A `tokenizer.json`: user text never becomes a special id, and special ids never become text."""

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        # A copy, because the switch below would also change the caller's tokenizer.
        self._core = tokenizers.Tokenizer.from_str(core.to_str())
        self._core.encode_special_tokens = True
        self._core.no_truncation()
        self._core.no_padding()

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`; raises `CheckpointError` when it is missing or not a tokenizer."""
        try:
            return cls(tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise CheckpointError(f"{path}: the tokenizer cannot be read ({error.strerror})") from error
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer.json of the tokenizers library ({error})") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return self._core.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens by name."""
        return {token.content: id for id, token in self._core.get_added_tokens_decoder().items() if token.special}

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens; `encode` never returns one and `decode` leaves them out."""
        return frozenset(self.special_tokens.values())

    def id_of(self, token: str) -> int | None:
        """The id of one token, special or not; None when there is no such token."""
        return self._core.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's name in it is plain text like any other."""
        ids: list[int] = self._core.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores; raises `DataError` for a single one."""
        if isinstance(texts, str):
            raise DataError(f"texts is {texts[:32]!r}, a single text; give a list of texts, or take encode")
        return [row.ids for row in self._core.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ids left out."""
        return self._core.decode(list(ids), skip_special_tokens=True)

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
