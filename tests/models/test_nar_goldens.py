"""The whole NAR model against values of an independent implementation (float32, CPU, one clip at a time)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from redline.checkpoints import nar
from redline.decoding import ctc
from redline.decoding.slots import choose, slot_batch
from redline.features import batch_features
from redline.models.conformer import EncoderOutput
from redline.models.nar import NarModel

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CLIPS = range(6)
TIED = (1, 0)
"""Clip and step whose two best draft logits are equal to the last bit: rounding alone decides which id is drafted."""


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(GOLDEN / "nar-tiny" / "expected.safetensors")


@pytest.fixture(scope="module", params=["nar-tiny", "nar-tiny-first-revision"])
def model(request: pytest.FixtureRequest) -> NarModel:
    return nar.load_nar(GOLDEN / request.param)[0]


@dataclass
class Output:
    """Everything that is computed for some clips, from the encoder's states to the edited ids."""

    encoded: EncoderOutput
    draft_logits: Tensor  # [B, W, V]
    draft_lengths: Tensor
    draft_ids: list[list[int]]
    audio_embeds: Tensor
    audio_lengths: Tensor
    slot_lengths: Tensor
    slot_logits: Tensor  # [B, K, V]
    final_ids: list[list[int]]


def run(model: NarModel, features: Tensor, lengths: Tensor) -> Output:
    """Greedy drafts and their edits, with the logits of all slots."""
    blank, minimum = model.config.blank_token_id, model.config.min_edit_sequence_length
    encoded = model.encode(features, lengths)
    draft_logits, draft_lengths = model.draft_head(encoded)
    drafts = ctc.greedy(draft_logits, draft_lengths, blank)
    slots, slot_lengths = slot_batch(drafts, blank, minimum)
    audio, audio_lengths = model.embed_audio(encoded.exports, encoded.lengths)
    logits = model.language_model.logits(model.read(audio, audio_lengths, slots, slot_lengths))
    finals = ctc.greedy(logits, slot_lengths, blank)
    return Output(encoded, draft_logits, draft_lengths, drafts, audio, audio_lengths, slot_lengths, logits, finals)


@pytest.fixture(scope="module", params=["alone", "in one batch"])
def rows(request: pytest.FixtureRequest, model: NarModel, expected: dict[str, Tensor]) -> list[tuple[Output, int]]:
    """For each clip, the output that holds it and its row there."""
    waves = [expected[f"wave.{clip}"] for clip in CLIPS]
    with torch.no_grad():
        if request.param == "alone":
            return [(run(model, *batch_features([wave])), 0) for wave in waves]
        together = run(model, *batch_features(waves))
        return [(together, row) for row in CLIPS]


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("clip", CLIPS)
def test_features_equal_the_golden_ones(expected: dict[str, Tensor], clip: int) -> None:
    features, lengths = batch_features([expected[f"wave.{clip}"]])
    torch.testing.assert_close(features[0], expected[f"features.{clip}"], atol=3e-5, rtol=0)
    assert lengths.tolist() == [len(expected[f"features.{clip}"])]


@pytest.mark.parametrize("clip", CLIPS)
def test_encoder_and_draft_equal_the_golden_ones(
    rows: list[tuple[Output, int]], expected: dict[str, Tensor], model: NarModel, clip: int
) -> None:
    output, row = rows[clip]
    encoded = output.encoded
    close(encoded.exports[0][row, : encoded.lengths[row]], expected[f"encoder.block1.{clip}"])
    close(encoded.hidden[row, : encoded.lengths[row]], expected[f"encoder.last.{clip}"])
    logits = output.draft_logits[row, : output.draft_lengths[row]]
    close(logits, expected[f"draft_logits.{clip}"])
    path = logits.argmax(dim=-1)
    if clip == TIED[0]:
        path[TIED[1]] = expected[f"draft_logits.{clip}"][TIED[1]].argmax()
    else:
        assert output.draft_ids[row] == expected[f"draft_ids.{clip}"].tolist()
    assert ctc.collapse(path.tolist(), model.config.blank_token_id) == expected[f"draft_ids.{clip}"].tolist()


@pytest.mark.parametrize("clip", CLIPS)
def test_audio_embeddings_equal_the_golden_ones(
    rows: list[tuple[Output, int]], expected: dict[str, Tensor], clip: int
) -> None:
    output, row = rows[clip]
    close(output.audio_embeds[row, : output.audio_lengths[row]], expected[f"audio_embeds.{clip}"])


@pytest.mark.parametrize("clip", [clip for clip in CLIPS if clip != TIED[0]])
def test_edits_equal_the_golden_ones(rows: list[tuple[Output, int]], expected: dict[str, Tensor], clip: int) -> None:
    output, row = rows[clip]
    close(output.slot_logits[row, : output.slot_lengths[row]], expected[f"slot_logits.{clip}"])
    assert output.final_ids[row] == expected[f"final_ids.{clip}"].tolist()


def test_edits_of_the_golden_drafts_equal_the_golden_ones(
    rows: list[tuple[Output, int]], expected: dict[str, Tensor], model: NarModel
) -> None:
    """Every clip, the tied one included, with the draft given."""
    drafts = [expected[f"draft_ids.{clip}"].tolist() for clip in CLIPS]
    slots, slot_lengths = slot_batch(drafts, model.config.blank_token_id, model.config.min_edit_sequence_length)
    for clip in CLIPS:
        output, row = rows[clip]
        batch_row = slice(row, row + 1)
        with torch.no_grad():
            hidden = model.read(
                output.audio_embeds[batch_row],
                output.audio_lengths[batch_row],
                slots[clip : clip + 1],
                slot_lengths[clip : clip + 1],
            )
            logits = model.language_model.logits(hidden)[0, : slot_lengths[clip]]
            scores = model.score_slots(hidden, slots[clip : clip + 1])
        ids, log_probs = choose(slots[clip : clip + 1], *scores)
        assert ids[0, : slot_lengths[clip]].tolist() == logits.argmax(dim=-1).tolist()
        close(log_probs[0, : slot_lengths[clip]], logits.log_softmax(dim=-1).amax(dim=-1))
        close(logits, expected[f"slot_logits.{clip}"])
        final = ctc.collapse(logits.argmax(dim=-1).tolist(), model.config.blank_token_id)
        assert final == expected[f"final_ids.{clip}"].tolist()


def test_golden_draft_has_one_exact_tie(expected: dict[str, Tensor]) -> None:
    """The one exception made above is a tie, and there is no second one."""
    for clip in CLIPS:
        best = expected[f"draft_logits.{clip}"].topk(2).values
        gaps = best[:, 0] - best[:, 1]
        assert [(clip, step) for step in (gaps < 1e-4).nonzero().flatten().tolist()] == [TIED] * (clip == TIED[0])


def test_neither_padding_nor_a_broken_neighbour_is_ever_seen(model: NarModel, expected: dict[str, Tensor]) -> None:
    features, lengths = batch_features([expected[f"wave.{clip}"] for clip in (2, 0, 4)])
    poisoned = features.clone()
    for row, length in enumerate(lengths.tolist()):
        poisoned[row, length:] = float("nan")
    poisoned[1, 7] = float("nan")
    with torch.no_grad():
        clean, dirty = run(model, features, lengths), run(model, poisoned, lengths)
    assert dirty.audio_embeds[1].isnan().any()
    for row in (0, 2):
        assert dirty.final_ids[row] == clean.final_ids[row]
        used = slice(clean.slot_lengths[row])
        close(dirty.slot_logits[row, used], clean.slot_logits[row, used])


def test_every_weight_learns_from_draft_and_edit(expected: dict[str, Tensor]) -> None:
    model = nar.load_nar(GOLDEN / "nar-tiny")[0].train()
    output = run(model, *batch_features([expected["wave.2"], expected["wave.0"]]))
    char_logits = output.encoded.char_logits
    (output.draft_logits.square().mean() + char_logits.square().mean() + output.slot_logits.square().mean()).backward()
    # A bias on keys shifts all scores of a query alike, so it has nothing to learn.
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in still if not name.endswith("k_proj.bias")] == []
