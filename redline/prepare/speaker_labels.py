"""Speaker labels in transcripts and captions: `JANE DOE:`, `Speaker 1 (00:12):`, `[Jane]`, `>>`.

A label stands where a line or a sentence begins. What is written in capitals amid small letters, or is the name of a
role, is one; a name in ordinary spelling has to come again, beside others. `Note: ...` and `He said: ...` are text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

_NAME = r"[^\W\d_][\w.'’&/-]*"
_STAMP = r"(?:\s*[\[(]\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?[\])])?"
_COLON = re.compile(
    rf"(?P<arrows>>>+\s*)?(?P<name>{_NAME}(?:\s+(?:{_NAME}|#?\d+)){{0,4}})(?:\s*\([^)\d][^)]*\))?{_STAMP}\s*:(?=\s|$)"
)
_BRACKET = re.compile(rf"(?P<arrows>>>+\s*)?[\[(](?P<name>{_NAME}(?:\s+(?:{_NAME}|#?\d+)){{0,3}})[\])]\s*:?(?=\s|$)")
_ARROWS = re.compile(r">>+(?=\s|\w|$)\s*")
_DASH = re.compile(r"[-–—]\s+")
_TITLES = "".join(
    rf"(?<!\b{title}\.)" for title in ("Dr", "Mr", "Mrs", "Ms", "St", "Prof", "Sen", "Rep", "Gov", "[A-Z]")
)
_SENTENCE = re.compile(rf"(?<=[.?!…][\"”’)\]])\s+|(?<=[.?!…]){_TITLES}\s+|(?<!>)(?=>>)")
_ROLES = frozenset(
    """
    host cohost co-host guest interviewer interviewee moderator narrator announcer reporter speaker caller
    operator presenter president chairman chair judge clerk witness counsel man woman boy girl student teacher
    audience participant facilitator anchor sprecher sprecherin moderatorin interviewerin animateur invité
    """.split()  # noqa: SIM905 - one word a line would hide them
)
_TEXT = frozenset(
    """
    note notes warning caution example remember summary conclusion answer question questions today tomorrow
    yesterday chapter part section step lesson title subject important tip hint ps nb result results reason
    problem solution fact facts update edit source sources so and but then first second third finally however now
    here there this that is are was were said says say asked asks wrote writes told thought like with for to
    follows following it he she they we i you my your his her their its our who what when where why how which if
    or not no yes okay ok well monday tuesday wednesday thursday friday saturday sunday achtung hinweis beispiel
    frage antwort attention remarque
    """.split()  # noqa: SIM905 - one word a line would hide them
)
"""Words that begin sentences with a colon and are no names."""
_PARTICLES = frozenset(("de", "del", "della", "der", "van", "von", "da", "di", "la", "le", "du", "y", "e", "of", "the"))


def find_labels(lines: Sequence[str]) -> frozenset[str]:
    """What is used as a label in the lines of a text, in small letters."""
    counts: Counter[str] = Counter()
    begins: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    bracketed: set[str] = set()
    rest: list[str] = []
    for line in lines:
        for number, piece in enumerate(_SENTENCE.split(_undashed(line))):
            match = _match(piece)
            key = _key(match["name"]) if match is not None else ""
            if match is None or any(word in _TEXT for word in key.split()):
                rest.append(piece)
                continue
            rest.append(piece[match.end() :])
            counts[key] += 1
            begins[key] += number == 0
            spelled[key] = match["name"]
            if match.re is _BRACKET:
                bracketed.add(key)
    text = "".join(rest)
    # Where all of the text is in capitals, or nothing, capitals say nothing.
    small, large = any(map(str.islower, text)), any(map(str.isupper, text))
    strong: set[str] = set()
    named: set[str] = set()
    for key, name in spelled.items():
        words = name.split()
        numbered = len(words) == 2 and words[-1].lstrip("#").isdigit()
        role = key not in bracketed and len(words) <= 3 and any(word in _ROLES for word in key.split())
        capitals = key not in bracketed and small and name.isupper() and len(name) > 1
        if numbered or role or capitals:
            strong.add(key)
        proper = all(word[0].isupper() or word[0] in "#0123456789" or word in _PARTICLES for word in words)
        if len(key) > 1 and (proper if large or key in bracketed else len(words) <= 2):
            named.add(key)
    again = {key for key in named if counts[key] >= 2}
    num_lines = sum(bool(line.strip()) for line in lines)
    if (again and len(again | strong) >= 2) or any(counts[key] >= 3 for key in again - bracketed):
        strong |= again
    if again and sum(begins[key] for key in named) * 2 >= num_lines:
        strong |= named
    letters = {key for key in counts if key in ("q", "a", "f")}  # question and answer, written as such
    if len(letters) == 2 and all(counts[key] >= 2 for key in letters):
        strong |= letters
    return frozenset(strong)


def without_labels(pieces: Iterable[tuple[str, str]], labels: frozenset[str]) -> Iterator[tuple[int, str, str, int]]:
    """Lines with the speaker that the file names for them -> number of the line, text without labels, speaker, turn.

    A label holds until the next one; a name of the file's own (`<v Name>`) for its cue alone. `>>` is a change of
    speakers who are not named.
    """
    speaker, turn, tagged = "", 0, False
    spellings: dict[str, str] = {}
    for number, (line, name) in enumerate(pieces):
        if name:
            if name != speaker or not tagged:
                turn += 1
            speaker, tagged = name, True
        elif tagged:
            speaker, tagged, turn = "", False, turn + 1
        text = ""
        if _DASH.match(line.strip()) and not tagged:  # captions begin so where somebody else speaks
            speaker, turn = "", turn + 1
        for piece in _SENTENCE.split(_undashed(line)):
            match = _match(piece)
            if match is not None and _key(match["name"]) in labels:
                new = spellings.setdefault(_key(match["name"]), " ".join(match["name"].split()))
                piece = piece[match.end() :]
            elif arrows := _ARROWS.match(piece):
                new, piece = "", piece[arrows.end() :]
            else:
                text = f"{text} {piece}"
                continue
            if text.strip():
                yield number, text.strip(), speaker, turn
            text = piece
            # The file's own name is surer than one in the text.
            speaker, turn = (speaker if tagged else new), turn + 1
        yield number, text.strip(), speaker, turn


def _undashed(line: str) -> str:
    dash = _DASH.match(line.strip())
    return line.strip()[dash.end() if dash else 0 :]


def _match(piece: str) -> re.Match[str] | None:
    return _COLON.match(piece) or _BRACKET.match(piece)


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()
