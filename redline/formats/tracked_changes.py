"""Tracked changes: a draft and its token edits as changes of whole words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from redline.types import Edit, EditOp, Segment


class Change(NamedTuple):
    """What became of a few neighbouring words: `draft` is empty for an insertion, `text` for a deletion."""

    op: EditOp
    draft: str
    text: str


def tracked_changes(edits: Sequence[Edit]) -> list[Change]:
    """Edits of tokens -> changes of whole words, in order; a token with a leading space starts a word.

    The drafts of the changes, joined by spaces, are the words of the draft, and the texts those of the final text.
    """
    changes: list[Change] = []
    for group in _word_edits(edits):
        draft = " ".join("".join(edit.draft for edit in group).split())
        text = " ".join("".join(edit.text for edit in group).split())
        if not draft and not text:
            continue
        change = _change(draft, text)
        if changes and {changes[-1].op, change.op} == {"insert", "delete"}:
            before = changes.pop()
            change = _change(before.draft + draft, before.text + text)
        if changes and changes[-1].op == change.op != "replace":
            before = changes.pop()
            change = Change(change.op, *(f"{a} {b}".strip() for a, b in zip(before[1:], change[1:], strict=True)))
        changes.append(change)
    return changes


def segment_changes(segment: Segment) -> list[Change]:
    """The draft of a segment -> its text, as changes of whole words; all of the text is kept where there is no draft.

    Where its edits do not lead from the one to the other, the words of both are compared: a draft was verified and not
    edited, numbers became digits afterwards, or the edits that kept a token were not saved.
    """
    text = segment.text.split()
    draft = text if segment.draft is None else segment.draft.split()
    changes = tracked_changes(segment.edits)
    drafts, texts = (" ".join(side).split() for side in ((c.draft for c in changes), (c.text for c in changes)))
    if (drafts, texts) == (draft, text):
        return changes
    match = SequenceMatcher(None, draft, text, autojunk=False)
    return [_change(" ".join(draft[a:b]), " ".join(text[c:d])) for _, a, b, c, d in match.get_opcodes()]


def _change(draft: str, text: str) -> Change:
    return Change(
        "keep" if draft == text else "insert" if not draft else "delete" if not text else "replace", draft, text
    )


def _word_edits(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """The edits between places where both the draft and the text are between two words."""
    draft_starts = text_starts = True  # whether the next character of each side starts a word
    word_starts = []
    for edit in reversed(edits):
        draft_starts = edit.draft[0].isspace() if edit.draft else draft_starts
        text_starts = edit.text[0].isspace() if edit.text else text_starts
        word_starts.append(draft_starts and text_starts)
    group: list[Edit] = []
    for edit, starts in zip(edits, reversed(word_starts), strict=True):
        if starts and group:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group
