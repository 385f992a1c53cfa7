"""Rotary positions of the language model: plain, or stretched by YaRN to more positions (arXiv 2309.00071).

A config asks for them under `rope_parameters` or, in older files, `rope_scaling`; `read` knows both. The arithmetic
follows `transformers` to the order of its float32 operations: far positions multiply every rounding by thousands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from redline.errors import ConfigError
from redline.models.config_rules import shown

KEYS = ("rope_parameters", "rope_scaling")
TYPES = ("default", "yarn")
YARN_KEYS = (
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
)

TINY, HUGE = 1e-6, 1e12


@dataclass(frozen=True)
class Yarn:
    """How far positions are stretched: fast angles stay as they were, slow ones turn `factor` times slower."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    """What cosines and sines are multiplied by; by default from `factor`, or from both mscales where they are given."""
    beta_fast: float = 32.0
    """Angles that turn more often than this within the original positions stay as they were."""
    beta_slow: float = 1.0
    """Angles that turn less often than this are stretched whole; between the two the share grows evenly."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    """Whether the ends of that ramp are moved outwards to whole dimensions."""

    def __post_init__(self) -> None:
        if not isinstance(self.truncate, bool):
            raise ConfigError(f"yarn: truncate is {self.truncate!r}; allowed are true and false")
        for name, value in asdict(self).items():
            if value is not None and name != "truncate":
                _above("yarn: " + name, value, 0)
        if self.factor < 1:
            raise ConfigError(f"yarn: factor is {self.factor}; allowed are 1 and above")
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
            return _sharpening(self.factor, self.mscale) / _sharpening(self.factor, self.mscale_all_dim)
        return _sharpening(self.factor)


def _sharpening(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _above(name: str, value: Any, least: float) -> None:
    """Raises `ConfigError` unless it is a number above `least` with which float32 can calculate."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not max(least, TINY) < value <= HUGE:
        raise ConfigError(f"{name} is {shown(value)}; allowed are numbers above {least:g} (from {TINY:g} to {HUGE:g})")


def read(values: Mapping[str, Any], default_theta: float, default_positions: int) -> tuple[float, Yarn | None]:
    """The base and the stretching that a `text_config` asks for, under either key.

    `rope_theta` may also stand beside the key. Raises `ConfigError` for a type or a key that is not known, and where
    two places say different things.
    """
    given = {key: values[key] for key in KEYS if values.get(key)}
    for key, rope in given.items():
        if not isinstance(rope, Mapping):
            raise ConfigError(f"{key} is {rope!r}; an object with a rope_type is needed")
    found = {key: _read_one(key, rope, values, default_theta, default_positions) for key, rope in given.items()}
    if len(found) == 2 and found[KEYS[0]] != found[KEYS[1]]:
        raise ConfigError(
            f"{KEYS[0]} is {dict(given[KEYS[0]])} but {KEYS[1]} is {dict(given[KEYS[1]])}; they must say the same: "
            "remove the one that is wrong"
        )
    return next(iter(found.values())) if found else (_theta("text_config", {}, values, default_theta), None)


def _read_one(
    key: str, rope: Mapping[str, Any], values: Mapping[str, Any], default_theta: float, default_positions: int
) -> tuple[float, Yarn | None]:
    types = [rope[name] for name in ("rope_type", "type") if rope.get(name) is not None] or ["default"]
    if types[0] not in TYPES or types[-1] != types[0]:
        seen = " and ".join(dict.fromkeys(map(repr, types)))
        raise ConfigError(f"{key}: rope_type is {seen}; supported are {' and '.join(TYPES)}")
    known = ("rope_type", "type", "rope_theta", "partial_rotary_factor", *(YARN_KEYS if types[0] == "yarn" else ()))
    if unknown := sorted(name for name in rope if name not in known and rope[name] is not None):
        raise ConfigError(
            f"{key}: {unknown[0]} is {rope[unknown[0]]!r}, which rope_type {types[0]!r} does not use; known are "
            f"{', '.join(known)}"
        )
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise ConfigError(f"{key}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; only 1 is supported")
    theta = _theta(key, rope, values, default_theta)
    return theta, _yarn(key, rope, values, default_positions) if types[0] == "yarn" else None


def _yarn(key: str, rope: Mapping[str, Any], values: Mapping[str, Any], default_positions: int) -> Yarn:
    """The settings as `transformers` reads them: a 0 among these is the default, and null does not truncate."""
    zero_is_default = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    given = {name: rope[name] for name in YARN_KEYS if rope.get(name) is not None}
    settings = {name: value for name, value in given.items() if value or name not in zero_is_default}
    if "truncate" in rope and rope["truncate"] is None:
        settings["truncate"] = False
    positions = values.get("max_position_embeddings") or default_positions
    original, beside = "original_max_position_embeddings", values.get("original_max_position_embeddings")
    if beside is not None and settings.setdefault(original, beside) != beside:
        raise ConfigError(f"{original} is {settings[original]!r} in {key} but {beside!r} beside it; remove one")
    _above("max_position_embeddings", positions, 0)
    _above(original, settings.setdefault(original, positions), 0)
    settings.setdefault("factor", positions / settings[original])
    return Yarn(**settings)


def _theta(key: str, rope: Mapping[str, Any], values: Mapping[str, Any], default: float) -> float:
    inside, beside = rope.get("rope_theta"), values.get("rope_theta")
    if inside is not None and beside is not None and inside != beside:
        raise ConfigError(f"rope_theta is {inside!r} in {key} but {beside!r} beside it; remove one")
    theta = inside if inside is not None else default if beside is None else beside
    _above("rope_theta", theta, 1)
    return float(theta)


def written(theta: float, yarn: Yarn | None) -> dict[str, Any]:
    """The `rope_parameters` of a config; `read` inverts it."""
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
        low, high = (_dimension(turns, head_dim, theta, yarn) for turns in (yarn.beta_fast, yarn.beta_slow))
        if yarn.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        ramp = (torch.arange(head_dim // 2).float() - low) / (high - low if high != low else 0.001)
        kept = 1 - ramp.clamp(0, 1)
        return (1.0 / (yarn.factor * powers) * (1 - kept) + plain * kept).to(device)


def _dimension(turns: float, head_dim: int, theta: float, yarn: Yarn) -> float:
    """The dimension whose angle turns so often within the original positions."""
    wavelength = yarn.original_max_position_embeddings / (turns * 2 * math.pi)
    return (head_dim * math.log(wavelength)) / (2 * math.log(theta))


def rotation(positions: Tensor, head_dim: int, theta: float, yarn: Yarn | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions: positions [B, L] -> two tensors [B, 1, L, head_dim], float32."""
    angles = positions[..., None].float() * _frequencies(head_dim, theta, yarn, positions.device)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    scale = yarn.scale if yarn else 1.0
    return angles.cos() * scale, angles.sin() * scale
