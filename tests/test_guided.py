"""Speaker tags written into a given text."""

from __future__ import annotations

import torch
from torch import Tensor

from redline.decoding.guided import Tags, write_tags

ONE, TWO, THREE = 10, 11, 12
STARTS = [id % 2 == 0 for id in range(13)]
"""Even ids begin words."""


class Model:
    """Says who speaks at the place where the text stands, and remembers what each row was given."""

    def __init__(self, voices: list[dict[int, int]]) -> None:
        self.voices = voices
        self.given: list[list[int]] = [[] for _ in voices]

    def logits(self) -> Tensor:
        rows = torch.zeros(len(self.given), 13)
        for row, (voice, given) in enumerate(zip(self.voices, self.given, strict=True)):
            at = sum(id < ONE for id in given)
            rows[row, voice.get(at, 0)] = 9.0
        return rows

    def step(self, ids: Tensor, rows: Tensor | None) -> Tensor:
        if rows is not None:
            self.given = [list(self.given[row]) for row in rows.tolist()]
            self.voices = [self.voices[row] for row in rows.tolist()]
        for given, id in zip(self.given, ids.tolist(), strict=True):
            given.append(id)
        return self.logits()


def tagged(drafts: list[list[int]], voices: list[dict[int, int]], **options: object) -> list[list[int]]:
    model = Model(voices)
    tags = Tags((ONE, TWO, THREE), **options)  # type: ignore[arg-type]
    return [list(one.ids) for one in write_tags(model.logits(), model.step, drafts, STARTS, tags)]


def test_words_are_the_drafts_and_tags_the_models() -> None:
    assert tagged([[0, 1, 2, 4, 5]], [{2: TWO, 3: ONE}]) == [[ONE, 0, 1, TWO, 2, ONE, 4, 5]]


def test_a_tag_inside_a_word_is_not_written() -> None:
    assert tagged([[0, 1, 2]], [{1: TWO}]) == [[ONE, 0, 1, 2]]


def test_who_speaks_goes_on_without_a_tag() -> None:
    assert tagged([[0, 2, 4]], [{0: ONE, 1: ONE, 2: TWO}], speaking=TWO) == [[ONE, 0, 2, TWO, 4]]
    assert tagged([[0, 2]], [{}], speaking=THREE) == [[0, 2]]


def test_alone_equals_in_a_batch_and_empty_drafts_stay_empty() -> None:
    drafts = [[0, 1, 2, 4], [], [2], [0, 2, 4, 6]]
    voices = [{2: TWO}, {}, {}, {1: THREE, 3: TWO}]
    together = tagged(drafts, voices)
    assert together == [tagged([draft], [voice])[0] for draft, voice in zip(drafts, voices, strict=True)]
    assert together[1] == [] and together[3] == [ONE, 0, THREE, 2, 4, TWO, 6]
