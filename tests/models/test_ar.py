"""The AR and Plus models against `transformers`, with random weights: embeddings, logits and greedy tokens agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redline.checkpoints import ar
from redline.features import pad
from redline.models.ar import ArModel
from redline.models.granite import KVCache
from tests.models.ar_referee import AUDIO, FRAMES, KINDS, STEPS, clips, generate, prompts, referee
from tests.models.plain_steps import Reader


@pytest.mark.parametrize("clip", range(len(FRAMES)))
@torch.no_grad()
def test_embeddings_and_logits_equal_the_referees(pair: tuple[Any, ArModel], clip: int) -> None:
    theirs, ours = pair
    x, lengths = pad([clips()[clip]])
    wanted = theirs.model.get_audio_features(x, return_dict=True).pooler_output
    audio, counts = ours.embed_audio(ours.encode(x, lengths))
    assert counts.tolist() == [wanted.shape[1]]
    torch.testing.assert_close(audio, wanted, atol=1e-4, rtol=0)
    asked = prompts(ours)[clip]
    logits, sizes = ours(x, lengths, [asked])
    mask = torch.ones(audio.shape[:2], dtype=torch.bool)
    output = theirs(input_ids=torch.tensor([asked]), input_features=x, input_features_mask=mask)
    assert sizes.tolist() == [len(asked)]
    # The referee leaves `logits_scaling` out, which changes no greedy token.
    torch.testing.assert_close(logits * ours.config.text.logits_scaling, output.logits, atol=1e-4, rtol=1e-5)


def referee_tokens(theirs: Any, ours: ArModel) -> list[list[int]]:
    """Forty greedy tokens of the referee for each clip."""
    wanted = []
    for clip, asked in zip(clips(), prompts(ours), strict=True):
        count = ours.projector.num_tokens(len(clip))
        tokens = theirs.generate(
            input_ids=torch.tensor([asked]),
            attention_mask=torch.ones(1, len(asked), dtype=torch.long),
            input_features=clip[None],
            input_features_mask=torch.ones(1, count, dtype=torch.bool),
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=[AUDIO],
        )
        wanted.append(tokens[0, len(asked) :].tolist())
    return wanted


STRETCHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10_000}


@pytest.mark.parametrize(("kind", "key"), [(KINDS[0], "rope_scaling"), (KINDS[1], "rope_parameters")])
def test_greedy_tokens_of_models_with_stretched_positions_equal_the_referees(
    tmp_path: Path, kind: str, key: str
) -> None:
    """As granite-speech-5.0-2b and 2B-Plus v2610 ask for them, far beyond the original positions."""
    keen = {"embedding_multiplier": 0.3, "residual_multiplier": 1.0, "attention_multiplier": 0.6}
    theirs = referee(kind, text={key: STRETCHED, "max_position_embeddings": 128, **keen})
    theirs.save_pretrained(tmp_path)
    ours = ar.load_ar(tmp_path).model
    config = ours.config
    assert config.text.positions == 128 and config.text.yarn is not None
    assert generate(ours, *pad(clips()), prompts(ours)) == referee_tokens(theirs, ours)
    ours.language_model.config = replace(config.text, yarn=None)
    assert generate(ours, *pad(clips()), prompts(ours)) != referee_tokens(theirs, ours), "positions do not matter here"


def test_greedy_tokens_equal_the_referees_alone_and_in_a_batch(pair: tuple[Any, ArModel]) -> None:
    theirs, ours = pair
    wanted = referee_tokens(theirs, ours)
    assert len({tuple(row) for row in wanted}) == len(FRAMES), "the clips do not matter: the test proves nothing"
    alone = [generate(ours, *pad([clip]), [asked])[0] for clip, asked in zip(clips(), prompts(ours), strict=True)]
    assert alone == wanted
    assert generate(ours, *pad(clips()), prompts(ours)) == wanted


@torch.no_grad()
def test_reading_in_pieces_equals_reading_at_once(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    lm = ours.language_model
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 23, ours.config.text.hidden_size, generator=generator)
    lengths = torch.tensor([23, 9, 17])
    whole = lm.hidden(embeddings, lengths)
    reader = Reader(lm, 3, 30)
    pieces: list[list[Tensor]] = [[], [], []]
    for start, end in ((0, 5), (5, 6), (6, 14), (14, 23)):
        new = (lengths.clamp(max=end) - start).clamp(min=0).tolist()
        hidden = reader.extend(embeddings[:, start:end], new)
        for row, count in enumerate(new):
            pieces[row].append(hidden[row, :count])
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(torch.cat(pieces[row]), whole[row, :length], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_can_be_filled_under_autocast(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    with torch.autocast("cpu", torch.bfloat16):
        assert len(generate(ours, *pad(clips()[:2]), prompts(ours)[:2])) == 2


@torch.no_grad()
def test_a_broken_neighbour_is_never_seen(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    broken = clips()
    broken[3] = broken[3] * torch.nan
    clean, disturbed = (ours(*pad(rows), prompts(ours)) for rows in (clips(), broken))
    for row, size in enumerate(clean[1].tolist()):
        if row != 3:
            torch.testing.assert_close(disturbed[0][row, :size], clean[0][row, :size])


@torch.no_grad()
def test_branches_of_a_tree_in_one_slot_are_the_texts_that_they_continue(pair: tuple[Any, ArModel]) -> None:
    """Two texts behind one prompt, their tokens at places by turns; each sees the prompt and itself."""
    _, ours = pair
    lm, prompt = ours.language_model, [7, 8, 20, 21, 9]
    branches = [[11, 12, 13], [14, 15, 16]]
    cache = KVCache(lm.config, 1, 40, lm.model.embed_tokens.weight)
    nothing = torch.zeros(1, 1, ours.config.text.hidden_size)
    ours.prefill([prompt], nothing, cache, torch.tensor([0]))
    visible = (torch.arange(512) < len(prompt)).expand(1, 2, -1).clone()
    for step, ids in enumerate(zip(*branches, strict=True)):
        places = torch.tensor([[len(prompt) + 2 * step, len(prompt) + 2 * step + 1]])
        visible.scatter_(2, places[..., None], True)
        positions = torch.full((1, 2), len(prompt) + step)
        hidden = lm.advance(lm.embed(torch.tensor([ids])), positions, places, visible, cache)
        for branch, text in enumerate(branches):
            whole, _ = ours.embed([[*prompt, *text[: step + 1]]], nothing)
            wanted = lm.hidden(whole, torch.tensor([whole.shape[1]]))[0, -1]
            torch.testing.assert_close(hidden[0, branch], wanted, atol=1e-5, rtol=1e-5)
