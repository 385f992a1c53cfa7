"""Word times of a text that is written otherwise than it is said: digits, symbols, capitals, marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from redline.types import Word, WordTimes, share


def rewritten(words: Sequence[Word], text: str) -> tuple[Word, ...]:
    """Words of a text -> those of the same text when some of them are written otherwise; no words stay none.

    "23" lasts from the start of "twenty" to the end of "three", is as certain as the less certain and has the first
    one's speaker.
    """
    tokens, result = text.split(), list[Word]()
    matcher = SequenceMatcher(None, [word.text for word in words], tokens, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes() if words else ():
        sources = words[a:b] or words[max(0, a - 1) : max(1, a)]  # what is only added stands behind the word before
        confidence = min((each.confidence for each in sources if each.confidence is not None), default=None)
        shared = share(tokens[c:d], sources[0].start if a < b else sources[-1].end, sources[-1].end)
        like = [replace(word, confidence=confidence, speaker=sources[0].speaker) for word in shared]
        result += words[a:b] if kind == "equal" else like
    return tuple(result)


@dataclass(frozen=True)
class RewrittenTimes:
    """`WordTimes` of a text that is written otherwise than what is aligned."""

    timing: WordTimes
    text: str

    def __call__(self) -> tuple[Word, ...]:
        return rewritten(self.timing(), self.text)
