"""A sandbox for foreign chat templates: Jinja's own, with a budget.

A chat template from the hub is a program. Jinja's sandbox keeps it from everything outside, but lets it run for ever
and fill the memory; so here every expression is charged with the size of its value.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sized
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from redline.errors import CheckpointError

MAX_SOURCE = 65_536
"""Characters in a template."""
MAX_VALUE = 8_192
"""Characters or items in one value inside a template, and in what it writes."""
BUDGET = 1_000_000
"""Sum of the sizes of all values that a template computes, about a second; a chat template needs some thousands."""
STEP = 8
"""What a value costs besides its size: the time of evaluating it."""
FILTERS = (
    "capitalize count d default dictsort first float int items join last length list lower map reject rejectattr "
    "replace reverse select selectattr sort string title trim unique upper"
)
METHODS = {
    str: "capitalize count endswith find index isdigit join lower lstrip replace rsplit rstrip split splitlines "
    "startswith strip title upper",
    dict: "get items keys values",
    list: "count index",
    tuple: "count index",
}
FIXED_DAY = datetime(2024, 12, 19)
"""The day that `strftime_now` tells: that of the model card, so that one prompt is always the same."""


class _Namespace(Namespace):
    """Jinja's `namespace` without names that begin with an underscore, and without its contents in its text."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        Namespace.__init__(self)
        for name, value in dict(*rest, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise TemplateError(f"a namespace cannot have the attribute {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment that transformers gives to chat templates, with a budget."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.left = BUDGET
        self.filters = {name: self._charged(self.filters[name]) for name in FILTERS.split()}
        self.filters["tojson"] = self._charged(_to_json)
        self.globals = {
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise,
            "range": safe_range,
            "strftime_now": _strftime_now,
        }

    def charge(self, value: Any) -> Any:
        """Pay for a value and pass it on."""
        size = _size(value)
        self.left -= STEP + size
        if size > MAX_VALUE or self.left < 0:
            raise TemplateError(f"it runs too long, or writes more than {MAX_VALUE} characters")
        return value

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # also carries over what Jinja passes to it
        def charged(*args: Any, **kwargs: Any) -> Any:
            return self.charge(function(*args, **kwargs))

        return charged

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        allowed = next((names.split() for kind, names in METHODS.items() if isinstance(obj, kind)), None)
        is_open = isinstance(obj, (Namespace, LoopContext)) if allowed is None else attr in allowed
        return is_open and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to {attribute!r} of a {type(obj).__name__} is not allowed")

    def wrap_str_format(self, value: Any) -> None:
        """Nothing: `format` can pad to any width, so it is refused like every attribute that is not listed."""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        small = all(isinstance(side, (int, float)) and abs(side) <= BUDGET for side in (left, right))
        if operator == "**" or not small:
            raise TemplateError(f"{operator} is for small numbers only")
        return super().call_binop(context, operator, left, right)


class _Metered(NodeTransformer):
    """Puts `environment.charge(...)` around every expression, the text between the tags included."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = self.generic_visit(node, *args, **kwargs)
        if not isinstance(node, nodes.Expr) or isinstance(node, (nodes.NSRef, nodes.Slice)):
            return node
        if getattr(node, "ctx", "load") != "load" or (isinstance(node, nodes.Filter) and node.node is None):
            return node
        charge = nodes.EnvironmentAttribute("charge", lineno=node.lineno)
        return nodes.Call(charge, [node], [], None, None, lineno=node.lineno)


def render_template(source: str, values: Mapping[str, Any], origin: str | Path) -> str:
    """What a template writes; raises `CheckpointError`."""
    if len(source) > MAX_SOURCE:
        raise CheckpointError(f"{origin}: the chat template has {len(source)} characters; allowed are {MAX_SOURCE}")
    try:
        sandbox = _Sandbox()
        text = sandbox.from_string(_Metered().visit(sandbox.parse(source))).render(values)  # type: ignore[arg-type]
        sandbox.charge(text)
    except Exception as error:  # whatever foreign code can raise
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(
            f"{origin}: the chat template cannot be used ({reason}); repair it, or remove it to use the model card's"
        ) from error
    return text


def _size(value: Any) -> int:
    """Characters and items of a value, the inner ones included; counting stops beyond the limit."""
    total, stack = 0, [value]
    while stack and total + len(stack) <= MAX_VALUE:
        item = stack.pop()
        if isinstance(item, (list, tuple, dict)):
            total += 1
            stack += [*item.keys(), *item.values()] if isinstance(item, dict) else item
        elif isinstance(item, int):
            total += item.bit_length() // 8
        else:
            total += len(item) if isinstance(item, Sized) else 1
    return total + len(stack)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    if re.search(r"%(?!-?[A-Za-z]|%)", pattern):  # a width would be obeyed
        raise TemplateError(f"strftime_now cannot write {pattern!r}")
    return FIXED_DAY.strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 8):
        raise TemplateError(f"tojson has indent {indent!r}; allowed are 0 to 8")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
