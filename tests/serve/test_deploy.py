"""What the files in deploy/ start is a command that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from redline.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "redline.service"])
def test_every_option_and_variable_is_one_of_the_server(name: str) -> None:
    command = typer.main.get_command(app).get_command(typer.Context(typer.main.get_command(app)), "serve")  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    variables = {parameter.envvar for parameter in command.params} | {"REDLINE_DATA"}
    text = (DEPLOY / name).read_text(encoding="utf-8")
    used = {flag for line in text.splitlines() if "redline" in line or "CMD" in line or "command:" in line
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}  # fmt: skip
    others = {
        "--start-period",
        "--rm",
        "--read-only",
        "--tmpfs",
        "--system",
        "--uid",
        "--home-dir",
        "--now",
        "--no-cache-dir",
        "--from",
    }
    assert used - others <= known and "--keys" in used
    assert set(re.findall(r"REDLINE_[A-Z]+", text)) <= variables
