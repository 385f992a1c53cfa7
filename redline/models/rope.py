"""Rotary position embedding (RoPE) of the language model: plain, or stretched by YaRN (arXiv 2309.00071).

A config asks for it under `rope_parameters` or, in older files, `rope_scaling`; `rope_from_dict` knows both. The
arithmetic follows `transformers` to the order of its float32 operations: far positions multiply every rounding by
thousands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.models.config_rules import check, flag, number, rules_of

ROPE_KEYS = ("rope_parameters", "rope_scaling")
ROPE_TYPES = ("default", "yarn")
_POSITIVE = number(1e12, 1e-6, above=False)
Positive = Annotated[float, _POSITIVE]
OptionalPositive = Annotated[float | None, _POSITIVE]


@dataclass(frozen=True)
class Yarn:
    """How far positions are stretched: fast angles stay as they were, slow ones turn `factor` times slower."""

    factor: Annotated[float, number(1e12, 1, above=False)]
    original_max_position_embeddings: Annotated[int, _POSITIVE]
    attention_factor: OptionalPositive = None
    """What cosines and sines are multiplied by; by default from `factor`, or from both mscales where they are given."""
    beta_fast: Positive = 32.0
    """Angles that turn more often than this within the original positions stay as they were."""
    beta_slow: Positive = 1.0
    """Angles that turn less often than this are stretched whole; between the two the share grows evenly."""
    mscale: OptionalPositive = None
    mscale_all_dim: OptionalPositive = None
    truncate: Annotated[bool, flag] = True
    """Whether the ends of that ramp are moved outwards to whole dimensions."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None:
                check(name, value, _RULES[name])
        if self.beta_fast < self.beta_slow:
            raise ConfigError(
                f"yarn: beta_fast is {self.beta_fast} and beta_slow {self.beta_slow}; beta_fast may not be the smaller"
            )

    @property
    def positions(self) -> int:
        """How many positions there are after stretching."""
        return int(self.original_max_position_embeddings * self.factor)

    @property
    def scale(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _attention_scale(self.factor, self.mscale) / _attention_scale(self.factor, self.mscale_all_dim)
        return _attention_scale(self.factor)


_RULES = rules_of(Yarn)


def _attention_scale(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_from_dict(
    values: Mapping[str, Any], default_theta: float, default_positions: int
) -> tuple[float, Yarn | None]:
    """The base and the stretching that a `text_config` asks for, under either key.

    `rope_theta` may also stand beside the key. Raises `ConfigError` for a type or a key that is not known, and where
    two places disagree.
    """
    given = {key: values[key] for key in ROPE_KEYS if values.get(key)} or {"text_config": {}}
    read = []
    for key, rope in given.items():
        if not isinstance(rope, Mapping):
            raise ConfigError(f"{key} is {rope!r}; an object with a rope_type is needed")
        types = [rope[name] for name in ("rope_type", "type") if rope.get(name) is not None] or ["default"]
        if types[0] not in ROPE_TYPES or types[-1] != types[0]:
            seen = " and ".join(dict.fromkeys(map(repr, types)))
            raise ConfigError(f"{key}: rope_type is {seen}; supported are {' and '.join(ROPE_TYPES)}")
        is_yarn = types[0] == "yarn"
        known = ("rope_type", "type", "rope_theta", "partial_rotary_factor", *(_RULES if is_yarn else ()))
        for name, value in rope.items():
            if name not in known and value is not None:
                raise ConfigError(
                    f"{key}: {name} is {value!r}, which rope_type {types[0]!r} does not use; known are "
                    f"{', '.join(known)}"
                )
        if rope.get("partial_rotary_factor") not in (None, 1):
            raise ConfigError(f"{key}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; only 1 is supported")
        theta = _unambiguous("rope_theta", key, rope, values, default_theta)
        check("rope_theta", theta, number(1e12, 1))
        read.append((float(theta), _yarn(key, rope, values, default_positions) if is_yarn else None))
    if read[0] != read[-1]:
        raise ConfigError(
            f"{' but '.join(f'{key} is {dict(rope)}' for key, rope in given.items())}; they must say the same: "
            "remove the one that is wrong"
        )
    return read[0]


def _yarn(key: str, rope: Mapping[str, Any], values: Mapping[str, Any], default_positions: int) -> Yarn:
    """The settings as `transformers` reads them: a 0 among these is the default, and null does not truncate."""
    zero_is_default = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    given = {name: rope[name] for name in _RULES if rope.get(name) is not None}
    settings = {name: value for name, value in given.items() if value or name not in zero_is_default}
    if "truncate" in rope and rope["truncate"] is None:
        settings["truncate"] = False
    positions = values.get("max_position_embeddings") or default_positions
    check("max_position_embeddings", positions, _POSITIVE)
    original = "original_max_position_embeddings"
    settings[original] = _unambiguous(original, key, rope, values, positions)
    check(original, settings[original], _POSITIVE)
    return Yarn(**{"factor": positions / settings[original]} | settings)


def _unambiguous(name: str, key: str, rope: Mapping[str, Any], values: Mapping[str, Any], default: Any) -> Any:
    """A setting that may stand under a key or beside it."""
    inside, beside = rope.get(name), values.get(name)
    if inside is not None and beside is not None and inside != beside:
        raise ConfigError(f"{name} is {inside!r} in {key} but {beside!r} beside it; remove one")
    return inside if inside is not None else default if beside is None else beside


def rope_to_dict(theta: float, yarn: Yarn | None) -> dict[str, Any]:
    """The `rope_parameters` of a config; `rope_from_dict` inverts it."""
    if yarn is None:
        return {"rope_theta": theta, "rope_type": "default"}
    stretched = {name: value for name, value in asdict(yarn).items() if value is not None}
    return {"rope_theta": theta, "rope_type": "yarn", **stretched}


@lru_cache(maxsize=16)
def _frequencies(head_dim: int, theta: float, yarn: Yarn | None, device: torch.device) -> Tensor:
    """Radians per position of each pair of dimensions: [head_dim / 2] float32, computed on the CPU for all devices."""
    # A tensor that is kept must not belong to whichever mode or device is set when it is first needed.
    with torch.inference_mode(False), torch.device("cpu"):
        powers = theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
        plain = 1.0 / powers
        if yarn is None:
            return plain.to(device)
        # The dimensions whose angles turn so often within the original positions.
        low, high = (
            head_dim * math.log(yarn.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (yarn.beta_fast, yarn.beta_slow)
        )
        if yarn.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        ramp = (torch.arange(head_dim // 2).float() - low) / (high - low if high != low else 0.001)
        kept = 1 - ramp.clamp(0, 1)
        return (1.0 / (yarn.factor * powers) * (1 - kept) + plain * kept).to(device)


def rotation(positions: Tensor, head_dim: int, theta: float, yarn: Yarn | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions: positions [B, L] -> two tensors [B, 1, L, head_dim], float32."""
    angles = positions[..., None].float() * _frequencies(head_dim, theta, yarn, positions.device)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    scale = yarn.scale if yarn else 1.0
    return angles.cos() * scale, angles.sin() * scale
