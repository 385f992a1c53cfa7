"""Extra heads: what is loaded means what was written, and published files come out as they came in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import heads
from redline.decoding.ctc import greedy
from redline.errors import CheckpointError
from redline.models.conformer import EncoderOutput
from redline.models.heads import LanguageHead, PunctuationHead


def test_the_blank_of_a_published_draft_head_is_settled_when_it_is_read(tmp_path: Path) -> None:
    """In the file row 0 is the blank and row i + 1 token i; in memory row i is token i and the last row the blank."""
    published = {"weight": torch.randn(7, 4), "bias": torch.zeros(7)}
    save_file(published, tmp_path / heads.DRAFT_HEAD)
    head, trusted = heads.load_draft_head(tmp_path, 4, most_rows=7, window=2)
    assert not trusted
    assert (head.rows, head.blank) == (7, 6)
    assert torch.equal(head.weight[head.blank], published["weight"][0])
    assert torch.equal(head.weight[:6], published["weight"][1:])
    frames = torch.linalg.pinv(published["weight"].T @ published["weight"]) @ published["weight"].T
    hidden = frames[:, [3, 3, 0, 0, 5, 5]].T[None]  # two frames a window, in which rows 3, 0 and 5 of the file are best
    encoded = EncoderOutput(hidden, torch.tensor([6]), (), torch.zeros(1, 6, 3), torch.zeros(1, 6, 3))
    best = (hidden[0, ::2] @ published["weight"].T).argmax(dim=-1).tolist()
    expected = [row - 1 for row in best if row]
    assert greedy(*head(encoded), head.blank) == [expected]
    (tmp_path / "again").mkdir()
    heads.save_draft_head(head, tmp_path / "again", torch.float32, trusted=True)
    assert heads.load_draft_head(tmp_path / "again", 4, most_rows=7, window=2)[1]
    written = load_file(tmp_path / "again" / heads.DRAFT_HEAD)
    assert all(torch.equal(written[name], tensor) for name, tensor in published.items())


@pytest.mark.parametrize(("rows", "message"), [(9, "9 rows; allowed are the blank and up to 7 tokens"), (1, "1 rows")])
def test_a_draft_head_for_another_vocabulary_is_refused(tmp_path: Path, rows: int, message: str) -> None:
    save_file({"weight": torch.randn(rows, 4), "bias": torch.zeros(rows)}, tmp_path / heads.DRAFT_HEAD)
    with pytest.raises(CheckpointError, match=message):
        heads.load_draft_head(tmp_path, 4, most_rows=8, window=2)


def test_extra_heads_come_back_as_they_were_written(tmp_path: Path) -> None:
    punctuation, language = PunctuationHead(8), LanguageHead(8, ("en", "de"))
    heads.save_punctuation_head(punctuation, tmp_path)
    heads.save_language_head(language, tmp_path)
    assert heads.load_language_head(tmp_path, 8).languages == ("en", "de")
    for head, read in (
        (punctuation, heads.load_punctuation_head(tmp_path, 8)),
        (language, heads.load_language_head(tmp_path, 8)),
    ):
        assert torch.equal(read.out.weight, head.out.weight) and not read.training


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    heads.save_punctuation_head(PunctuationHead(8), tmp_path).rename(tmp_path / heads.LANGUAGE_HEAD)
    with pytest.raises(CheckpointError, match="'redline out_forms 1'; 'redline out_language 1' can be read"):
        heads.load_language_head(tmp_path, 8)
