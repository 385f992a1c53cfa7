"""Markdown (CommonMark, and `~~` of GitHub's): a document to read, in md."""

from __future__ import annotations

import re

from redline.formats.document import facts_line, paragraphs, warning_lines
from redline.formats.format import RenderOptions, plain_line, speaker_label
from redline.formats.tracked_changes import Change
from redline.types import Transcript

_MARKUP = re.compile(r"[\\`*_\[\]<>#~|$&]|^[-+]")  # of GitHub's, too: `|` divides cells, `$` begins a formula
_LIST_NUMBER = re.compile(r"^(\d+)([.)])")


def render_md(transcript: Transcript, options: RenderOptions) -> str:
    """A heading, model, language and duration, a paragraph for each speaker turn or segment, and the warnings.

    With `show_edits` the words of the draft that were taken out are ~~struck~~, and those put in **bold**.
    """
    blocks = [f"# {_escaped(options.name)}", _escaped(facts_line(transcript))]
    for start, speaker, changes in paragraphs(transcript, options.show_edits):
        named = "" if speaker is None else f" {_escaped(speaker_label(speaker))}:"
        label = [] if start is None else [f"**[{start}]{named}**"]
        blocks.append(" ".join([*label, *map(_marked, changes)]))
    if transcript.warnings:
        blocks += ["## Warnings", "\n".join(f"- {_escaped(line)}" for line in warning_lines(transcript))]
    return "\n\n".join(blocks) + "\n"


def _marked(change: Change) -> str:
    draft, text = _escaped(change.draft), _escaped(change.text)
    if change.op == "keep":
        return text
    return " ".join(([f"~~{draft}~~"] if draft else []) + ([f"**{text}**"] if text else []))


def _escaped(text: str) -> str:
    """User text in one line, in which nothing is markup."""
    return _LIST_NUMBER.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", plain_line(text)))
