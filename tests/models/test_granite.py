"""The Granite language model against the transformers implementation, and its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from redline.models.config import LMConfig
from redline.models.granite import GraniteLM

TINY = LMConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    attention_multiplier=0.2,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=1,
)


def seeded(config: LMConfig = TINY) -> GraniteLM:
    torch.manual_seed(0)
    model = GraniteLM(config)
    for parameter in model.parameters():  # larger than at birth, so that attention is not nearly uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
def test_causal_logits_equal_transformers(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    ours = seeded(replace(TINY, tie_word_embeddings=tied))
    referee = transformers.GraniteForCausalLM(transformers.GraniteConfig(**ours.config.to_dict())).eval()
    mismatch = referee.load_state_dict(ours.state_dict(), strict=False)
    assert mismatch.unexpected_keys == [] and mismatch.missing_keys == (["lm_head.weight"] if tied else [])
    ids = torch.randint(0, TINY.vocab_size, (3, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = referee(ids).logits
        actual = ours(ids, torch.full((3,), 17))
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_batched_equals_single(causal: bool) -> None:
    model = seeded()
    rows = [torch.randint(0, TINY.vocab_size, (n,)) for n in (9, 1, 14)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7)
    with torch.no_grad():
        together = model(ids, torch.tensor([9, 1, 14]), causal=causal)
        for row, tokens in enumerate(rows):
            alone = model(tokens[None], torch.tensor([len(tokens)]), causal=causal)[0]
            torch.testing.assert_close(together[row, : len(tokens)], alone, atol=1e-5, rtol=1e-5)


def test_only_the_causal_model_hides_the_future() -> None:
    model = seeded()
    ids, lengths = torch.arange(10)[None], torch.tensor([10])
    changed = ids.clone()
    changed[0, -1] = 40
    with torch.no_grad():
        assert torch.equal(model(ids, lengths)[:, :-1], model(changed, lengths)[:, :-1])
        both = model(ids, lengths, causal=False), model(changed, lengths, causal=False)
    assert not torch.allclose(both[0][:, 0], both[1][:, 0], atol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_nan_stays_in_its_row_and_padding_is_never_seen(causal: bool) -> None:
    model = seeded()
    lengths = torch.tensor([6, 4, 0])
    with torch.no_grad():
        embeddings = model.embed(torch.arange(18).view(3, 6))
        clean = model.hidden(embeddings, lengths, causal=causal)
        poisoned = embeddings.clone()
        poisoned[0, 2] = float("nan")  # inside row 0
        poisoned[1, 4:] = float("inf")  # in the padding of row 1
        poisoned[2] = float("nan")  # row 2 is all padding
        dirty = model.hidden(poisoned, lengths, causal=causal)
    assert dirty[0].isnan().any()
    torch.testing.assert_close(dirty[1:], clean[1:])
    assert clean.isfinite().all()


def test_positions_count_from_zero_unless_given() -> None:
    model = seeded()
    lengths = torch.tensor([5])
    with torch.no_grad():
        embeddings = model.embed(torch.arange(5)[None])
        counted = model.hidden(embeddings, lengths)
        shifted = model.hidden(embeddings, lengths, positions=torch.arange(5)[None] + 7)
        stretched = model.hidden(embeddings, lengths, positions=torch.arange(5)[None] * 7)
    torch.testing.assert_close(counted, shifted, atol=1e-5, rtol=1e-5)  # rotary positions are relative
    assert not torch.allclose(counted, stretched, atol=1e-3)
