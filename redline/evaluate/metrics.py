"""Scores that only some references or models have, each told in its own line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from redline.errors import RedlineError
from redline.evaluate import cpwer, keywords, languages, punctuation, tags, wer, word_times
from redline.evaluate.run import Result


class Told(Protocol):
    """A score that tells itself to people and to programs."""

    def to_dict(self) -> dict[str, Any]: ...


def scores(results: Sequence[Result]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The name of each score, its line, and its numbers for JSON; synthetic voices apart from human ones."""
    for kind in ("", f", {wer.SYNTHETIC}"):
        mine = [one for one in results if one.item is not None and (one.item.source == wer.SYNTHETIC) == bool(kind)]
        items = [one.item for one in mine if one.item is not None]
        key = kind.replace(", ", "_")
        try:
            speakers: Told | None = cpwer.score(mine)
            if speakers is not None:
                yield f"cpWER{kind}", str(speakers), {f"speakers{key}": speakers.to_dict()}
        except RedlineError as error:  # after hours of work, what could be counted is not thrown away
            yield f"cpWER{kind}", str(error), {f"speakers{key}": None}
        others: tuple[tuple[str, str, Told | None], ...] = (
            ("word times", "word_times", word_times.score(mine)),
            ("tags", "tags", tags.score(mine)),
            ("keywords", "keywords", keywords.score(items)),
            ("written form", "written", punctuation.score(items)),
            ("languages", "languages", languages.score(mine)),
        )
        for name, entry, found in others:
            if found is not None:
                yield f"{name}{kind}", str(found), {f"{entry}{key}": found.to_dict()}


def second_opinion(results: Sequence[Result], reports: Sequence[wer.Report]) -> str | None:
    """What a second scorer says of the number of errors; None where it is not installed."""
    items = [result.item for result in results if result.item is not None]
    references = [wer.normalizer(item.language)(item.reference) for item in items]
    edited = [wer.normalizer(item.language)(item.edited) for item in items]
    count = sum(report.edited.words.count for report in reports if report.group != wer.ALL)
    second = wer.second_opinion(references, edited)
    if second is None:
        return None
    same = "agrees" if second.count == count else f"DISAGREES: jiwer counts {count} errors"
    return f"kaldialign counts {second.count} errors in {second.length} words and {same}"
