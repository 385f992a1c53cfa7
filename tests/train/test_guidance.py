"""A head that is taught where to listen."""

from __future__ import annotations

import pytest
import torch

from redline.errors import ConfigError
from redline.models.config import LMConfig
from redline.models.granite import GraniteLM
from redline.train.guidance import Guide, answer_spans

SMALL = LMConfig(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    attention_multiplier=0.5,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=0,
)


def test_each_token_has_the_sound_of_what_is_said_next() -> None:
    spans = [(0, 4), (4, 9), (9, 12)]
    assert answer_spans([5, 6, 7], [5, 6, 7], spans) == tuple(spans)
    tags = answer_spans([90, 5, 91, 6, 7, 92], [5, 6, 7], spans)
    assert tags == ((0, 4), (0, 4), (4, 9), (4, 9), (9, 12), None)
    assert answer_spans([5, 7], [5, 6, 7], spans) == ()
    assert answer_spans([5, 6], [5, 6], []) == ()


def test_the_share_is_that_of_the_attention_itself() -> None:
    torch.manual_seed(0)
    model = GraniteLM(SMALL).eval()
    guide = Guide(model, [1])
    x, lengths = torch.randn(2, 7, 16) * 0.1, torch.tensor([7, 5])
    values = torch.zeros(2, 2, 7, 4)  # [B, kv heads, L, head_dim]
    values[:, 0, 2:4, 0] = 1.0  # what the first head brings from positions 2 and 3 is its share there
    attention = guide.attentions[1]
    kept: list[torch.Tensor] = []
    attention.v_proj.register_forward_hook(lambda *_: values.transpose(1, 2).reshape(2, 7, 8))
    attention.o_proj.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    model.hidden(x, lengths)
    places, spans = torch.tensor([[0, 6], [1, 4], [0, 2]]), torch.tensor([[2, 4], [2, 4], [2, 4]])
    shares = torch.stack([kept[0][row, at, 0] for row, at in places.tolist()])
    assert float(guide.loss(places, spans).detach()) == pytest.approx(-float(shares.detach().log().mean()), rel=1e-4)


def test_it_can_be_learned() -> None:
    torch.manual_seed(0)
    model = GraniteLM(SMALL).train()
    guide = Guide(model, [0, 1])
    ids = torch.randint(0, 20, (4, 12))
    places = torch.tensor([[row, at] for row in range(4) for at in range(6, 12)])
    spans = torch.stack((places[:, 1] - 5, places[:, 1] - 4), dim=1)  # always five positions back
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        model(ids, torch.full((4,), 12))
        loss = guide.loss(places, spans)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.9 and losses[-1] < 0.6 * losses[0]


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="allowed are 0 to 1"):
        Guide(GraniteLM(SMALL), [2])
