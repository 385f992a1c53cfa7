"""Rotary positions, plain and stretched by YaRN: as `transformers` computes them, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from redline.errors import ConfigError
from redline.models.config import LMConfig
from redline.models.granite import GraniteLM
from redline.models.rope import Yarn, rotation
from tests.models.plain_steps import Reader

PUBLISHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 10_000}
"""What 2B-Plus v2610 asks for under `rope_parameters`, and granite-speech-5.0-2b under `rope_scaling`."""
SMALL = {
    "model_type": "granite",
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 16_384,
    "rms_norm_eps": 1e-5,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
}
ASKED: dict[str, dict[str, Any]] = {
    "as published": {},
    "a set attention factor": {"attention_factor": 1.3},
    "both mscales": {"mscale": 0.707, "mscale_all_dim": 1.0},
    "one mscale counts for nothing": {"mscale": 0.707},
    "other betas": {"beta_fast": 20, "beta_slow": 2.5},
    "betas of 0 are the default": {"beta_fast": 0, "beta_slow": 0},
    "not truncated": {"truncate": False},
    "null truncates nothing": {"truncate": None},
    "no factor": {"factor": None},
    "few original positions": {"original_max_position_embeddings": 5, "factor": 3.5},
    "another base": {"rope_theta": 500_000.0},
    "a factor of 1": {"factor": 1},
}


def referee(rope: dict[str, Any], key: str = "rope_parameters") -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GraniteForCausalLM(transformers.GraniteConfig(**SMALL, **{key: dict(rope)})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at birth, so that attention is not nearly uniform
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def same(theirs: Any, rope: dict[str, Any], key: str = "rope_parameters") -> GraniteLM:
    ours = GraniteLM(LMConfig.from_dict({**SMALL, key: rope}))
    mismatch = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not mismatch.missing_keys and not mismatch.unexpected_keys
    return ours.eval()


@pytest.mark.parametrize("case", ASKED)
def test_angles_equal_the_referees_to_the_last_bit(case: str) -> None:
    rope = {**PUBLISHED, **ASKED[case]}
    theirs = referee(rope)
    config = LMConfig.from_dict({**SMALL, "rope_parameters": rope})
    positions = torch.tensor([[0, 1, 77, 4095, 4096, 9000, 16_383]])
    wanted = theirs.model.rotary_emb(torch.zeros(1), positions)
    actual = rotation(positions, config.head_dim, config.rope_theta, config.yarn)
    for ours, other in zip(actual, wanted, strict=True):
        assert torch.equal(ours[:, 0], other)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_logits_and_greedy_tokens_beyond_the_original_positions_equal_the_referees(key: str) -> None:
    theirs = referee(PUBLISHED, key)
    ours = same(theirs, PUBLISHED, key)
    ids = torch.randint(2, SMALL["vocab_size"], (1, 4200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(ids, logits_to_keep=150).logits[0]
        reader = Reader(ours, 1, 4300)
        for part in ids.split(1500, dim=1):  # in pieces, as a prompt and its draft are
            hidden = reader.extend(ours.embed(part), [part.shape[1]])
        logits = ours.logits(hidden[0, -150:])
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
        whole = ours.hidden(ours.embed(ids), torch.tensor([4200]))
        torch.testing.assert_close(ours.logits(whole[0, -150:]), wanted, atol=1e-4, rtol=0)
        generated = theirs.generate(ids, max_new_tokens=40, min_new_tokens=40, do_sample=False, eos_token_id=None)
        tokens = [logits[-1].argmax().view(1, 1)]
        while len(tokens) < 40:
            tokens.append(reader.step(tokens[-1][0].tolist()).argmax(dim=-1)[:, None])
        assert torch.cat(tokens, dim=1).tolist() == generated[:, 4200:].tolist()
        assert len(set(generated[0, 4200:].tolist())) > 5, "it says the same whatever it reads: the test proves nothing"
        ours.config = replace(ours.config, yarn=None)
        whole = ours.hidden(ours.embed(ids), torch.tensor([4200]))
        assert not torch.allclose(ours.logits(whole[0, -150:]), wanted, atol=1e-2), "positions do not matter here"


def test_the_bidirectional_reader_has_the_same_positions() -> None:
    ours = same(referee(PUBLISHED), PUBLISHED)
    ids, lengths = torch.arange(2, 12)[None], torch.tensor([10])
    far = torch.arange(10)[None] + 9000
    with torch.no_grad():
        near = ours.hidden(ours.embed(ids), lengths, causal=False)
        shifted = ours.hidden(ours.embed(ids), lengths, causal=False, positions=far)
        torch.testing.assert_close(shifted, near, atol=2e-3, rtol=0)  # rotary positions are relative
        ours.config = replace(ours.config, yarn=None)
        assert not torch.allclose(near, ours.hidden(ours.embed(ids), lengths, causal=False), atol=1e-3)


@pytest.mark.parametrize("case", ASKED)
def test_what_is_written_is_read_back_and_by_the_referee(case: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = LMConfig.from_dict({**SMALL, "rope_parameters": {**PUBLISHED, **ASKED[case]}})
    assert config.yarn is not None
    values = config.to_dict()
    assert LMConfig.from_dict(values) == config
    theirs = transformers.models.granite.modeling_granite.GraniteRotaryEmbedding(transformers.GraniteConfig(**values))
    positions = torch.tensor([[5000]])
    actual = rotation(positions, config.head_dim, config.rope_theta, config.yarn)
    assert torch.equal(actual[0][:, 0], theirs(torch.zeros(1), positions)[0])


@pytest.mark.parametrize(
    ("values", "theta", "yarn"),
    [
        ({}, 10_000.0, None),
        ({"rope_scaling": None, "rope_parameters": {}}, 10_000.0, None),
        ({"rope_theta": 5e5}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_scaling": None}, 5e5, None),
        ({"rope_scaling": {"type": "yarn", "factor": 2}, "rope_theta": 5e5}, 5e5, Yarn(2, 16_384)),
        ({"rope_scaling": {**PUBLISHED, "type": "yarn"}}, 10_000.0, Yarn(4.0, 4096)),
        ({"rope_scaling": PUBLISHED, "rope_parameters": PUBLISHED}, 10_000.0, Yarn(4.0, 4096)),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4}, "original_max_position_embeddings": 4096},
            10_000.0,
            Yarn(4, 4096),
        ),
        ({"rope_parameters": {**PUBLISHED, "partial_rotary_factor": 1.0}}, 10_000.0, Yarn(4.0, 4096)),
    ],
)
def test_every_way_to_ask_is_understood(values: dict[str, Any], theta: float, yarn: Yarn | None) -> None:
    config = LMConfig.from_dict({**SMALL, **values})
    assert (config.rope_theta, config.yarn) == (theta, yarn)


DEFAULT = {"rope_type": "default", "rope_theta": 10_000}


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3", "factor": 8}, "rope_type is 'llama3'; supported are default and yarn"),
        ({"type": "linear", "factor": 2}, "rope_type is 'linear'; supported are default and yarn"),
        ({"rope_type": "dynamic"}, "rope_type is 'dynamic'"),
        ({"rope_type": "yarn", "type": "linear", "factor": 2}, "rope_type is 'yarn' and 'linear'"),
        ({"rope_type": ["yarn"]}, r"rope_type is \['yarn'\]"),
        ({**PUBLISHED, "low_freq_factor": 1.0}, "low_freq_factor is 1.0, which rope_type 'yarn' does not use"),
        ({**DEFAULT, "factor": 4.0}, "factor is 4.0, which rope_type 'default' does not use"),
        ({**PUBLISHED, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1"),
        ({**PUBLISHED, "factor": 0.5}, "factor is 0.5; allowed are numbers from 1"),
        ({**PUBLISHED, "factor": "4"}, "factor is '4'"),
        ({**PUBLISHED, "factor": float("nan")}, "factor is nan"),
        ({**PUBLISHED, "factor": True}, "factor is True"),
        ({**PUBLISHED, "original_max_position_embeddings": -1}, "original_max_position_embeddings is -1"),
        ({**PUBLISHED, "original_max_position_embeddings": "x"}, "original_max_position_embeddings is 'x'"),
        ({**PUBLISHED, "attention_factor": -1.0}, "attention_factor is -1.0"),
        ({**PUBLISHED, "beta_fast": 0.5}, "beta_fast is 0.5 and beta_slow 1.0"),
        ({**PUBLISHED, "truncate": "no"}, "truncate is 'no'"),
        ({**PUBLISHED, "rope_theta": 0}, "rope_theta is 0; allowed are numbers above 1"),
        ({**PUBLISHED, "rope_theta": float("inf")}, "rope_theta is inf"),
        ("yarn", "an object with a rope_type is needed"),
    ],
)
def test_positions_that_are_not_implemented_are_refused_by_name(key: str, rope: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LMConfig.from_dict({**SMALL, key: rope})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_parameters": DEFAULT, "rope_scaling": PUBLISHED}, "rope_parameters is .* but rope_scaling is"),
        ({"rope_parameters": PUBLISHED, "rope_scaling": {**PUBLISHED, "factor": 8}}, "must say the same"),
        ({"rope_parameters": PUBLISHED, "rope_theta": 5e5}, "rope_theta is 10000 in rope_parameters but 500000"),
        (
            {"rope_parameters": PUBLISHED, "original_max_position_embeddings": 8192},
            "original_max_position_embeddings is 4096 in rope_parameters but 8192",
        ),
    ],
)
def test_two_places_that_disagree_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LMConfig.from_dict({**SMALL, **values})


@pytest.mark.parametrize(
    ("stated", "rope", "positions"),
    [
        (4096, {}, 4096),
        (16_384, {"rope_parameters": PUBLISHED}, 16_384),
        (4096, {"rope_parameters": PUBLISHED}, 16_384),
        (8192, {"rope_parameters": PUBLISHED}, 8192),
        (131_072, {"rope_parameters": PUBLISHED}, 16_384),
    ],
)
def test_positions_reach_as_far_as_the_config_stretches_them(stated: int, rope: dict[str, Any], positions: int) -> None:
    assert LMConfig.from_dict({**SMALL, "max_position_embeddings": stated, **rope}).positions == positions


def test_angles_are_those_of_training_whatever_mode_first_asked_for_them() -> None:
    """Kept between calls: neither a device nor a mode that was set at first may stick to them."""
    yarn = Yarn(4.0, 123)
    with torch.device("meta"), torch.inference_mode():
        rotation(torch.zeros(1, 1, device="cpu"), 6, 777.0, yarn)
    cos, _ = rotation(torch.ones(1, 1), 6, 777.0, yarn)
    weight = torch.ones(6, requires_grad=True)
    (cos * weight).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, cos[0, 0, 0])
