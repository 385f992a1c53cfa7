"""Keywords: names and terms to expect, how they are said, how much they count, and where they stand in a text.

cortado                     a phrase
Siobhan => shivawn          written Siobhan where shivawn is heard; several spellings have | between them
Nguyen => win | new yen :2  drawn towards twice as much
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from redline.errors import UnsupportedTaskError

ARROW, OR = "=>", "|"
MAX_WEIGHT = 10.0
_WEIGHT = re.compile(r"\s+:(?P<weight>\S*)$")
_FIRST = re.compile(r"\w+|.", re.DOTALL)
"""What a phrase begins with: a run of letters, or one character that is none. A whole word begins where one does."""


@dataclass(frozen=True)
class Keyword:
    """A phrase as it is to be written, spellings of how it is said, and how much it counts (1 is as usual)."""

    phrase: str
    spoken: tuple[str, ...] = ()
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Keyword:
        """Read `PHRASE [=> SPOKEN [| SPOKEN ...]] [:WEIGHT]`; raises `UnsupportedTaskError` for what is none."""
        weight, written = 1.0, text.strip()
        if given := _WEIGHT.search(written):
            try:
                weight = float(given["weight"])
            except ValueError:
                weight = 0.0
            if not 0.0 < weight <= MAX_WEIGHT:
                raise UnsupportedTaskError(
                    f"the keyword {text!r:.80} has the weight {given['weight']!r:.20}; allowed are numbers above 0 up "
                    f"to {MAX_WEIGHT:g}, such as :2"
                )
            written = written[: given.start()]
        phrase, *spellings = (part.strip() for part in written.split(ARROW))
        spoken = tuple(part.strip() for each in spellings for part in each.split(OR))
        if len(spellings) > 1 or (spellings and not (phrase and all(spoken))):
            raise UnsupportedTaskError(
                f"the keyword {text!r:.80} cannot be read; write PHRASE {ARROW} HOW IT IS SAID, with {OR} between two"
            )
        return cls(phrase, spoken, weight)


@dataclass(frozen=True)
class Match:
    """Where [start, end) one spelling of a keyword stands in a text."""

    start: int
    end: int
    phrase: str
    is_spoken: bool
    """Whether it is the spelling of how it is said."""


class KeywordIndex:
    """Keywords, found in any text at the cost of its length, however many they are."""

    def __init__(self, keywords: Sequence[str]) -> None:
        """Keywords as users write them; raises `UnsupportedTaskError` for what is none."""
        self.keywords = tuple(map(Keyword.parse, keywords))
        self._forms: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
        for keyword in self.keywords:
            phrase = " ".join(keyword.phrase.split())
            spellings = dict.fromkeys(" ".join(each.split()) for each in keyword.spoken)
            forms = [(phrase, False), *((form, True) for form in spellings if form.lower() != phrase.lower())]
            for form, is_spoken in forms:
                if first := _FIRST.match(form.lower()):
                    self._forms[first[0]].append((form, phrase, is_spoken))

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases alone."""
        return tuple(keyword.phrase for keyword in self.keywords)

    def find(self, text: str) -> Iterator[Match]:
        """Where spellings stand as whole words, in any case; one that overlaps itself counts once."""
        ends: dict[str, int] = {}
        for place in _FIRST.finditer(text):
            for form, phrase, is_spoken in self._forms.get(place[0].lower(), ()):
                match = _whole_words(form).match(text, place.start())
                if match and match.start() >= ends.get(form, 0):
                    ends[form] = match.end()
                    yield Match(*match.span(), phrase, is_spoken)

    def spans(self, pieces: Sequence[str]) -> list[tuple[int, int]]:
        """The pieces of each spelling in a text: index of the first, and behind the last."""
        ends = list(accumulate(map(len, pieces)))
        found = self.find("".join(pieces))
        return [(bisect_right(ends, match.start), bisect_left(ends, match.end) + 1) for match in found]

    def restore(self, pieces: Sequence[str]) -> list[str]:
        """Pieces of a text in which keywords have the capitals they are given with; no capital goes, no length changes.

        The spellings of how they are said stay: `write` comes after what has to be heard.
        """
        chars = list("".join(pieces))
        for match in self.find("".join(chars)):
            if not match.is_spoken and match.phrase != match.phrase.lower():
                for at, to in zip(range(match.start, match.end), match.phrase, strict=True):
                    capital = chars[at].upper()
                    chars[at] = capital if to.isupper() and len(capital) == 1 else chars[at]
        return _cut(chars, pieces)

    def write(self, pieces: Sequence[str]) -> list[str]:
        """Pieces of a text with phrases in place of how they are said, each in its first piece.

        Of spellings that overlap, the first and longest counts. A capital that begins one begins the phrase, too.
        """
        chars, done = list("".join(pieces)), 0
        spoken = (match for match in self.find("".join(chars)) if match.is_spoken)
        for match in sorted(spoken, key=lambda match: (match.start, -match.end)):
            if match.start >= done:
                done, phrase = match.end, match.phrase
                is_capital = chars[match.start].isupper()
                chars[match.start : done] = [phrase[:1].upper() + phrase[1:] if is_capital else phrase]
                chars[match.start + 1 : match.start + 1] = [""] * (done - match.start - 1)
        return _cut(chars, pieces)


def _cut(chars: Sequence[str], pieces: Sequence[str]) -> list[str]:
    """What has come of each of the pieces, whose characters became these strings."""
    ends = list(accumulate(map(len, pieces)))
    return ["".join(chars[end - len(piece) : end]) for piece, end in zip(pieces, ends, strict=True)]


@lru_cache(maxsize=4096)
def _whole_words(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){r' '.join(map(re.escape, phrase.split()))}(?!\w)", re.IGNORECASE)
