"""What a value of a configuration may be: small rules that tell what is allowed."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from redline.errors import ConfigError

ValueRule = Callable[[Any], str | None]
"""Gives None for a value that is allowed, and otherwise what is allowed."""
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 3, 80, 80, 40


def shown(value: Any) -> str:
    """A value in an error message, cut where it is long, and as quickly where it is very long."""
    return SHORT.repr(value)


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check(name: str, value: Any, rule: ValueRule) -> None:
    """Raise `ConfigError` for a value that a rule does not allow."""
    allowed = rule(value)
    require(allowed is None, f"{name} is {shown(value)}; allowed are {allowed}")


def rules_of(config: type) -> dict[str, ValueRule]:
    """The rules with which the fields of a config dataclass are annotated, by name."""
    hints = get_type_hints(config, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def count(most: int, least: int = 1) -> ValueRule:
    """A whole number."""
    allowed = f"whole numbers from {least} to {most}"
    return lambda value: None if type(value) is int and least <= value <= most else allowed


def number(most: float, least: float = 0.0, above: bool = True) -> ValueRule:
    """A finite number above `least`, or from it on."""
    allowed = f"numbers {'above' if above else 'from'} {least:g} to {most:g}"

    def rule(value: Any) -> str | None:
        if type(value) not in (int, float) or (type(value) is float and not math.isfinite(value)):
            return allowed
        return None if (least < value or (not above and value == least)) and value <= most else allowed

    return rule


def only(*values: Any) -> ValueRule:
    """One of these; others exist, and are not built here."""
    allowed = ", ".join(map(repr, values))
    return lambda value: None if any(type(value) is type(known) and value == known for known in values) else allowed


def items(rule: ValueRule, most: int, least: int = 0) -> ValueRule:
    """A list."""

    def check(values: Any) -> str | None:
        if not isinstance(values, (list, tuple)) or not least <= len(values) <= most:
            return f"lists of {least} to {most} items"
        return next((f"lists of {allowed}" for allowed in map(rule, values) if allowed), None)

    return check


def either(*rules: ValueRule) -> ValueRule:
    """Whatever one of the rules allows."""

    def check(value: Any) -> str | None:
        refusals = [rule(value) for rule in rules]
        return None if None in refusals else ", or ".join(filter(None, refusals))

    return check


def flag(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true and false"


def name(value: Any) -> str | None:
    """A short text."""
    return None if isinstance(value, str) and 0 < len(value) <= 128 else "texts of up to 128 characters"


def part(value: Any) -> str | None:
    """An object."""
    return None if isinstance(value, Mapping) else "objects"
