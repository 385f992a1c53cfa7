"""The configuration of the language model, and how a configuration is made of what a `config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from redline.errors import ConfigError
from redline.models import rope

C = TypeVar("C")


def known(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build a config dataclass from the keys it knows."""
    names = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    kept = {key: value for key, value in values.items() if key in names and value is not None}
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class LMConfig:
    """The Granite language model; the defaults are the published granite-4.0-1b lineage."""

    vocab_size: int = 100_352
    hidden_size: int = 2048
    intermediate_size: int = 4096
    num_hidden_layers: int = 40
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    attention_multiplier: float = 0.0078125
    embedding_multiplier: float = 12.0
    residual_multiplier: float = 0.22
    logits_scaling: float = 8.0
    rope_theta: float = 10_000.0
    yarn: rope.Yarn | None = None
    pad_token_id: int = 100_256
    eos_token_id: int = 100_257
    """The end of a text, which training writes."""
    other_eos_token_ids: tuple[int, ...] = ()
    """More tokens that end a text."""
    bos_token_id: int = 100_257
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads",
        )
        require(
            self.yarn is None or isinstance(self.yarn, rope.Yarn),
            f"yarn is {self.yarn!r}; rotary positions are stretched by rope_parameters in a config.json only",
        )
        require(self.head_dim % 2 == 0, f"head_dim is {self.head_dim}; it must be even, because positions turn pairs")
        require(
            all(0 <= id < self.vocab_size for id in self.eos_token_ids),
            f"eos_token_id is {list(self.eos_token_ids)}; allowed are 0 to {self.vocab_size - 1}",
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        return self.eos_token_id, *self.other_eos_token_ids

    @property
    def positions(self) -> int:
        """The most positions it can tell apart: those of the config, or the original ones stretched by YaRN."""
        if self.yarn is None:
            return self.max_position_embeddings
        # A config may state the stretched number, or still the original one.
        stated = self.max_position_embeddings
        longer = stated > self.yarn.original_max_position_embeddings
        return min(stated, self.yarn.positions) if longer else self.yarn.positions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Read a Granite `text_config`, whose rotary positions may be asked for in any of the ways of `rope.read`."""
        theta, yarn = rope.read(values, cls.rope_theta, cls.max_position_embeddings)
        given = {key: value for key, value in values.items() if value is not None}
        found = {**given, "rope_theta": theta, "yarn": yarn}
        if "head_dim" not in found and "hidden_size" in found and "num_attention_heads" in found:
            found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
        if isinstance(found.get("eos_token_id"), (list, tuple)):
            found["eos_token_id"], *found["other_eos_token_ids"] = dict.fromkeys(found["eos_token_id"])
        return known(cls, found)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if values.pop("other_eos_token_ids"):
            values["eos_token_id"] = list(self.eos_token_ids)
        values["rope_parameters"] = rope.written(values.pop("rope_theta"), self.yarn)
        del values["yarn"]
        return {
            "model_type": "granite",
            **values,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
        }
